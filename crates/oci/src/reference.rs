use std::fmt;
use std::str::FromStr;

use rbuild_digest::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where names without a registry live.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An older spelling of [`DEFAULT_DOMAIN`].
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where names of one word live at the default registry.
const OFFICIAL_PREFIX: &str = "library/";
/// Bytes of a repository path; the limit that registries share.
const MAX_PATH: usize = 255;
/// Bytes of a tag.
const MAX_TAG: usize = 128;
/// Bytes of a domain; a DNS name has no more, plus a port.
const MAX_DOMAIN: usize = 260;

/// The name of an image: registry, repository, and a tag, a digest, both or neither.
///
/// Always in normal form: `ubuntu` is `docker.io/library/ubuntu`. Parsed as the distribution project parses names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseReferenceError {
    /// Wrong characters or structure.
    #[error("invalid reference format: `{0}`")]
    Format(String),
    /// Upper-case letters in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// A repository path that is too long.
    #[error("repository name must not be more than {MAX_PATH} characters: `{0}…`")]
    TooLong(String),
    /// 64 hex digits look like an image id.
    #[error("invalid repository name (`{0}`), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// A digest that is malformed, or of an algorithm other than sha256.
    #[error("invalid reference format: `{0}`: {1}")]
    Digest(String, rbuild_digest::ParseDigestError),
}

