//! Sizes and durations as upstream's configuration writes them.

use std::time::Duration;

use serde::Deserialize;

/// Bytes (`512MB`, `1.5GiB`, a number) or a share of the disk (`10%`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Size {
    Bytes(i64),
    Percent(f64),
}

impl Size {
    /// Parses a number with an optional unit; K, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: f64 =
            number.parse().map_err(|_| format!("`{text}` is not a size such as 512MB, 10GiB or 20%"))?;
        let factor: f64 = match unit.trim().to_ascii_lowercase().trim_end_matches('b') {
            "%" => return Ok(Self::Percent(number)),
            "" => 1.0,
            "k" => 1e3,
            "m" => 1e6,
            "g" => 1e9,
            "t" => 1e12,
            "ki" => 1024.0,
            "mi" => 1024.0 * 1024.0,
            "gi" => 1024.0 * 1024.0 * 1024.0,
            "ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            other => return Err(format!("unknown unit `{other}` in size `{text}`")),
        };
        Ok(Self::Bytes((number * factor) as i64))
    }

    /// In bytes, given the size of the disk.
    pub(crate) fn bytes(self, disk_bytes: u64) -> i64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (disk_bytes as f64 * percent / 100.0) as i64,
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(bytes) => Ok(Self::Bytes(bytes)),
            toml::Value::String(text) => Self::parse(&text).map_err(serde::de::Error::custom),
            other => Err(serde::de::Error::custom(format!("expected a size, found {}", other.type_str()))),
        }
    }
}

/// A number of seconds, or text such as `48h`, `1h30m`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// Parses Go's duration notation plus days.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let error = || format!("`{text}` is not a duration such as 48h, 30m or 10s");
        let (mut total, mut rest) = (0.0, text.trim());
        if let Ok(seconds) = rest.parse::<u64>() {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let number: f64 = rest[..digits].parse().map_err(|_| error())?;
            rest = &rest[digits..];
            let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            total += number
                * match &rest[..unit_len] {
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    "d" => 86400.0,
                    _ => return Err(error()),
                };
            rest = &rest[unit_len..];
        }
        Duration::try_from_secs_f64(total).map(Self).map_err(|_| error())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(seconds) if seconds >= 0 => Ok(Self(Duration::from_secs(seconds as u64))),
            toml::Value::String(text) => Self::parse(&text).map_err(serde::de::Error::custom),
            other => {
                Err(serde::de::Error::custom(format!("expected a duration, found {}", other.type_str())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(Size::parse("512MB"), Ok(Size::Bytes(512_000_000)));
        assert_eq!(Size::parse("1.5GiB"), Ok(Size::Bytes(1_610_612_736)));
        assert_eq!(Size::parse("42"), Ok(Size::Bytes(42)));
        assert_eq!(Size::parse("10%").map(|s| s.bytes(1000)), Ok(100));
        assert!(Size::parse("lots").is_err());
        assert!(Size::parse("3 parsecs").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(Span::parse("1h30m"), Ok(Span(Duration::from_secs(5400))));
        assert_eq!(Span::parse("60"), Ok(Span(Duration::from_secs(60))));
        assert!(Span::parse("soon").is_err());
        assert!(Span::parse("").is_err());
    }
}
