//! `key=value,key=value` arguments: outputs, secrets, ssh agents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::errors::CommandError;

/// Splits one CSV record: fields may be quoted with `"`, a doubled quote stands for itself.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, CommandError> {
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
        return Err(CommandError::usage(format!("`{text}`: a quote is not closed")));
    }
    Ok(fields)
}

/// `NAME=VALUE` with a non-empty name.
pub(crate) fn pair<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str), CommandError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name, value)),
        _ => Err(CommandError::usage(format!("{flag} {text}: expected NAME=VALUE"))),
    }
}

/// Where the client puts what the daemon sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Nothing is sent: the daemon keeps or pushes the result.
    Daemon,
    /// Files below a directory.
    Directory(PathBuf),
    /// One file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// A container engine of this machine.
    Engine,
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// Exporter type as the daemon knows it.
    pub(crate) kind: String,
    /// Its attributes, `dest` taken out.
    pub(crate) attrs: BTreeMap<String, String>,
    /// Where the bytes go.
    pub(crate) destination: Destination,
}

impl Output {
    /// As [`Output::parse_or_load`], where there is no engine to load into.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let output = Self::parse_or_load(text)?;
        match output.destination {
            Destination::Engine => Err(missing(text)),
            _ => Ok(output),
        }
    }

    /// Parses `type=…,dest=…`, or a bare path (`-` is a tar on standard output). A docker archive without a
    /// destination is for a container engine.
    pub(crate) fn parse_or_load(text: &str) -> Result<Self, CommandError> {
        let fields = csv(text)?;
        if let [path] = &fields[..]
            && !path.contains('=')
        {
            let (kind, destination) = match path.as_str() {
                "" => return Err(CommandError::usage("--output is empty: expected type=… or a path")),
                "-" => ("tar", Destination::Stdout),
                path => ("local", Destination::Directory(path.into())),
            };
            return Ok(Self { kind: kind.into(), attrs: BTreeMap::new(), destination });
        }
        let mut attrs = BTreeMap::new();
        for field in &fields {
            let (name, value) = pair("--output", field)?;
            attrs.insert(name.trim().to_lowercase(), value.to_owned());
        }
        let Some(kind) = attrs.remove("type") else {
            return Err(CommandError::usage(format!("--output {text}: type is missing")));
        };
        let dest = attrs.remove("dest");
        Self::of(text, kind, attrs, dest)
    }

    fn of(
        text: &str,
        kind: String,
        mut attrs: BTreeMap<String, String>,
        dest: Option<String>,
    ) -> Result<Self, CommandError> {
        let missing = || missing(text);
        if matches!(kind.as_str(), "oci" | "docker") && attrs.get("tar").is_some_and(|tar| is_false(tar)) {
            return Err(CommandError::usage(format!("--output {text}: tar=false is not supported"))
                .hint("unpack the archive: it is an OCI layout"));
        }
        let destination = match kind.as_str() {
            "docker" if dest.is_none() => Destination::Engine,
            "local" => Destination::Directory(dest.ok_or_else(missing)?.into()),
            "tar" | "oci" | "docker" => match dest.ok_or_else(missing)?.as_str() {
                "-" => Destination::Stdout,
                path => Destination::File(path.into()),
            },
            "image" | "registry" | "cacheonly" | "moby" if dest.is_some() => {
                return Err(CommandError::usage(format!("--output {text}: {kind} has no dest")));
            }
            "image" | "cacheonly" => Destination::Daemon,
            "registry" => {
                attrs.insert("push".into(), "true".into());
                return Ok(Self { kind: "image".into(), attrs, destination: Destination::Daemon });
            }
            other => {
                return Err(CommandError::usage(format!("--output {text}: unknown type `{other}`"))
                    .hint("types are local, tar, oci, docker, image, registry, cacheonly"));
            }
        };
        Ok(Self { kind, attrs, destination })
    }
}

fn missing(text: &str) -> CommandError {
    CommandError::usage(format!("--output {text}: dest is missing"))
        .hint("dest=PATH, or dest=- for standard output")
}

/// A switch as Go programs spell it; `None` is none.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        text => is_false(text).then_some(false),
    }
}

fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "False" | "FALSE")
}

/// Where a secret's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretSource {
    File(PathBuf),
    Env(String),
}

