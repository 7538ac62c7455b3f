use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::json::null_as_default;

/// An operating system and a processor, as OCI names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Processor, by Go's names (`amd64`, `arm64`).
    pub architecture: String,
    /// Operating system, by Go's names (`linux`).
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_version: String,
    /// Demanded features of the operating system.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
    /// Variant of the processor (`v7`).
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub variant: String,
}

/// The text names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform `{text}`: {reason}")]
pub struct ParsePlatformError {
    text: String,
    reason: &'static str,
}

const KNOWN_OS: [&str; 15] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
];

const KNOWN_ARCH: [&str; 22] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "wasm",
];

impl Platform {
    /// `os/architecture`, without a variant.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }
    }

    /// The platform that this program runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        let os = if std::env::consts::OS == "macos" { "darwin" } else { std::env::consts::OS };
        Self::new(os, architecture).normalize()
    }

    /// The variants of the host's architecture that its processor runs, lowest first: the levels 2 to 4 of the x86-64
    /// psABI. Empty elsewhere.
    pub fn host_variants() -> Vec<Self> {
        let host = Self::host();
        let variant = |level: u32| Self { variant: format!("v{level}"), ..host.clone() };
        (2..=host_level()).map(variant).collect()
    }

    /// Parses a specifier: `os`, `architecture`, `os/architecture` or `os/architecture/variant`, normalised; what
    /// is missing is the host's. An OS version may follow the OS in parentheses.
    ///
    /// Errors: [`ParsePlatformError`] for other characters, more parts, or one part that is neither a known OS nor
    /// a known architecture.
    pub fn parse(text: &str) -> Result<Self, ParsePlatformError> {
        let error = |reason| ParsePlatformError { text: text.chars().take(80).collect(), reason };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, os_version) = split_version(parts[0]).ok_or_else(|| error("unbalanced parenthesis"))?;
        for part in std::iter::once(&os).chain(&parts[1..]) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
            if part.is_empty() || !part.bytes().all(plain) {
                return Err(error("expected `os/architecture/variant` of letters, digits, `_`, `.`, `-`"));
            }
        }
        let platform = match parts[1..] {
            [] => Self::parse_single(os).ok_or_else(|| error("unknown operating system or architecture"))?,
            [architecture] => Self::new(os, architecture),
            [architecture, variant] => Self { variant: variant.into(), ..Self::new(os, architecture) },
            _ => return Err(error("too many parts")),
        };
        Ok(Self { os_version: os_version.into(), ..platform }.normalize())
    }

    fn parse_single(word: &str) -> Option<Self> {
        let host = Self::host();
        let os = normalize_os(word);
        if KNOWN_OS.contains(&os.as_str()) {
            return Some(Self { os, ..host });
        }
        let (architecture, variant) = normalize_architecture(word, "");
        KNOWN_ARCH.contains(&architecture.as_str()).then(|| Self {
            os: host.os,
            architecture,
            variant,
            ..Self::default()
        })
    }

    /// The usual names: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `armhf` is `arm/v7`, `arm`
    /// without a variant is `arm/v7`, `macos` is `darwin`.
    #[must_use]
    pub fn normalize(&self) -> Self {
        let (architecture, variant) = normalize_architecture(&self.architecture, &self.variant);
        let os = if self.os.is_empty() { std::env::consts::OS.into() } else { normalize_os(&self.os) };
        Self {
            os,
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// The platform of the words of an image config or an index entry; unlike parsing this cannot fail.
    pub fn from_parts(os: &str, architecture: &str, variant: &str) -> Self {
        Self { variant: variant.into(), ..Self::new(os, architecture) }.normalize()
    }
}

/// The level of the x86-64 psABI that the processor has; 1 if there are none.
#[cfg(target_arch = "x86_64")]
fn host_level() -> u32 {
    macro_rules! has {
        ($($name:tt)*) => { $(std::arch::is_x86_feature_detected!($name))&&* };
    }
    // What the kernel needs to boot on such a processor (cmpxchg16b, lahf, osxsave) comes with the others.
    let second = has!("cmpxchg16b" "popcnt" "sse3" "ssse3" "sse4.1" "sse4.2");
    let third = second && has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe");
    let fourth = third && has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    1 + u32::from(second) + u32::from(third) + u32::from(fourth)
}

#[cfg(not(target_arch = "x86_64"))]
fn host_level() -> u32 {
    1
}

fn split_version(word: &str) -> Option<(&str, &str)> {
    match word.split_once('(') {
        None => Some((word, "")),
        Some((os, rest)) => {
            let version = rest.strip_suffix(')')?;
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
            version.bytes().all(plain).then_some((os, version))
        }
    }
}

fn normalize_os(os: &str) -> String {
    match os.to_ascii_lowercase() {
        os if os == "macos" => "darwin".into(),
        os => os,
    }
}

fn normalize_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (a, v) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (other, variant) => (other, variant),
    };
    (a.into(), v.into())
}

/// containerd's `Format`: `os/architecture[/variant]`, empty parts left out.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Which platforms do for a wanted one, best first.
#[derive(Debug, Clone)]
pub struct PlatformMatcher {
    accepted: Vec<Platform>,
}

