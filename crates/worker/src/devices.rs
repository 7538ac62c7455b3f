//! Devices by CDI name: what specifications on this machine say that a step with a device gets.
//!
//! Specifications are JSON or YAML files in the operator's directories, read when a step asks. A name is `vendor/class=name`; a
//! kind alone means its first device, `kind=*` all of them. Hooks and what else would run or change something outside
//! of the step is refused.

use std::path::{Path, PathBuf};

use rbuild_exec::{ContainerMount, MountSource};
use rbuild_sys::{Root, SysError};
use serde::Deserialize;

use crate::error::OpError;

/// Larger specifications are refused.
const MAX_SPEC: u64 = 1 << 20;

/// Where devices are looked for.
#[derive(Debug, Clone)]
pub struct DeviceOptions {
    /// Directories of specifications; none: there are no devices.
    pub spec_dirs: Vec<PathBuf>,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        let dirs = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"];
        Self { spec_dirs: dirs.map(PathBuf::from).to_vec() }
    }
}

/// What a step gets with its devices.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    pub(crate) env: Vec<String>,
    pub(crate) mounts: Vec<ContainerMount>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: SpecEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: SpecEdits,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<SpecMount>,
    hooks: Vec<serde::de::IgnoredAny>,
    additional_gids: Vec<serde::de::IgnoredAny>,
    net_devices: Vec<serde::de::IgnoredAny>,
    intel_rdt: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    #[serde(default)]
    host_path: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

/// What the devices of one name are.
///
/// Errors: there is none of that name ([`OpError::Device`]), or it needs what a step cannot have. Blocks.
pub(crate) fn edits(options: &DeviceOptions, name: &str) -> Result<Edits, OpError> {
    let (kind, wanted) = name.split_once('=').map_or((name, None), |(kind, name)| (kind, Some(name)));
    let mut edits = Edits::default();
    let mut found = false;
    for spec in specs(options)? {
        if spec.kind != kind {
            continue;
        }
        let mut named: Vec<_> = spec
            .devices
            .iter()
            .filter(|device| wanted.is_none_or(|name| name == "*" || name == device.name))
            .collect();
        if wanted.is_none() {
            named.truncate(usize::from(!found));
        }
        if !named.is_empty() {
            found = true;
            add(&mut edits, name, &spec.container_edits)?;
        }
        for device in named {
            add(&mut edits, name, &device.container_edits)?;
        }
    }
    if found { Ok(edits) } else { Err(OpError::Device { name: name.to_owned() }) }
}

fn add(edits: &mut Edits, name: &str, more: &SpecEdits) -> Result<(), OpError> {
    let refused = [
        ("hooks", !more.hooks.is_empty()),
        ("additional groups", !more.additional_gids.is_empty()),
        ("network devices", !more.net_devices.is_empty()),
        ("Intel RDT", more.intel_rdt.is_some()),
    ];
    if let Some((what, _)) = refused.iter().find(|(_, asked)| *asked) {
        return Err(OpError::unsupported(format!("CDI device `{name}` with {what}")));
    }
    edits.env.extend(more.env.iter().cloned());
    for node in &more.device_nodes {
        let source = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        edits.mounts.push(bind(Path::new(source), &node.path, false));
    }
    for mount in &more.mounts {
        let readonly = mount.options.iter().any(|option| option == "ro");
        edits.mounts.push(bind(&mount.host_path, &mount.container_path, readonly));
    }
    Ok(())
}

fn bind(source: &Path, dest: &str, readonly: bool) -> ContainerMount {
    let source = rbuild_sys::Mount::Bind { source: source.to_owned(), readonly };
    ContainerMount {
        dest: dest.to_owned(),
        source: MountSource::Mount(source),
        subpath: String::new(),
        readonly,
    }
}

/// All specifications, by directory and file name.
fn specs(options: &DeviceOptions) -> Result<Vec<Spec>, OpError> {
    let mut specs = Vec::new();
    for dir in &options.spec_dirs {
        let root = match Root::open(dir) {
            Ok(root) => root,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let mut names: Vec<_> = root.read_dir()?.into_iter().map(|entry| entry.name).collect();
        names.sort();
        for name in names {
            let path = dir.join(&name);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => specs.push(read(&root, &name, &path, json)?),
                Some("yaml" | "yml") => specs.push(read(&root, &name, &path, yaml)?),
                _ => {}
            }
        }
    }
    Ok(specs)
}

