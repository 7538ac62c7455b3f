//! `config.json` of a bundle: a pure function of the specification and of where things were put.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::init::{CAPABILITY_NAMES, MASKED, READONLY};
use crate::spec::{ProcessSpec, Resources, SecurityMode, clean};
use crate::user::Identity;
use crate::{NetMode, limits, seccomp};

/// Where the pieces of a bundle are.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) rootfs: PathBuf,
    pub(super) hosts: PathBuf,
    pub(super) resolv_conf: PathBuf,
    /// Per mount of the specification: where it is mounted for the runtime to bind.
    pub(super) mounts: Vec<PathBuf>,
    pub(super) user: Identity,
    pub(super) env: Vec<String>,
    pub(super) cgroup: Option<String>,
    /// The network namespace of a step on the bridge.
    pub(super) network: Option<PathBuf>,
    /// What an insecure step may do, in the runtime's names.
    pub(super) all_capabilities: Vec<String>,
}

impl Prepared {
    /// As it would be for a bundle in `dir` whose image has no users.
    pub(super) fn preview(spec: &ProcessSpec, dir: &Path) -> Prepared {
        Prepared {
            rootfs: dir.join("rootfs"),
            hosts: dir.join("hosts"),
            resolv_conf: dir.join("resolv.conf"),
            mounts: (0..spec.mounts.len()).map(|i| dir.join(format!("m{i}"))).collect(),
            user: crate::user::numeric(&spec.user).unwrap_or(Identity { uid: 0, gid: 0, groups: vec![0] }),
            env: spec.env.clone(),
            cgroup: None,
            network: None,
            all_capabilities: CAPABILITY_NAMES.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The whole of `config.json`.
pub(super) fn config(spec: &ProcessSpec, at: &Prepared) -> Value {
    let insecure = spec.security == SecurityMode::Insecure;
    let mut linux = json!({
        "namespaces": namespaces(spec.network, at.network.as_deref()),
        "resources": resources(&spec.resources, insecure),
        "maskedPaths": if insecure { &[] } else { MASKED },
        "readonlyPaths": if insecure { &[] } else { READONLY },
    });
    if let Some(path) = &at.cgroup {
        linux["cgroupsPath"] = json!(path);
    }
    if !insecure {
        linux["seccomp"] = seccomp::oci();
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process(spec, at),
        "root": { "path": at.rootfs, "readonly": spec.readonly_root },
        "hostname": spec.hostname(),
        "mounts": mounts(spec, at),
        "linux": linux,
    })
}

fn process(spec: &ProcessSpec, at: &Prepared) -> Value {
    let insecure = spec.security == SecurityMode::Insecure;
    let usual: Vec<String> = CAPABILITY_NAMES.iter().map(ToString::to_string).collect();
    let held = if insecure { &at.all_capabilities } else { &usual };
    let inherited: &[String] = if insecure { held } else { &[] };
    let rlimits: Vec<Value> = spec
        .ulimits
        .iter()
        .filter_map(|limit| {
            let (_, name) = limits::resource(&limit.name)?;
            Some(json!({ "type": name, "soft": limit.soft as u64, "hard": limit.hard as u64 }))
        })
        .collect();
    json!({
        "terminal": spec.tty.is_some(),
        "user": { "uid": at.user.uid, "gid": at.user.gid, "additionalGids": at.user.groups },
        "args": spec.args,
        "env": at.env,
        "cwd": clean(&spec.cwd),
        "capabilities": {
            "bounding": held,
            "effective": held,
            "permitted": held,
            "inheritable": inherited,
            "ambient": inherited,
        },
        "rlimits": rlimits,
        "noNewPrivileges": false,
    })
}

fn namespaces(network: NetMode, path: Option<&Path>) -> Value {
    let mut list = vec!["mount", "pid", "ipc", "uts"];
    if crate::cgroup::is_unified() {
        list.push("cgroup");
    }
    let mut list: Vec<Value> = list.into_iter().map(|kind| json!({ "type": kind })).collect();
    match (network, path) {
        (NetMode::Host, _) => {}
        (NetMode::Bridge, Some(path)) => list.push(json!({ "type": "network", "path": path })),
        (NetMode::None | NetMode::Bridge, _) => list.push(json!({ "type": "network" })),
    }
    Value::Array(list)
}

fn mounts(spec: &ProcessSpec, at: &Prepared) -> Vec<Value> {
    let access = if spec.security == SecurityMode::Insecure { "rw" } else { "ro" };
    let mount = |dest: &str, kind: &str, options: &[&str]| json!({ "destination": dest, "type": kind, "source": kind, "options": options });
    let file = |dest: &str, source: &Path| {
        let options = ["nosuid", "noexec", "nodev", "rbind", "ro"];
        json!({ "destination": dest, "type": "bind", "source": source, "options": options })
    };
    let tty_group = "gid=5";
    let mut list = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", tty_group],
        ),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        file("/etc/resolv.conf", &at.resolv_conf),
        file("/etc/hosts", &at.hosts),
    ];
    if crate::cgroup::is_unified() {
        list.push(mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]));
    }
    let mut asked: Vec<(String, Value)> = spec
        .mounts
        .iter()
        .zip(&at.mounts)
        .map(|(mount, source)| {
            let dest = clean(&mount.dest);
            let options: &[&str] = if mount.readonly { &["rbind", "ro"] } else { &["rbind"] };
            let value = json!({ "destination": dest, "type": "bind", "source": source, "options": options });
            (dest, value)
        })
        .collect();
    asked.sort_by_key(|(dest, _)| dest.matches('/').count());
    for (dest, value) in asked {
        match list.iter_mut().find(|known| known["destination"] == *dest) {
            Some(earlier) => *earlier = value,
            None => list.push(value),
        }
    }
    list
}

