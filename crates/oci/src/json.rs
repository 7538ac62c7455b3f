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