/// One `--secret`.
pub(crate) fn secret(text: &str) -> Result<(String, SecretSource), CommandError> {
    let (mut id, mut kind, mut file, mut env) = (None, None, None, None);
    for field in csv(text)? {
        let (name, value) = pair("--secret", &field)?;
        match name.to_lowercase().as_str() {
            "id" => id = Some(value.to_owned()),
            "type" => kind = Some(value.to_owned()),
            "source" | "src" => file = Some(value.to_owned()),
            "env" => env = Some(value.to_owned()),
            other => {
                return Err(CommandError::usage(format!("--secret {text}: unknown key `{other}`"))
                    .hint("keys are id, src, env, type"));
            }
        }
    }
    let id = id
        .or_else(|| file.clone())
        .ok_or_else(|| CommandError::usage(format!("--secret {text}: id is missing")))?;
    let source = match (kind.as_deref(), file, env) {
        (None | Some("env"), None, Some(env)) => SecretSource::Env(env),
        (Some("env"), Some(name), None) => SecretSource::Env(name),
        (None | Some("file"), Some(path), None) => SecretSource::File(path.into()),
        (Some("env"), None, None) => SecretSource::Env(id.clone()),
        (None, None, None) if std::env::var_os(&id).is_some() => SecretSource::Env(id.clone()),
        (None | Some("file"), None, None) => SecretSource::File(id.clone().into()),
        (Some("env" | "file") | None, ..) => {
            return Err(CommandError::usage(format!("--secret {text}: give either src or env")));
        }
        (Some(other), ..) => {
            return Err(
                CommandError::usage(format!("--secret {text}: unknown type `{other}`")).hint("file or env")
            );
        }
    };
    Ok((id, source))
}

/// One `--ssh`: id and the agent's socket (none: `SSH_AUTH_SOCK`).
pub(crate) fn ssh(text: &str) -> Result<(String, Option<PathBuf>), CommandError> {
    match text.split_once('=') {
        None if text.is_empty() => Err(CommandError::usage("--ssh is empty: expected default or ID=SOCKET")),
        None => Ok((text.to_owned(), None)),
        Some((id, path)) if !id.is_empty() && !path.is_empty() && !path.contains(',') => {
            Ok((id.to_owned(), Some(path.into())))
        }
        Some(_) => Err(CommandError::usage(format!("--ssh {text}: expected ID=SOCKET"))
            .hint("key files are not read: add them to an ssh-agent")),
    }
}

/// A size of memory as Docker's flags take it, in bytes: `64m`, `1.5g`, `1024`; all units are powers of 1024.
pub(crate) fn size(text: &str) -> Option<u64> {
    size_by(text, 1 << 10)
}

/// A size on disk, in bytes: `10GB` is what `du` prints so, `10GiB` is more; a bare number is MB.
pub(crate) fn disk_size(text: &str) -> Option<u64> {
    match text.trim().parse::<f64>() {
        Ok(_) => size_by(&format!("{}mb", text.trim()), 1000),
        Err(_) => size_by(text, 1000),
    }
}

/// `k` is what a `kB` is.
fn size_by(text: &str, k: u64) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let unit: u64 = match lower[digits.len()..].trim() {
        "" | "b" => 1,
        "k" | "kb" => k,
        "m" | "mb" => k.pow(2),
        "g" | "gb" => k.pow(3),
        "t" | "tb" => k.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    let bytes = (number * unit as f64) as u64;
    (number >= 0.0 && number.is_finite()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_on_disk_are_decimal_and_those_of_memory_are_not() {
        assert_eq!(disk_size("512"), Some(512_000_000));
        assert_eq!(disk_size("1.5GB"), Some(1_500_000_000));
        assert_eq!((disk_size("1GiB"), size("1g")), (Some(1 << 30), Some(1 << 30)));
        for bad in ["", "x", "-1", "1 parsec", "inf"] {
            assert_eq!(disk_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn outputs_are_read_as_buildx_reads_them() {
        let output = Output::parse("type=oci,\"dest=a,b.tar\",compression=zstd").unwrap();
        assert_eq!(output.destination, Destination::File("a,b.tar".into()));
        assert_eq!(output.attrs["compression"], "zstd");
        assert_eq!(Output::parse("out").unwrap().destination, Destination::Directory("out".into()));
        assert_eq!(Output::parse("-").unwrap().kind, "tar");
        let pushed = Output::parse("type=registry,name=x").unwrap();
        assert_eq!((pushed.kind.as_str(), pushed.attrs["push"].as_str()), ("image", "true"));
        assert_eq!(Output::parse_or_load("type=docker").unwrap().destination, Destination::Engine);
        for bad in [
            "",
            "type=oci",
            "type=docker",
            "dest=x",
            "type=nosuch,dest=x",
            "type=image,dest=x",
            "type=oci,\"dest=x",
            "type=oci,dest=x,tar=false",
        ] {
            assert!(Output::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_name_a_file_or_a_variable() {
        assert_eq!(secret("id=a,src=b").unwrap(), ("a".into(), SecretSource::File("b".into())));
        assert_eq!(secret("id=a,env=B").unwrap(), ("a".into(), SecretSource::Env("B".into())));
        assert_eq!(secret("id=a,type=env").unwrap(), ("a".into(), SecretSource::Env("a".into())));
        for bad in ["a", "src", "id=a,src=b,env=c", "id=a,what=b", "id=a,type=x,src=b"] {
            assert!(secret(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_docker_units() {
        assert_eq!(size("64m"), Some(64 << 20));
        assert_eq!(size("1.5 GB"), Some(3 << 29));
        for bad in ["", "m", "-1", "1x", "nan", "1é"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
