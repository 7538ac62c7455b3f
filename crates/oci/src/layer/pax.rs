//! PAX records: `<length> <key>=<value>\n`, the length counting itself.

use std::collections::BTreeMap;

/// Prefix of keys that carry extended attributes.
pub(super) const XATTR: &str = "SCHILY.xattr.";

/// The records of one extended header, in order.
pub(super) fn parse(mut data: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
        if length <= space + 2 || length > data.len() || data[length - 1] != b'\n' {
            return None;
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let key = std::str::from_utf8(&record[..equals]).ok().filter(|key| !key.is_empty())?;
        records.push((key.to_owned(), record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    Some(records)
}

/// Records sorted by key.
pub(super) fn format(records: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        // " ", "=", "\n" and the digits of the length itself, which may push the length to one more digit.
        let bare = key.len() + value.len() + 3;
        let mut length = bare + bare.to_string().len();
        if length.to_string().len() + bare != length {
            length = bare + length.to_string().len();
        }
        out.extend_from_slice(format!("{length} {key}=").as_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

/// Seconds with an optional fraction, as nanoseconds; digits beyond the ninth are cut, times out of range are
/// clamped.
pub(super) fn parse_time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: i64 = format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().ok()?;
    let signed = if whole.starts_with('-') { -nanos } else { nanos };
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(signed))
}

/// Nanoseconds as seconds with a fraction without trailing zeros.
pub(super) fn format_time(ns: i64) -> String {
    let (seconds, nanos) = (ns.unsigned_abs() / 1_000_000_000, ns.unsigned_abs() % 1_000_000_000);
    let sign = if ns < 0 { "-" } else { "" };
    match nanos {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{nanos:09}").trim_end_matches('0').to_owned(),
    }
}
