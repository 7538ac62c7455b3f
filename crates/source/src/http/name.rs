//! Names of downloaded files. They come from servers and URLs, and become names in a directory of ours.

use percent_encoding::percent_decode_str;
use url::Url;

/// What a file is called if nothing names it.
const DEFAULT: &str = "download";
/// Longest name that file systems take.
const MAX_NAME: usize = 255;

/// The file's name: `given` by the build, else what the server says, else the last part of the URL's path.
pub(super) fn file_name(url: &Url, given: Option<&str>, disposition: Option<&str>) -> String {
    let from_url = || {
        let last = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        safe(&percent_decode(last))
    };
    given
        .and_then(safe)
        .or_else(|| disposition.and_then(disposition_name).and_then(|name| safe(&name)))
        .or_else(from_url)
        .unwrap_or_else(|| DEFAULT.to_owned())
}

/// The last component of a name, if it can be one.
fn safe(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let bad = matches!(last, "" | "." | "..") || last.len() > MAX_NAME || last.chars().any(char::is_control);
    (!bad).then(|| last.to_owned())
}

/// `filename*=UTF-8''…` before `filename="…"` (RFC 6266).
fn disposition_name(header: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in params(header) {
        match name.as_str() {
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                let (charset, _, text) = (parts.next()?, parts.next(), parts.next());
                if charset.eq_ignore_ascii_case("utf-8")
                    && let Some(text) = text
                {
                    return Some(percent_decode(text));
                }
            }
            "filename" => plain = Some(value),
            _ => {}
        }
    }
    plain
}

/// The parameters behind the disposition type.
fn params(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Some((_, mut rest)) = header.split_once(';') else { return found };
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', '\t', ';']).to_ascii_lowercase();
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            None => after.split_at(after.find(';').unwrap_or(after.len())),
            Some(quoted) => {
                let end = quoted
                    .char_indices()
                    .scan(false, |escaped, (at, c)| {
                        let ends = c == '"' && !*escaped;
                        *escaped = c == '\\' && !*escaped;
                        Some((at, ends))
                    })
                    .find(|(_, ends)| *ends);
                match end {
                    Some((at, _)) => (&quoted[..at], &quoted[at + 1..]),
                    None => return found,
                }
            }
        };
        found.push((name, value.trim().replace("\\\"", "\"")));
        rest = after;
    }
    found
}

/// Escapes resolved; what is no text then stays as it is.
fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(url: &str, given: Option<&str>, disposition: Option<&str>) -> String {
        file_name(&Url::parse(url).unwrap(), given, disposition)
    }

    #[test]
    fn names_come_from_the_build_the_server_or_the_url() {
        for (url, given, disposition, expected) in [
            ("http://h/a/b.tar.gz?x=y#z", None, None, "b.tar.gz"),
            ("http://h/a/", None, None, "a"),
            ("http://h", None, None, "download"),
            ("http://h/a%20b", None, None, "a b"),
            ("http://h/a%+fb", None, None, "a%+fb"),
            ("http://h/a", Some("given"), Some("attachment; filename=\"x\""), "given"),
            ("http://h/a", None, Some("attachment; filename=\"x y.txt\""), "x y.txt"),
            ("http://h/a", None, Some("attachment; filename=x.txt; size=3"), "x.txt"),
            ("http://h/a", None, Some("attachment; filename=\"x\"; filename*=UTF-8''%C3%A9"), "é"),
            ("http://h/a", None, Some("inline"), "a"),
        ] {
            assert_eq!(name(url, given, disposition), expected, "{url} {given:?} {disposition:?}");
        }
    }

    #[test]
    fn names_never_leave_the_directory() {
        for (url, disposition, expected) in [
            ("http://h/%2e%2e", None, "download"),
            ("http://h/a%2f..%2f..%2fetc%2fpasswd", None, "passwd"),
            ("http://h/a%00b", None, "download"),
            ("http://h/x", Some("attachment; filename=\"../../etc/passwd\""), "passwd"),
            ("http://h/x", Some("attachment; filename=\"..\""), "x"),
            ("http://h/x", Some("attachment; filename=\"a\\\\..\\\\b\""), "b"),
            ("http://h/x", Some("attachment; filename*=utf-8''..%2F..%2Fa"), "a"),
            ("http://h/x", Some("attachment; filename=\"unterminated"), "x"),
        ] {
            assert_eq!(name(url, None, disposition), expected, "{url} {disposition:?}");
        }
        assert_eq!(name("http://h/x", Some("a/../.."), None), "x");
        assert_eq!(name(&format!("http://h/{}", "x".repeat(300)), None, None), "download");
    }

    proptest::proptest! {
        #[test]
        fn any_header_gives_a_plain_name(header in ".{0,60}|[a-z;=\"\\\\%./*' ]{0,60}", path in "[a-z%0-9./]{0,30}") {
            let url = Url::parse(&format!("http://h/{path}")).unwrap();
            let name = file_name(&url, None, Some(&header));
            proptest::prop_assert!(!name.is_empty() && name != "." && name != "..");
            proptest::prop_assert!(!name.contains(['/', '\0']) && name.len() <= 255);
        }
    }
}
