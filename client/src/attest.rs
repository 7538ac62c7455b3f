//! `--attest`, `--provenance` and `--sbom` as options of the request.

use std::collections::BTreeMap;

use crate::cli::BuildArgs;
use crate::errors::CommandError;
use crate::spec;

/// What images are told of themselves unless the user says otherwise, as with buildx.
const DEFAULT_PROVENANCE: &str = "mode=min,inline-only=true";
/// buildx's variable that switches it off.
const NO_DEFAULT: &str = "BUILDX_NO_DEFAULT_ATTESTATIONS";

/// `attest:<type>` with their values.
///
/// Errors: an attestation without a type, or one that is asked for twice.
pub(crate) fn attributes(args: &BuildArgs) -> Result<BTreeMap<String, String>, CommandError> {
    let no_default = std::env::var(NO_DEFAULT).is_ok_and(|value| spec::boolean(&value) == Some(true));
    let mut asked: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut add = |kind: String, value: Option<String>| match asked.insert(kind.clone(), value) {
        None => Ok(()),
        Some(_) => Err(CommandError::usage(format!("attestation `{kind}` is asked for twice"))),
    };
    for text in &args.attest {
        let (kind, value) = parse("--attest", text)?;
        let kind = kind.ok_or_else(|| {
            CommandError::usage(format!("--attest {text}: type is missing"))
                .hint("type=provenance,mode=max or type=sbom")
        })?;
        add(kind, value)?;
    }
    for (kind, text) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        if let Some(text) = text {
            let flag = format!("--{kind}");
            let value = match spec::boolean(text) {
                Some(on) => on.then(String::new),
                None => parse(&flag, text)?.1,
            };
            add(kind.to_owned(), value)?;
        }
    }
    if !no_default {
        asked.entry("provenance".into()).or_insert_with(|| Some(DEFAULT_PROVENANCE.to_owned()));
    }
    let wanted = asked.into_iter().filter_map(|(kind, value)| Some((format!("attest:{kind}"), value?)));
    Ok(wanted.collect())
}

/// Type, and what is asked of it; `None`: it is switched off.
fn parse(flag: &str, text: &str) -> Result<(Option<String>, Option<String>), CommandError> {
    let (mut kind, mut is_off, mut rest) = (None, false, Vec::new());
    for field in spec::csv(text)? {
        let (name, value) = spec::pair(flag, &field)?;
        match name {
            "type" => kind = Some(value.to_owned()),
            "disabled" => {
                is_off = spec::boolean(value).ok_or_else(|| {
                    CommandError::usage(format!("{flag} {text}: disabled: expected true or false"))
                })?;
            }
            _ if field.contains([',', '"']) => rest.push(format!("\"{}\"", field.replace('"', "\"\""))),
            _ => rest.push(field),
        }
    }
    Ok((kind, (!is_off).then(|| rest.join(","))))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn args(texts: &[&str]) -> Result<BTreeMap<String, String>, CommandError> {
        let line = ["rbuildctl", "build"].iter().chain(texts).chain(&["."]);
        let parsed = crate::cli::Cli::try_parse_from(line).unwrap();
        match parsed.command {
            crate::cli::Command::Build(args) => attributes(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_are_told_little_unless_more_is_asked_for() {
        let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let default = one("attest:provenance", DEFAULT_PROVENANCE);
        assert_eq!(args(&[]).unwrap(), default);
        assert_eq!(args(&["--provenance=false"]).unwrap(), BTreeMap::new());
        assert_eq!(args(&["--attest", "type=provenance,disabled=true"]).unwrap(), BTreeMap::new());
        assert_eq!(args(&["--provenance=true"]).unwrap(), one("attest:provenance", ""));
        assert_eq!(args(&["--provenance"]).unwrap(), one("attest:provenance", ""));
        assert_eq!(args(&["--provenance=mode=max"]).unwrap(), one("attest:provenance", "mode=max"));
        let both =
            args(&["--attest", "type=sbom,generator=a/b", "--attest", r#"type=provenance,"builder-id=a,b""#]);
        let expected = [("attest:sbom", "generator=a/b"), ("attest:provenance", r#""builder-id=a,b""#)];
        assert_eq!(both.unwrap(), expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn attestations_without_a_type_or_twice_are_refused() {
        assert!(args(&["--attest", "mode=max"]).is_err());
        assert!(args(&["--provenance=foo"]).is_err());
        assert!(args(&["--provenance=true", "--attest", "type=provenance"]).is_err());
    }
}
