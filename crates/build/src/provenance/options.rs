use std::collections::BTreeMap;

use rbuild_frontend::BuildError;

/// Prefix of options that ask for attestations.
pub(crate) const PREFIX: &str = "attest:";

/// Which release of the predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V02,
    V1,
}

impl Version {
    /// The predicate's type.
    pub(crate) fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// What is to be said of how a result came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProvenanceOptions {
    pub(crate) version: Version,
    /// Everything, build arguments and definition included.
    pub(crate) max: bool,
    pub(crate) builder_id: String,
    /// The user's word that the build gives the same bytes again.
    pub(crate) reproducible: bool,
    pub(crate) inline_only: bool,
    /// What steps and the machine used, too.
    pub(crate) usage: bool,
    pub(crate) file_name: String,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        Self {
            version: Version::V1,
            max: true,
            builder_id: String::new(),
            reproducible: false,
            inline_only: false,
            usage: false,
            file_name: "provenance.json".into(),
        }
    }
}

impl ProvenanceOptions {
    /// `attest:provenance` of a request; the wording of errors is upstream's where it has one.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Option<Self>, BuildError> {
        let Some(text) = options.get("attest:provenance") else { return Ok(None) };
        let fields = Fields::parse("attest:provenance", text)?;
        if fields.is_off()? {
            return Ok(None);
        }
        let mut parsed = Self::default();
        for (name, value) in fields.0 {
            match name.as_str() {
                "mode" => {
                    parsed.max = match value.as_str() {
                        "max" => true,
                        "min" => false,
                        _ => return Err(BuildError::invalid(format!("invalid mode {value:?}"))),
                    };
                }
                "version" => {
                    parsed.version = match value.as_str() {
                        "v1" => Version::V1,
                        "v0.2" => Version::V02,
                        _ => {
                            let text = format!("invalid provenance SLSA version: {value}");
                            return Err(BuildError::invalid(text));
                        }
                    };
                }
                "builder-id" => parsed.builder_id = value,
                "reproducible" => parsed.reproducible = flag("reproducible", &value)?,
                "capture-usage" => parsed.usage = flag("capture-usage", &value)?,
                "inline-only" => parsed.inline_only = flag("inline-only", &value)?,
                "filename" if !value.is_empty() => parsed.file_name = value,
                "filename" | "disabled" | "type" => {}
                other => {
                    return Err(BuildError::invalid(format!("attest:provenance: unknown key `{other}`")));
                }
            }
        }
        Ok(Some(parsed))
    }
}

/// Errors: attestations of a kind that there is not.
pub(crate) fn check_kinds(options: &BTreeMap<String, String>) -> Result<(), BuildError> {
    let kinds = options.keys().filter_map(|name| name.strip_prefix(PREFIX));
    match kinds.into_iter().find(|kind| !matches!(*kind, "provenance" | "sbom")) {
        Some(kind) => Err(BuildError::invalid(format!("unknown attestation type {kind:?}"))),
        None => Ok(()),
    }
}

/// `name=value,…`, fields quoted as in CSV.
#[derive(Debug)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    pub(crate) fn parse(option: &str, text: &str) -> Result<Self, BuildError> {
        let mut fields = vec![String::new()];
        let mut chars = text.chars().peekable();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            let field = fields.last_mut().expect("there is always a field");
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    field.push('"');
                }
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                other => field.push(other),
            }
        }
        if quoted {
            return Err(BuildError::invalid(format!("{option}: a quote is not closed")));
        }
        let mut pairs = Vec::new();
        for field in fields.into_iter().filter(|field| !field.is_empty()) {
            match (field.split_once('='), field.as_str()) {
                (Some((name, value)), _) => pairs.push((name.trim().to_owned(), value.to_owned())),
                (None, "true") => {}
                (None, "false") => pairs.push(("disabled".into(), "true".into())),
                (None, other) => {
                    return Err(BuildError::invalid(format!("{option}: `{other}`: expected name=value")));
                }
            }
        }
        Ok(Self(pairs))
    }

    /// Clients leave out what is switched off; some daemons before us were told anyway.
    pub(crate) fn is_off(&self) -> Result<bool, BuildError> {
        match self.0.iter().find(|(name, _)| name == "disabled") {
            Some((_, value)) => flag("disabled", value),
            None => Ok(false),
        }
    }
}

/// A switch as Go reads it.
fn flag(name: &str, value: &str) -> Result<bool, BuildError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => {
            Err(BuildError::invalid(format!("failed to parse {name} flag {value:?}: expected true or false")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<ProvenanceOptions>, BuildError> {
        ProvenanceOptions::parse(&BTreeMap::from([("attest:provenance".to_owned(), text.to_owned())]))
    }

    #[test]
    fn upstreams_options_are_read() {
        assert_eq!(ProvenanceOptions::parse(&BTreeMap::new()).unwrap(), None);
        assert_eq!(parse("").unwrap(), Some(ProvenanceOptions::default()));
        assert_eq!(parse("true").unwrap(), Some(ProvenanceOptions::default()));
        assert_eq!(parse("false").unwrap(), None);
        assert_eq!(parse("mode=min,disabled=true").unwrap(), None);
        let all = parse(
            r#"mode=min,version=v0.2,"builder-id=https://x/a,b",reproducible=true,inline-only=1,capture-usage=true,filename=f.json"#,
        );
        let all = all.unwrap().unwrap();
        assert!(!all.max && all.version == Version::V02 && all.reproducible && all.inline_only && all.usage);
        assert_eq!((all.builder_id.as_str(), all.file_name.as_str()), ("https://x/a,b", "f.json"));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, part) in [
            ("mode=foo", "invalid mode \"foo\""),
            ("version=v9", "invalid provenance SLSA version: v9"),
            ("reproducible=maybe", "reproducible"),
            ("foo=1", "`foo`"),
            ("maximum", "`maximum`"),
            ("\"mode=min", "quote"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let options = BTreeMap::from([("attest:foo".to_owned(), String::new())]);
        assert!(check_kinds(&options).unwrap_err().to_string().contains("unknown attestation type \"foo\""));
    }
}