impl PlatformMatcher {
    /// What a machine of platform `wanted` can run: itself, then lesser variants of its processor, then the 32-bit
    /// sibling (amd64 runs 386, arm64 runs arm).
    pub fn only(wanted: &Platform) -> Self {
        let wanted = wanted.normalize();
        let sibling = |architecture: &str, variant: String| Platform {
            architecture: architecture.into(),
            variant,
            ..wanted.clone()
        };
        let mut accepted = vec![wanted.clone()];
        match wanted.architecture.as_str() {
            "amd64" => {
                let level = version_of(&wanted.variant).unwrap_or(1);
                accepted.extend((1..level).rev().map(|level| sibling("amd64", format!("v{level}"))));
                accepted.push(sibling("386", String::new()));
            }
            "arm" => {
                let version = version_of(&wanted.variant).unwrap_or(7);
                accepted.extend((5..version).rev().map(|version| sibling("arm", format!("v{version}"))));
            }
            "arm64" => {
                if version_of(&wanted.variant).unwrap_or(8) > 8 {
                    accepted.push(sibling("arm64", String::new()));
                }
                accepted.extend((5..=8).rev().map(|version| sibling("arm", format!("v{version}"))));
            }
            _ => {}
        }
        Self { accepted: accepted.iter().map(Platform::normalize).collect() }
    }

    /// Exactly `wanted`, nothing lesser.
    pub fn strict(wanted: &Platform) -> Self {
        Self { accepted: vec![wanted.normalize()] }
    }

    /// How well `offered` does: 0 is best, `None` is not at all.
    pub fn rank(&self, offered: &Platform) -> Option<usize> {
        let offered = offered.normalize();
        self.accepted.iter().position(|wanted| {
            wanted.os == offered.os
                && wanted.architecture == offered.architecture
                && wanted.variant == offered.variant
                && version_matches(&wanted.os_version, &offered.os_version)
                && wanted.os_features.iter().all(|feature| offered.os_features.contains(feature))
        })
    }

    /// Whether `offered` does at all.
    pub fn matches(&self, offered: &Platform) -> bool {
        self.rank(offered).is_some()
    }

    /// The best of `offers`; of equals the first.
    pub fn best<'a, T>(
        &self,
        offers: impl IntoIterator<Item = &'a T>,
        platform: impl Fn(&T) -> Option<&Platform>,
    ) -> Option<&'a T> {
        offers
            .into_iter()
            .filter_map(|offer| Some((self.rank(platform(offer)?)?, offer)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, offer)| offer)
    }
}

/// Variants beyond this have no meaning; the bound keeps a hostile `v4000000000` from making a long list.
const MAX_VARIANT: u32 = 16;

fn version_of(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.split('.').next()?.parse().ok().filter(|version| *version <= MAX_VARIANT)
}

/// Windows: the first three numbers of a build must agree; elsewhere (no version) everything does.
fn version_matches(wanted: &str, offered: &str) -> bool {
    let head = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
    wanted.is_empty() || offered.is_empty() || head(wanted) == head(offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_own_variants_in_order() {
        let variants = Platform::host_variants();
        let names: Vec<_> = variants.iter().map(|platform| platform.variant.as_str()).collect();
        assert_eq!(names, ["v2", "v3", "v4"][..names.len()]);
        assert!(variants.iter().all(|platform| platform.architecture == Platform::host().architecture));
    }

    fn text(specifier: &str) -> String {
        Platform::parse(specifier).unwrap().to_string()
    }

    #[test]
    fn specifiers_are_normalised() {
        for (specifier, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.17763)/amd64", "windows/amd64"),
        ] {
            assert_eq!(text(specifier), expected, "{specifier}");
        }
        assert_eq!(Platform::parse("windows(10.0.17763)/amd64").unwrap().os_version, "10.0.17763");
    }

    #[test]
    fn one_word_is_completed_by_the_host() {
        let host = Platform::host();
        assert_eq!(Platform::parse("linux").unwrap().architecture, host.architecture);
        assert_eq!(Platform::parse("s390x").unwrap(), Platform::new(host.os, "s390x"));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in
            ["", "/", "linux/", "linux/amd64/v1/x", "li nux/amd64", "nonsense", "linux/é", "linux(1/amd64"]
        {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn matcher_prefers_the_nearest() {
        let parse = |s| Platform::parse(s).unwrap();
        let matcher = PlatformMatcher::only(&parse("linux/arm64"));
        let order = ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"];
        for (rank, offered) in order.into_iter().enumerate() {
            assert_eq!(matcher.rank(&parse(offered)), Some(rank), "{offered}");
        }
        assert_eq!(matcher.rank(&parse("linux/amd64")), None);
        let amd64 = PlatformMatcher::only(&parse("linux/amd64"));
        assert_eq!(amd64.rank(&parse("linux/386")), Some(1));
        assert_eq!(amd64.rank(&parse("linux/amd64/v3")), None);
        assert_eq!(amd64.rank(&parse("windows/amd64")), None);
        let v3 = PlatformMatcher::only(&parse("linux/amd64/v3"));
        assert_eq!(v3.rank(&parse("linux/amd64")), Some(2));
        assert!(!PlatformMatcher::strict(&parse("linux/arm64")).matches(&parse("linux/arm/v7")));
    }

    #[test]
    fn best_takes_the_first_of_equals() {
        let offers = ["linux/386", "linux/amd64", "linux/amd64"].map(|s| Platform::parse(s).unwrap());
        let best = PlatformMatcher::only(&offers[1]).best(&offers, |p| Some(p)).unwrap();
        assert!(std::ptr::eq(best, &offers[1]));
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_normal_forms_are_stable(specifier in ".{0,40}|[a-z0-9/v]{0,16}") {
            if let Ok(platform) = Platform::parse(&specifier) {
                proptest::prop_assert_eq!(platform.normalize(), platform.clone());
                PlatformMatcher::only(&platform);
            }
        }
    }
}
