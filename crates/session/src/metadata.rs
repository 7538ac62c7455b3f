//! Lists of texts in request metadata.
//!
//! A key may have many values. If any value of a key cannot travel as it is, all values of the key are
//! percent-encoded and `<key>-encoded: 1` is set beside it. The decoder also takes `+` for a space, as the peer's does.

use std::str::FromStr;

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::SessionError;

/// Appends `values` under `key`.
pub(crate) fn append(map: &mut MetadataMap, key: &str, values: &[String]) -> Result<(), SessionError> {
    let encode = values.iter().any(|value| needs_encoding(value));
    for value in values {
        if encode {
            append_one(map, key, &percent_encode(value))?;
        } else {
            append_one(map, key, value)?;
        }
    }
    if encode {
        append_one(map, &format!("{key}-encoded"), "1")?;
    }
    Ok(())
}

/// Appends one value as it is.
pub(crate) fn append_one(map: &mut MetadataMap, key: &str, value: &str) -> Result<(), SessionError> {
    let bad = || SessionError::Metadata { key: key.chars().take(80).collect() };
    let name = AsciiMetadataKey::from_str(&key.to_ascii_lowercase()).map_err(|_| bad())?;
    map.append(name, AsciiMetadataValue::try_from(value).map_err(|_| bad())?);
    Ok(())
}

/// All values of `key`, decoded. Values that are not text are left out.
pub(crate) fn values(map: &MetadataMap, key: &str) -> Vec<String> {
    let flag = first(map, &format!("{key}-encoded"));
    let encoded = matches!(flag.as_deref(), Some("1" | "t" | "T" | "true" | "TRUE" | "True"));
    let texts = map.get_all(key).iter().filter_map(|value| value.to_str().ok());
    texts.map(|text| if encoded { percent_decode(text) } else { text.to_owned() }).collect()
}

/// The first value of `key` as it is.
pub(crate) fn first(map: &MetadataMap, key: &str) -> Option<String> {
    map.get(key).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn needs_encoding(value: &str) -> bool {
    // A header's value loses white space at its ends, and control characters are no header text.
    value.bytes().any(|b| !(b' '..=b'~').contains(&b)) || value.starts_with(' ') || value.ends_with(' ')
}

fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len() * 2);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(byte as char);
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|n| char::from(b"0123456789ABCDEF"[n as usize])));
        }
    }
    out
}

/// Malformed escapes and bytes that are not UTF-8 give an empty text, as at the peer's.
fn percent_decode(text: &str) -> String {
    let hex = |b: u8| (b as char).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let pair =
                    (bytes.get(at + 1).copied().and_then(hex), bytes.get(at + 2).copied().and_then(hex));
                let (Some(high), Some(low)) = pair else { return String::new() };
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_values_travel_as_they_are() {
        let mut map = MetadataMap::new();
        append(&mut map, "include-patterns", &["a%20b+c".into(), "!x y".into()]).unwrap();
        assert!(map.get("include-patterns-encoded").is_none());
        assert_eq!(values(&map, "include-patterns"), ["a%20b+c", "!x y"]);
    }

    #[test]
    fn the_peers_encoding_of_spaces_is_understood() {
        let mut map = MetadataMap::new();
        append_one(&mut map, "followpaths", "%C3%A9+x").unwrap();
        append_one(&mut map, "followpaths-encoded", "1").unwrap();
        assert_eq!(values(&map, "followpaths"), ["é x"]);
    }

    #[test]
    fn malformed_escapes_do_not_panic() {
        for bad in ["%", "%4", "%zz", "%ff", "%é9"] {
            assert_eq!(percent_decode(bad), "", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_round_trips(list in prop::collection::vec(any::<String>(), 0..4)) {
            let mut map = MetadataMap::new();
            append(&mut map, "exclude-patterns", &list).unwrap();
            prop_assert_eq!(values(&map, "exclude-patterns"), list);
        }
    }
}