type Parse = fn(&[u8]) -> Result<Spec, String>;

fn json(bytes: &[u8]) -> Result<Spec, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn yaml(bytes: &[u8]) -> Result<Spec, String> {
    serde_yaml_ng::from_slice(bytes).map_err(|error| error.to_string())
}

fn read(root: &Root, name: &std::ffi::OsStr, path: &Path, parse: Parse) -> Result<Spec, OpError> {
    let bytes = root.read_limited(name, MAX_SPEC).map_err(|error: SysError| OpError::from(error))?;
    parse(&bytes).map_err(|error| OpError::invalid(format!("CDI specification {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(spec: &str) -> (tempfile::TempDir, DeviceOptions) {
        options_in("a.json", spec)
    }

    fn options_in(name: &str, spec: &str) -> (tempfile::TempDir, DeviceOptions) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        std::io::Write::write_all(&mut root.create_file(name, 0o644, true).unwrap(), spec.as_bytes())
            .unwrap();
        let options = DeviceOptions { spec_dirs: vec!["/nowhere".into(), dir.path().to_owned()] };
        (dir, options)
    }

    const SPEC: &str = r#"{"cdiVersion":"0.6.0","kind":"test.org/class","containerEdits":{"env":["ALL=1"]},"devices":[
        {"name":"one","containerEdits":{"env":["ONE=1"],"deviceNodes":[{"path":"/dev/one","hostPath":"/dev/null"}]}},
        {"name":"two","containerEdits":{"mounts":[{"hostPath":"/etc","containerPath":"/m","options":["ro"]}]}},
        {"name":"hooked","containerEdits":{"hooks":[{"hookName":"createContainer","path":"/bin/x"}]}}]}"#;

    #[test]
    fn names_kinds_and_stars_find_devices() {
        let (_dir, options) = options(SPEC);
        let one = edits(&options, "test.org/class=one").unwrap();
        assert_eq!(
            (one.env, one.mounts),
            (vec!["ALL=1".into(), "ONE=1".into()], vec![bind(Path::new("/dev/null"), "/dev/one", false)])
        );
        assert_eq!(edits(&options, "test.org/class").unwrap().mounts.len(), 1, "the first");
        assert_eq!(
            edits(&options, "test.org/class=two").unwrap().mounts,
            [bind(Path::new("/etc"), "/m", true)]
        );
        for name in ["test.org/class=none", "test.org/other=one", "one"] {
            assert!(matches!(edits(&options, name), Err(OpError::Device { .. })), "{name}");
        }
        for name in ["test.org/class=hooked", "test.org/class=*"] {
            assert!(edits(&options, name).unwrap_err().to_string().contains("with hooks"), "{name}");
        }
    }

    #[test]
    fn specifications_in_yaml_say_the_same() {
        let spec = "cdiVersion: 0.6.0\nkind: test.org/class\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n\
                    - name: one\n  containerEdits:\n    deviceNodes:\n    - path: /dev/one\n      hostPath: /dev/null\n\
                    - name: hooked\n  containerEdits:\n    hooks:\n    - hookName: createContainer\n      path: /bin/x\n";
        for name in ["a.yaml", "a.yml"] {
            let (_dir, options) = options_in(name, spec);
            let one = edits(&options, "test.org/class=one").unwrap();
            assert_eq!(one.env, ["ALL=1"]);
            assert_eq!(one.mounts, [bind(Path::new("/dev/null"), "/dev/one", false)]);
            let refused = edits(&options, "test.org/class=hooked").unwrap_err().to_string();
            assert!(refused.contains("with hooks"), "{refused}");
        }
        let (_dir, broken) = options_in("b.yaml", "kind: [");
        assert!(edits(&broken, "a/b=c").unwrap_err().to_string().contains("b.yaml"));
    }

    #[test]
    fn a_broken_specification_is_named() {
        let (_dir, options) = options("{");
        assert!(edits(&options, "a/b=c").unwrap_err().to_string().contains("a.json"));
    }
}
