//! `RUN --mount=…`: its options as they are written, then with variables expanded.

use crate::{CompileError, suggest};

/// Where a mount's files come from, told before variables are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountSource {
    /// The build context.
    Context,
    /// An empty directory.
    Empty,
    /// A stage or an image.
    Named(String),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MountSpec {
    pub(crate) kind: MountType,
    pub(crate) from: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) readonly: Option<bool>,
    pub(crate) size: Option<i64>,
    pub(crate) id: Option<String>,
    pub(crate) sharing: Option<Sharing>,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// Kinds of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
];

fn csv(problem: &str) -> String {
    format!("failed to parse csv mounts: {problem}")
}

/// Splits `a=b,c` as a line of CSV: fields may be quoted, a doubled quote is one.
pub(crate) fn csv_fields(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err(csv("EOF"));
    }
    let mut fields = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    None => {
                        return Err(csv("extraneous or missing \" in quoted-field"));
                    }
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(c) => field.push(c),
                }
            }
            if !matches!(chars.peek(), None | Some(',')) {
                return Err(csv("extraneous or missing \" in quoted-field"));
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err(csv("bare \" in non-quoted field"));
                }
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

fn key_value(field: &str) -> (String, Option<&str>) {
    match field.split_once('=') {
        Some((key, value)) => (key.to_lowercase(), Some(value)),
        None => (field.to_lowercase(), None),
    }
}

/// Where a mount's files come from. Mistakes are found by [`MountSpec::parse`].
pub(crate) fn mount_source(written: &str) -> MountSource {
    let fields = csv_fields(written).unwrap_or_default();
    let mut kind = "bind".to_owned();
    let mut from = None;
    for field in &fields {
        match key_value(field) {
            (key, Some(value)) if key == "type" => kind = value.to_lowercase(),
            (key, Some(value)) if key == "from" => from = Some(value.to_owned()).filter(|v| !v.is_empty()),
            _ => {}
        }
    }
    match (kind.as_str(), from) {
        (_, Some(name)) => MountSource::Named(name),
        ("bind", None) => MountSource::Context,
        _ => MountSource::Empty,
    }
}

impl MountSpec {
    /// Parses a mount. `expand` resolves the variables of one value.
    pub(crate) fn parse(
        written: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, CompileError>,
    ) -> Result<Self, CompileError> {
        let mut mount = Self::default();
        for field in csv_fields(written).map_err(CompileError::new)? {
            let (key, value) = key_value(&field);
            match value {
                None => mount.set_flag(&key, &field)?,
                Some(value) => {
                    let value = if key == "from" { value.to_owned() } else { expand(value)? };
                    mount.set(&key, &value, &field)?;
                }
            }
        }
        mount.check()?;
        Ok(mount)
    }

    fn set_flag(&mut self, key: &str, field: &str) -> Result<(), CompileError> {
        match key {
            "readonly" | "ro" => self.readonly = Some(true),
            "readwrite" | "rw" => self.readonly = Some(false),
            "required" => self.require(true)?,
            _ => {
                let hint = match suggest::nearest(key, KEYS, true) {
                    Some(near) => format!("did you mean {near}?"),
                    None => {
                        "of all keys only readonly, readwrite and required stand without a value".to_owned()
                    }
                };
                let error = CompileError::new(format!("invalid field '{field}' must be a key=value pair"));
                return Err(error.word(field).hint(hint));
            }
        }
        Ok(())
    }

    fn require(&mut self, required: bool) -> Result<(), CompileError> {
        if !matches!(self.kind, MountType::Secret | MountType::Ssh) {
            let message = format!("unexpected key 'required' for mount type '{}'", self.kind.name());
            return Err(CompileError::new(message).word("required"));
        }
        self.required = required;
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str, field: &str) -> Result<(), CompileError> {
        let invalid = || CompileError::new(format!("invalid value for {key}: {value}")).word(field);
        let flag = || match value {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            _ => Err(invalid()),
        };
        match key {
            "type" => self.kind = mount_type(value)?,
            "from" => self.from = Some(value.to_owned()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "readonly" | "ro" => self.readonly = Some(flag()?),
            "readwrite" | "rw" => self.readonly = Some(!flag()?),
            "required" => {
                self.require(flag()?)?;
            }
            "size" => {
                if self.kind != MountType::Tmpfs {
                    let message = format!("unexpected key '{key}' for mount type '{}'", self.kind.name());
                    return Err(CompileError::new(message).word(field));
                }
                self.size = Some(crate::bytes::parse_size(value).ok_or_else(invalid)?);
            }
            "id" => self.id = Some(value.to_owned()),
            "sharing" => {
                let sharing = match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => {
                        let hint = suggest::hint(other, ["private", "shared", "locked"], true);
                        let message =
                            format!("unsupported sharing value {}{hint}", crate::text::quote(other));
                        return Err(CompileError::new(message).word(value));
                    }
                };
                self.sharing = Some(sharing);
            }
            "mode" => self.mode = Some(u32::from_str_radix(value, 8).map_err(|_| number("mode", value))?),
            "uid" => self.uid = Some(value.parse().map_err(|_| number("uid", value))?),
            "gid" => self.gid = Some(value.parse().map_err(|_| number("gid", value))?),
            "env" => self.env = Some(value.to_owned()),
            _ => {
                let hint = suggest::hint(key, KEYS, true);
                let error = CompileError::new(format!("unexpected key '{key}' in '{field}'{hint}"));
                return Err(error.word(field.split('=').next().unwrap_or(field)));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), CompileError> {
        let name = self.kind.name();
        match self.kind {
            MountType::Bind | MountType::Tmpfs => {
                let given =
                    [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())];
                if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                    let message = format!("{key} not allowed for \"{name}\" type mounts");
                    return Err(CompileError::new(message).word(*key));
                }
            }
            MountType::Secret if self.from.is_some() => {
                return Err(CompileError::new("secret mount should not have a from").word("from"));
            }
            MountType::Secret if self.sharing.is_some() => {
                return Err(CompileError::new("secret mount should not define sharing").word("sharing"));
            }
            MountType::Ssh if self.source.is_some() => {
                return Err(CompileError::new("ssh does not support source"));
            }
            _ => {}
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            return Err(
                CompileError::new(format!("invalid cache sharing set for {name} mount")).word("sharing")
            );
        }
        Ok(())
    }
}

fn number(key: &str, value: &str) -> CompileError {
    CompileError::new(format!("invalid value {value} for {key}")).word(value)
}

fn mount_type(value: &str) -> Result<MountType, CompileError> {
    let lower = value.to_lowercase();
    TYPES.iter().find(|(name, _)| *name == lower).map(|(_, kind)| *kind).ok_or_else(|| {
        let hint = suggest::hint(&lower, TYPES.iter().map(|(name, _)| *name), true);
        CompileError::new(format!("unsupported mount type {}{hint}", crate::text::quote(value))).word(value)
    })
}

impl MountType {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}
