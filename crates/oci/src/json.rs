//! JSON as Go's `encoding/json` writes it, so that digests of what we write equal upstream's.

use serde::Serialize;

/// Compact JSON with Go's escapes: `<`, `>`, `&`, U+2028 and U+2029 inside strings are written as `\uXXXX`.
///
/// Errors: as `serde_json` (maps with keys that are not strings).
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    Ok(escape(&serde_json::to_vec(value)?))
}

/// Like [`to_vec`], indented by two spaces as `json.MarshalIndent(v, "", "  ")` does.
pub fn to_vec_indent<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    Ok(escape(&serde_json::to_vec_pretty(value)?))
}

/// JSON text with other white space: indented by two spaces, fields in the order in which they were. What is between
/// quotes stays as it is. Text that is not JSON comes out as something that is not JSON either.
pub fn indented(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    // An opening bracket waits for what follows: empty ones stay on their line.
    let mut opened = false;
    for &byte in text {
        if in_string {
            out.push(byte);
            (in_string, escaped) = (byte != b'"' || escaped, byte == b'\\' && !escaped);
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        if std::mem::take(&mut opened) && !closes {
            depth += 1;
            line(&mut out, depth);
        } else if closes && !matches!(out.last(), Some(b'{' | b'[')) {
            depth = depth.saturating_sub(1);
            line(&mut out, depth);
        }
        out.push(byte);
        match byte {
            b'{' | b'[' => opened = true,
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            b'"' => in_string = true,
            _ => {}
        }
    }
    out
}

/// JSON text without white space and with Go's escapes, fields in the order in which they were, which is what Go makes of
/// text that it was given. Text that is not JSON comes out as something that is not JSON either.
pub fn compacted(text: &[u8]) -> Vec<u8> {
    let (mut in_string, mut escaped) = (false, false);
    let kept = text.iter().copied().filter(|&byte| {
        if in_string {
            (in_string, escaped) = (byte != b'"' || escaped, byte == b'\\' && !escaped);
            return true;
        }
        in_string = byte == b'"';
        !byte.is_ascii_whitespace()
    });
    escape(&kept.collect::<Vec<u8>>())
}

/// The characters below occur in JSON text inside strings only, so a plain replacement is right.
fn escape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        match byte {
            b'<' => out.extend_from_slice(b"\\u003c"),
            b'>' => out.extend_from_slice(b"\\u003e"),
            b'&' => out.extend_from_slice(b"\\u0026"),
            0xe2 if tail.starts_with(&[0x80, 0xa8]) || tail.starts_with(&[0x80, 0xa9]) => {
                out.extend_from_slice(if tail[1] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                rest = &tail[2..];
                continue;
            }
            other => out.push(other),
        }
        rest = tail;
    }
    out
}

/// Serde helper: what Go writes for a nil slice is `null`; read it as empty.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    use serde::Deserialize;
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compacted_text_keeps_what_strings_hold_and_the_order_of_fields() {
        let text = br#" { "b" : [ 1.0 , "a \" ] " ] , "a" : "x y\\" , "<" : null } "#;
        let expected = r#"{"b":[1.0,"a \" ] "],"a":"x y\\","\u003c":null}"#;
        assert_eq!(String::from_utf8(compacted(text)).unwrap(), expected);
    }

    #[test]
    fn indenting_keeps_order_and_strings() {
        let text = br#"{"b":[1,{"x":"a, [\"{"}],"a":{},"e":[],"c":"\\"}"#;
        let expected = "{\n  \"b\": [\n    1,\n    {\n      \"x\": \"a, [\\\"{\"\n    }\n  ],\n  \"a\": {},\n  \"e\": [],\n  \"c\": \"\\\\\"\n}";
        assert_eq!(String::from_utf8(indented(text)).unwrap(), expected);
        assert_eq!(indented(expected.as_bytes()), expected.as_bytes());
    }

    #[test]
    fn escapes_are_those_of_go() {
        let text = to_vec("a<b>&\u{2028}é\u{2029}\n").unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), r#""a\u003cb\u003e\u0026\u2028é\u2029\n""#);
    }

    #[test]
    fn indentation_is_that_of_go() {
        let value = serde_json::json!({"a": [], "b": [1], "c": {}});
        let text = String::from_utf8(to_vec_indent(&value).unwrap()).unwrap();
        assert_eq!(text, "{\n  \"a\": [],\n  \"b\": [\n    1\n  ],\n  \"c\": {}\n}");
    }
}
