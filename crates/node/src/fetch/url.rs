//! URLs of code: only as much of them as fetching needs.

use std::fmt;

use hyper::Uri;

use super::FetchError;
use crate::code::Digest;

/// Longest URL, bytes: as long as common servers take.
const URL_BYTES_MAX: usize = 8192;

/// Where code is to be fetched from: an absolute `http` or `https` URL, perhaps with the digest
/// that the code must have: `https://example.org/code.zip#sha256=0123...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeUrl {
    pub(super) secure: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as written, for the header of the same name.
    pub(super) authority: String,
    path: String,
    query: Option<String>,
    digest: Option<Digest>,
}

impl CodeUrl {
    /// The URL that was sent instead of an archive, if `code` is one.
    pub fn sent(code: &[u8]) -> Option<&str> {
        let text = std::str::from_utf8(code).ok()?.trim();
        let (scheme, _) = text.split_once("://")?;
        let is_scheme = !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let printable = !text.contains(|char: char| char.is_whitespace() || char.is_control());
        (is_scheme && printable).then_some(text)
    }

    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let invalid = |problem: String| FetchError::Url { problem };
        if text.len() > URL_BYTES_MAX {
            return Err(invalid(format!("is longer than {URL_BYTES_MAX} bytes")));
        }
        let (text, fragment) = match text.split_once('#') {
            Some((text, fragment)) => (text, fragment),
            None => (text, ""),
        };
        let uri: Uri = text
            .parse()
            .map_err(|error| invalid(format!("is malformed: {error}")))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            scheme => {
                let scheme = scheme.unwrap_or_default();
                return Err(invalid(format!(
                    "has the scheme \"{scheme}\": only http and https are fetched"
                )));
            }
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(invalid("has a user's name in it, which is not sent".into()));
        }
        let host = uri.host().unwrap_or_default();
        // What is behind the host, brackets and all, can only be a port.
        let behind = authority.strip_prefix(host).unwrap_or_default();
        let port = match (behind, uri.port_u16()) {
            ("", _) => Some(if secure { 443 } else { 80 }),
            (_, port) => port.filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| invalid("has a port that is none".into()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(invalid("has no host".into()));
        }
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
            digest: digest(fragment).map_err(|()| {
                invalid("has a sha256 that is not 64 lower-case hexadecimal digits".into())
            })?,
        })
    }

    /// Whether `code` is what the URL announces, if it announces anything. Takes a while for large
    /// code: call it off the async threads.
    pub fn verify(&self, code: &[u8]) -> Result<(), FetchError> {
        let Some(wanted) = &self.digest else {
            return Ok(());
        };
        let found = Digest::of(code);
        if *wanted == found {
            return Ok(());
        }
        Err(FetchError::Digest {
            found: found.as_str().to_owned(),
        })
    }

    /// Where `location`, an absolute or relative reference, leads from here.
    pub(super) fn join(&self, location: &str) -> Result<Self, FetchError> {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = if self.secure { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.authority);
        let directory = self.path.rfind('/').map_or("/", |at| &self.path[..=at]);
        let url = if Self::sent(location.as_bytes()).is_some() {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{origin}{location}")
        } else if location.starts_with('?') {
            format!("{origin}{}{location}", self.path)
        } else {
            format!("{origin}{directory}{location}")
        };
        Self::parse(&url)
    }

    /// Path and query, for the request.
    pub(super) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// Without the query, where secrets are.
impl fmt::Display for CodeUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Other fragments mean nothing here and are ignored.
fn digest(fragment: &str) -> Result<Option<Digest>, ()> {
    match fragment.strip_prefix("sha256=") {
        Some(digest) => Digest::parse(digest).map(Some).map_err(|_| ()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> String {
        match CodeUrl::parse(text) {
            Ok(url) => format!("{} {} {} {}", url.secure, url.host, url.port, url.target()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn urls_are_read() {
        assert_eq!(parts("http://a.test/b.tar"), "false a.test 80 /b.tar");
        assert_eq!(parts("HTTPS://a.test:8443"), "true a.test 8443 /");
        assert_eq!(parts("http://[::1]:8080/x?y=1#z"), "false ::1 8080 /x?y=1");
        assert_eq!(parts("http://[::1]/"), "false ::1 80 /");
        for (wrong, word) in [
            ("ftp://a/b", "\"ftp\""),
            ("file:///etc/passwd", ""),
            ("http://", "malformed"),
            ("http:///x", ""),
            (concat!("http://", "user:secret@a.test/"), "user's name"),
            ("http://a.test:99999/", "port"),
            ("http://a.test:/", "port"),
            ("http://a.test:0/", "port"),
            ("http://a.test b/", "malformed"),
            ("http://a.test/#sha256=12", "sha256"),
            (&format!("http://a.test/{}", "x".repeat(9000)), "longer"),
        ] {
            let error = CodeUrl::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(word), "{wrong}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn archives_are_no_urls() {
        assert_eq!(
            CodeUrl::sent(b" http://a.test/b \n"),
            Some("http://a.test/b")
        );
        assert_eq!(CodeUrl::sent(b"ftp://a"), Some("ftp://a"));
        for other in [
            &b""[..],
            b"hello",
            b"://a",
            b"see http://a.test",
            b"x://\0\0",
            b"\xff://a",
        ] {
            assert_eq!(CodeUrl::sent(other), None);
        }
    }

    #[test]
    fn announced_digests_are_verified() {
        let verify = |fragment: &str| {
            let url = CodeUrl::parse(&format!("http://a.test/{fragment}")).unwrap();
            url.verify(b"abc").map_err(|error| error.to_string())
        };
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(verify(""), Ok(()));
        assert_eq!(verify("#chapter"), Ok(()));
        assert_eq!(verify(&format!("#sha256={right}")), Ok(()));
        let refused = verify(&format!("#sha256={}", "0".repeat(64)));
        assert!(refused.unwrap_err().contains(right));
    }

    #[test]
    fn redirects_are_joined() {
        let from = CodeUrl::parse("https://a.test:1/b/c?d").unwrap();
        for (location, expected) in [
            ("http://x.test/y", "http://x.test/y"),
            ("//x.test/y", "https://x.test/y"),
            ("/y", "https://a.test:1/y"),
            ("y?z", "https://a.test:1/b/y"),
            ("?z", "https://a.test:1/b/c"),
            ("http:/odd", "https://a.test:1/b/http:/odd"),
        ] {
            let joined = from.join(location).unwrap();
            assert_eq!(joined.to_string(), expected, "{location}");
        }
        assert_eq!(from.join("/y?z#f").unwrap().target(), "/y?z");
        assert!(from.join("file:///etc/passwd").is_err());
        assert!(from.join("gopher://x/").is_err());
    }
}
