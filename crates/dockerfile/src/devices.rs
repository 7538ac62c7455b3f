//! `RUN --device=…`: a device by its CDI name.

use crate::mounts::csv_fields;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DeviceSpec {
    /// `vendor.com/class=name`, or a class.
    pub(crate) name: String,
    /// The step fails without it.
    pub(crate) required: bool,
}

impl DeviceSpec {
    /// Reads `name[,required]`, `name=…` and `required=…` in any order. Variables stay as they are written.
    pub(crate) fn parse(written: &str) -> Result<Self, String> {
        if written.is_empty() {
            return Err("failed to parse csv devices: EOF".to_owned());
        }
        let mut device = Self::default();
        for (index, field) in csv_fields(written)?.iter().enumerate() {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", value) => device.required = flag(value)?,
                ("name", Some(name)) => device.name = name.to_owned(),
                // Names have an equals sign of their own.
                _ if index == 0 => device.name.clone_from(field),
                (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
                (_, Some(_)) => return Err(format!("unexpected key '{key}' in '{field}'")),
            }
        }
        if device.name.is_empty() {
            return Err(format!("device '{written}' has no name"));
        }
        Ok(device)
    }
}

fn flag(value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
        Some(other) => Err(format!("invalid value for required: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_a_name_and_may_be_required() {
        for (written, name, required) in [
            ("vendor.com/class=name", "vendor.com/class=name", false),
            ("vendor.com/class", "vendor.com/class", false),
            ("v/c=n,required", "v/c=n", true),
            ("v/c=n,required=false", "v/c=n", false),
            ("name=v/c=n,required=1", "v/c=n", true),
            ("required,name=v/c=n", "v/c=n", true),
        ] {
            let expected = DeviceSpec { name: name.to_owned(), required };
            assert_eq!(DeviceSpec::parse(written), Ok(expected), "{written}");
        }
        for (written, message) in [
            ("", "failed to parse csv devices: EOF"),
            ("a,b", "invalid field 'b' must be a key=value pair"),
            ("a,foo=b", "unexpected key 'foo' in 'foo=b'"),
            ("a,required=x", "invalid value for required: x"),
            ("required", "device 'required' has no name"),
        ] {
            assert_eq!(DeviceSpec::parse(written).unwrap_err(), message, "{written}");
        }
    }
}
