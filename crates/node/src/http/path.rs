//! The trailing parameter of a path: a function's name or a request id, slashes included.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The names that `raw`, the rest of a path, may stand for, the likeliest first.
///
/// The original decodes percent escapes, except in a path with an ambiguous one (`%2F`), where the
/// raw text is the name. Clients that encode properly mean the decoded text there too, so that is
/// the second candidate.
pub(super) fn names(raw: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let decoded = percent_decode_str(raw).decode_utf8_lossy();
    let ambiguous = raw
        .as_bytes()
        .windows(3)
        .any(|escape| escape.eq_ignore_ascii_case(b"%2f"));
    let first = if ambiguous {
        Some(Cow::Borrowed(raw))
    } else {
        None
    };
    first.into_iter().chain([decoded])
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn escapes_are_decoded_and_ambiguous_ones_tried_raw_first() {
        let of = |raw: &str| names(raw).map(Into::into).collect::<Vec<String>>();
        assert_eq!(of("plain"), ["plain"]);
        assert_eq!(of("a/b c"), ["a/b c"]);
        assert_eq!(of("a%20b"), ["a b"]);
        assert_eq!(of("%C3%BC"), ["ü"]);
        assert_eq!(of("a%2Fb"), ["a%2Fb", "a/b"]);
        assert_eq!(of("100%"), ["100%"]);
    }
}