fn resources(limits: &Resources, insecure: bool) -> Value {
    let devices = if insecure {
        json!([{ "allow": true, "access": "rwm" }])
    } else {
        json!([{ "allow": false, "access": "rwm" }])
    };
    let mut value = json!({ "devices": devices });
    let mut set = |group: &str, key: &str, number: Value| value[group][key] = number;
    let numbers = [
        ("memory", "limit", limits.memory),
        ("memory", "swap", limits.memory_swap),
        ("cpu", "shares", i64::try_from(limits.cpu_shares).unwrap_or(i64::MAX)),
        ("cpu", "quota", limits.cpu_quota),
        ("cpu", "period", i64::try_from(limits.cpu_period).unwrap_or(i64::MAX)),
    ];
    for (group, key, number) in numbers.into_iter().filter(|(_, _, number)| *number != 0) {
        set(group, key, json!(number));
    }
    for (key, text) in [("cpus", &limits.cpuset_cpus), ("mems", &limits.cpuset_mems)] {
        if !text.is_empty() {
            set("cpu", key, json!(text));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use rbuild_sys::Mount;

    use super::*;
    use crate::spec::{ContainerMount, MountSource, TermSize, Ulimit};

    fn spec() -> ProcessSpec {
        let mut spec =
            ProcessSpec::new(Mount::Bind { source: "/r".into(), readonly: false }, ["/bin/sh", "-c", "make"]);
        spec.env = vec!["PATH=/bin".into()];
        spec.user = "1000:1001".into();
        spec.cwd = "/src/./x/".into();
        spec.network = NetMode::None;
        spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 10, hard: -1 }];
        spec.resources = Resources { memory: 1 << 20, cpu_shares: 2, ..Resources::default() };
        spec.mounts = ["/b/c", "/b", "/dev/shm"]
            .map(|dest| ContainerMount {
                dest: dest.into(),
                source: MountSource::Mount(Mount::Tmpfs { size: None, mode: 0o755 }),
                subpath: String::new(),
                readonly: dest == "/b",
            })
            .to_vec();
        spec
    }

    /// Compared as text with a file; the long seccomp list is cut, it has its own tests.
    fn golden(name: &str, spec: &ProcessSpec) {
        let mut value = super::super::config_json(spec, Path::new("/bundle"));
        if let Some(seccomp) = value["linux"].get_mut("seccomp") {
            *seccomp = json!("(the default profile)");
        }
        // Hosts differ in this; the rest does not depend on them.
        value["linux"]["namespaces"].as_array_mut().expect("a list").retain(|ns| ns["type"] != "cgroup");
        value["mounts"].as_array_mut().expect("a list").retain(|m| m["destination"] != "/sys/fs/cgroup");
        let text = serde_json::to_string_pretty(&value).expect("JSON") + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("RBUILD_GOLDEN").is_some() {
            std::fs::write(&path, &text).expect("writable");
        }
        assert_eq!(text, std::fs::read_to_string(&path).expect("accept with RBUILD_GOLDEN=1"), "{name}");
    }

    #[test]
    fn a_sandboxed_step_is_as_recorded() {
        golden("sandbox.json", &spec());
    }

    #[test]
    fn an_insecure_step_is_as_recorded() {
        let mut spec = spec();
        spec.security = SecurityMode::Insecure;
        spec.network = NetMode::Host;
        spec.readonly_root = true;
        spec.tty = Some(TermSize { rows: 1, cols: 1 });
        golden("insecure.json", &spec);
    }
}
