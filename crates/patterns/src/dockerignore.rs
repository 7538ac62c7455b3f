use crate::path::clean;

/// The patterns of a `.dockerignore` file: one a line, trimmed, cleaned, without leading slash; lines that
/// begin with `#` and empty lines say nothing; a byte order mark is skipped. Invalid UTF-8 is replaced.
pub fn parse_dockerignore(text: &[u8]) -> Vec<String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    text.split('\n').filter(|line| !line.starts_with('#')).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<String> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let (sign, pattern) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if pattern.is_empty() {
        return Some(sign.to_owned());
    }
    let pattern = clean(pattern);
    let relative = pattern.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&pattern);
    Some(format!("{sign}{relative}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_trimmed_and_cleaned() {
        let text =
            b"\xef\xbb\xbf# comment\n\n  a/b/  \r\n/abs\n!/keep/\n! spaced \n #not a comment\n./x//y\n/\n!\n";
        let expected = ["a/b", "abs", "!keep", "!spaced", "#not a comment", "x/y", "/", "!"];
        assert_eq!(parse_dockerignore(text), expected);
    }

    #[test]
    fn an_empty_file_has_no_patterns() {
        assert!(parse_dockerignore(b"").is_empty());
        assert!(parse_dockerignore(b"\n\r\n   \n").is_empty());
    }
}