impl ImageRef {
    /// Parses a name as users write it.
    ///
    /// Errors: [`ParseReferenceError`] says what is wrong; the text is quoted, shortened.
    pub fn parse(text: &str) -> Result<Self, ParseReferenceError> {
        let shown = || text.chars().take(120).collect::<String>();
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(ParseReferenceError::LooksLikeId(shown()));
        }
        let (domain, remainder) = split_domain(text);
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => {
                let digest =
                    Digest::parse(digest).map_err(|error| ParseReferenceError::Digest(shown(), error))?;
                (name, Some(digest))
            }
            None => (remainder, None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(ParseReferenceError::Uppercase(path.chars().take(120).collect()));
        }
        let official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
        let tag_is_valid = tag.is_none_or(is_tag);
        if !is_domain(domain) || !path.split('/').all(is_path_component) || !tag_is_valid {
            return Err(ParseReferenceError::Format(shown()));
        }
        if path.len() > MAX_PATH {
            return Err(ParseReferenceError::TooLong(path.chars().take(40).collect()));
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry's host and port, `docker.io` by default.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry (`library/ubuntu`).
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest if one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository (`docker.io/library/ubuntu`).
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Whether there is neither tag nor digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// With the tag `latest` if there is neither tag nor digest.
    #[must_use]
    pub fn tag_or_latest(&self) -> Self {
        if self.is_name_only() { Self { tag: Some("latest".into()), ..self.clone() } } else { self.clone() }
    }

    /// With this digest; a tag stays.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// With this tag; a digest goes.
    ///
    /// Errors: [`ParseReferenceError::Format`] if it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        if !is_tag(tag) {
            return Err(ParseReferenceError::Format(tag.chars().take(120).collect()));
        }
        Ok(Self { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// Neither tag nor digest.
    #[must_use]
    pub fn name_only(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// The short form that users know (`ubuntu:22.04`); the whole one if the short one names another registry.
    pub fn familiar(&self) -> String {
        let name = match self.domain.as_str() {
            DEFAULT_DOMAIN => self.path.strip_prefix(OFFICIAL_PREFIX).filter(|rest| !rest.contains('/')),
            _ => return self.to_string(),
        };
        let name = name.unwrap_or(&self.path);
        // Shortened only if no part of it would be read as a registry then.
        match split_domain(name) == (DEFAULT_DOMAIN, name) {
            true => format!("{name}{}", self.suffix()),
            false => self.to_string(),
        }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

/// The part before the first slash is a registry only if it cannot be a path component: it has a dot or a port,
/// is `localhost`, or has upper-case letters.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((head, rest))
            if head.contains(['.', ':']) || head == "localhost" || head.chars().any(char::is_uppercase) =>
        {
            (if head == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { head }, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(domain: &str) -> bool {
    if domain.len() > MAX_DOMAIN {
        return false;
    }
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let hex = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return hex && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

/// Letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(first) || !word(last) {
        return false;
    }
    let separators = bytes.split(word).filter(|separator| !separator.is_empty());
    separators.into_iter().all(|s| matches!(s, b"." | b"_" | b"__") || s.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageRef {
    type Err = ParseReferenceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn a_short_name_never_names_another_registry() {
        for text in ["docker.io/index.doco/x", "docker.io/localhost/x:1", "index.docker.io/a.b/c"] {
            let name = ImageRef::parse(text).unwrap();
            assert_eq!(name.domain(), "docker.io");
            assert_eq!(ImageRef::parse(&name.familiar()).unwrap(), name, "{text}");
        }
    }

    #[test]
    fn names_are_normalised_and_shortened_back() {
        for (text, canonical, familiar) in [
            ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("ubuntu:22.04", "docker.io/library/ubuntu:22.04", "ubuntu:22.04"),
            ("user/app", "docker.io/user/app", "user/app"),
            ("library/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("index.docker.io/ubuntu:x", "docker.io/library/ubuntu:x", "ubuntu:x"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("ghcr.io/o/a-b__c.d", "ghcr.io/o/a-b__c.d", "ghcr.io/o/a-b__c.d"),
            ("Upper/app", "Upper/app", "Upper/app"),
            ("a--b/c", "docker.io/a--b/c", "a--b/c"),
            ("docker.io/index.docker.io/04", "docker.io/index.docker.io/04", "docker.io/index.docker.io/04"),
            ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ] {
            let name = ImageRef::parse(text).unwrap();
            assert_eq!(
                (name.to_string().as_str(), name.familiar().as_str()),
                (canonical, familiar),
                "{text}"
            );
        }
    }

    #[test]
    fn tag_and_digest_may_stand_together() {
        let name = ImageRef::parse(&format!("ubuntu:x@{DIGEST}")).unwrap();
        assert_eq!((name.tag(), name.digest().unwrap().to_string().as_str()), (Some("x"), DIGEST));
        assert_eq!(name.to_string(), format!("docker.io/library/ubuntu:x@{DIGEST}"));
        assert_eq!(name.tag_or_latest(), name);
        assert_eq!(name.with_tag("y").unwrap().familiar(), "ubuntu:y");
        assert_eq!(name.name_only().tag_or_latest().familiar(), "ubuntu:latest");
    }

    #[test]
    fn other_texts_are_refused() {
        let (long, id) = (format!("a/{}", "x".repeat(255)), "a".repeat(64));
        let tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "a@md5:0",
            "A",
            "a/B",
            "a..b",
            "a_-b",
            "a___b",
            "-a",
            "a-",
            "a b",
            "a\n",
            "é",
            "a:é",
            "a:-x",
            "a:.x",
            "..",
            "../a",
            "ho_st.com/a",
            "-h.com/a",
            "h.com:x/a",
            "h.com:/a",
            "[::1/a",
            "[x]/a",
            "a?b",
            "https://docker.io/a",
            &long,
            &id,
            &tag,
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_keep_the_wording_that_people_grep_for() {
        let text = |bad: &str| ImageRef::parse(bad).unwrap_err().to_string();
        assert_eq!(text("Foo"), "invalid reference format: repository name (Foo) must be lowercase");
        assert_eq!(text("a b"), "invalid reference format: `a b`");
    }

    proptest::proptest! {
        #[test]
        fn what_parses_round_trips(text in ".{0,30}|[a-zA-Z0-9./:@_-]{0,40}") {
            if let Ok(name) = ImageRef::parse(&text) {
                proptest::prop_assert_eq!(&ImageRef::parse(&name.to_string()).unwrap(), &name);
                proptest::prop_assert_eq!(&ImageRef::parse(&name.familiar()).unwrap(), &name);
            }
        }
    }
}
