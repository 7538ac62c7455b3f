//! Credentials in URLs are for those who use the URL, not for those who read of it.

/// A value with `user:password@` of a URL taken out, as credentials must not be kept.
pub(crate) fn without_password(value: &str) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace());
        let authority = &after[..end.unwrap_or(after.len())];
        match authority.rfind('@') {
            Some(at) if authority[..at].contains(':') => {
                out.push_str("xxxxx:xxxxx");
                rest = &after[at..];
            }
            _ => rest = after,
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_kept() {
        for (value, kept) in [
            ("https://u:secret@host/x.git#main:dir", "https://xxxxx:xxxxx@host/x.git#main:dir"),
            ("https://u:p%40:q@h", "https://xxxxx:xxxxx@h"),
            ("a=http://u:p@h/,b=http://u:p@g/", "a=http://xxxxx:xxxxx@h/,b=http://xxxxx:xxxxx@g/"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("user@host:x", "user@host:x"),
            ("https://host/a@b:c", "https://host/a@b:c"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_password(value), kept);
        }
    }
}
