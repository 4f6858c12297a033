//! Indents JSON with tabs without touching anything else: keys keep their order, numbers their
//! digits, strings their escapes.

/// `text` indented. What is not JSON comes out as it is.
pub(crate) fn indent(text: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut chars = text.trim_end().chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                out.push(char);
                let mut escaped = false;
                for char in chars.by_ref() {
                    out.push(char);
                    if char == '"' && !escaped {
                        break;
                    }
                    escaped = char == '\\' && !escaped;
                }
            }
            '{' | '[' => {
                out.push(char);
                while chars.next_if(|next| next.is_whitespace()).is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(char);
            }
            ',' => {
                out.push(char);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            space if space.is_whitespace() => {}
            other => out.push(other),
        }
    }
    out.push_str(&text[text.trim_end().len()..]);
    out
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n('\t', depth));
}

#[cfg(test)]
mod tests {
    use super::indent;

    #[test]
    fn everything_but_space_is_kept() {
        let json = "{\"b\":[1,2.50,{}],\"a\":\"x:{,\\\"\",\"c\":[]}\n";
        let lines = "{\n\t\"b\": [\n\t\t1,\n\t\t2.50,\n\t\t{}\n\t],\n\t\"a\": \"x:{,\\\"\",\n\t\"c\": []\n}\n";
        assert_eq!(indent(json), lines);
        assert_eq!(indent("[]\n"), "[]\n");
    }

    #[test]
    fn what_is_not_json_is_left_alone() {
        for text in ["", "plain, text: here\n", "{\"cut\": [1, 2", "1 2"] {
            assert_eq!(indent(text), text);
        }
    }
}
