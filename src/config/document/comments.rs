//! Comments in a JSON text: `//` to the end of the line, and `/* */`.
//!
//! They are overwritten with spaces before the text is parsed, so every value keeps its place.

/// The text with a space for each byte of a comment, or the offset of a comment that is not closed.
pub(super) fn blank_comments(text: &str) -> Result<String, usize> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(length) = before_comment(rest) {
        let (kept, comment) = rest.split_at(length);
        out.push_str(kept);
        let length = if comment.starts_with("//") {
            comment.find(['\n', '\r']).unwrap_or(comment.len())
        } else {
            let end = comment[2..].find("*/");
            2 + end.ok_or(out.len())? + 2
        };
        let (comment, after) = comment.split_at(length);
        for char in comment.chars() {
            match char {
                '\n' | '\r' => out.push(char),
                _ => out.extend(std::iter::repeat_n(' ', char.len_utf8())),
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// How many bytes stand before the first comment that is not inside a string.
fn before_comment(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at += string_length(&bytes[at..])?,
            b'/' if matches!(bytes.get(at + 1), Some(b'/' | b'*')) => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// The length of the string that begins here, with its quotes; none when it is not closed.
pub(super) fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_become_spaces_and_nothing_moves() {
        for (text, blanked) in [
            ("", ""),
            ("{}", "{}"),
            ("{} // a", "{}     "),
            ("// a\n{}", "    \n{}"),
            ("// a\r\n{}", "    \r\n{}"),
            ("1 /* a */ 2", "1         2"),
            ("/**/1", "    1"),
            ("/***/1", "     1"),
            ("/* \n * a\n */1", "   \n    \n   1"),
            ("/*é*/1", "      1"),
            ("// /* \n1", "      \n1"),
            ("/* // */1", "        1"),
            ("/* /* */1", "        1"),
            ("/* \" */1", "       1"),
            ("1/2", "1/2"),
            ("/", "/"),
        ] {
            assert_eq!(blank_comments(text).as_deref(), Ok(blanked), "{text:?}");
        }
    }

    #[test]
    fn nothing_inside_a_string_is_a_comment() {
        for text in [
            r#""http://a""#,
            r#""/* a */""#,
            r#""\"// a""#,
            r#""\\" "#,
            r#"{"a//b": "/*", "c": "*/"}"#,
            r#""// not closed"#,
            r#""\"#,
        ] {
            assert_eq!(blank_comments(text).as_deref(), Ok(text));
        }
        assert_eq!(blank_comments(r#""\\"//x"#).as_deref(), Ok(r#""\\"   "#));
    }

    #[test]
    fn a_comment_that_is_not_closed_is_found_where_it_opens() {
        assert_eq!(blank_comments("{} /* a"), Err(3));
        assert_eq!(blank_comments("/*/"), Err(0));
        assert_eq!(blank_comments("/*é*/ /*"), Err(7));
    }
}
