//! Numbers in header blocks.

/// Parses a numeric field: octal digits between spaces and NULs, or GNU's base 256. `None` if it is neither.
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => parse_binary(field),
        _ => parse_octal(field),
    }
}

fn parse_octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !blank(byte)) else { return Some(0) };
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    // After a NUL anything may stand (old tars); after a space only blanks.
    if rest.first() == Some(&b' ') && !rest.iter().all(blank) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian; the first bit only marks the form.
fn parse_binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = match (index, negative) {
            (0, true) => byte | 0x80,
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
        if i64::try_from(value).is_err() {
            return None;
        }
    }
    i64::try_from(value).ok()
}

/// Whether `value` can be written as octal digits with a NUL in a field of `width` bytes.
pub(super) fn fits_octal(width: usize, value: i64) -> bool {
    let bits = (width - 1) * 3;
    value >= 0 && (bits >= 63 || value < 1 << bits)
}

/// Writes octal digits with leading zeros and a NUL; 0 if it does not fit (an extended header has the truth).
pub(super) fn write_octal(field: &mut [u8], value: i64) {
    let value = if fits_octal(field.len(), value) { value } else { 0 };
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    field[digits] = 0;
}
