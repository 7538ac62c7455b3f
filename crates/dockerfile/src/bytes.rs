//! Sizes as people write them (`1g`, `64MB`, `1.5k`): units are powers of 1024.

/// Parses a size to bytes.
pub(crate) fn parse_size(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, unit) = text.split_at(end);
    let number: f64 = number.trim().parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    if !(0.0..9.2e18).contains(&bytes) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be below 2^63")]
    let bytes = bytes as i64;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, size) in
            [("100", 100), ("1k", 1024), ("1.5m", 1_572_864), ("2GB", 2 << 30), ("1 MiB", 1 << 20)]
        {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "x", "1x", "-1", "1e400g", "99999999p"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
