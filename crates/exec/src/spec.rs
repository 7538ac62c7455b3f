//! [`ProcessSpec`]: one process and the sandbox around it, as plain data.

use std::net::IpAddr;

use rbuild_sys::Mount;

use crate::error::ExecError;

/// Host name of a step that names none; upstream's, because programs write it into their output.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
/// `PATH` of a step whose environment has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel's bound on a host name.
const HOSTNAME_MAX: usize = 64;

/// One process and the sandbox around it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessSpec {
    /// Program and arguments. A name without `/` is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`; the last of a name counts. `PATH` and `HOME` are added if they are missing.
    pub env: Vec<String>,
    /// Working directory inside; made, owned by the user, if it is missing.
    pub cwd: String,
    /// Empty, `name`, `uid`, `name:group`, `uid:gid` and mixtures, looked up in the image's files.
    pub user: String,
    /// The root file system.
    pub rootfs: Mount,
    /// Refuse writes outside of `mounts`.
    pub readonly_root: bool,
    /// Further mounts, in order; parents are always mounted before what lies below them.
    pub mounts: Vec<ContainerMount>,
    /// Which network the process sees.
    pub network: NetMode,
    /// How much it is trusted.
    pub security: SecurityMode,
    /// Host name inside; empty is [`DEFAULT_HOSTNAME`].
    pub hostname: String,
    /// Further lines of `/etc/hosts`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Changes to the host's resolver configuration.
    pub dns: DnsConfig,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Cgroup below which the step gets its own.
    pub cgroup_parent: Option<String>,
    /// Limits that need a cgroup.
    pub resources: Resources,
    /// Give the process a terminal of this size instead of pipes; its output is then all `stdout`.
    pub tty: Option<TermSize>,
    /// Also remove empty parents of mount points that were made for the step.
    pub remove_stubs_recursive: bool,
}

impl ProcessSpec {
    /// `args` in `rootfs`, as root in `/`, sandboxed, on the host's network.
    pub fn new<S: Into<String>>(rootfs: Mount, args: impl IntoIterator<Item = S>) -> ProcessSpec {
        ProcessSpec {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            rootfs,
            readonly_root: false,
            mounts: Vec::new(),
            network: NetMode::Host,
            security: SecurityMode::Sandbox,
            hostname: String::new(),
            extra_hosts: Vec::new(),
            dns: DnsConfig::default(),
            ulimits: Vec::new(),
            cgroup_parent: None,
            resources: Resources::default(),
            tty: None,
            remove_stubs_recursive: false,
        }
    }

    /// Does the step need a cgroup of its own?
    pub fn needs_cgroup(&self) -> bool {
        self.cgroup_parent.as_deref().is_some_and(|p| !p.is_empty()) || self.resources != Resources::default()
    }

    /// The host name inside.
    pub fn hostname(&self) -> &str {
        if self.hostname.is_empty() { DEFAULT_HOSTNAME } else { &self.hostname }
    }

    /// Checks what can be checked without looking at any file.
    ///
    /// Errors: [`ExecError::Invalid`] naming the field.
    pub fn validate(&self) -> Result<(), ExecError> {
        let bad = |field, message: String| Err(ExecError::Invalid { field, message });
        if self.args.is_empty() || self.args[0].is_empty() {
            return bad("args", "there is no program to run".into());
        }
        let texts = self.args.iter().chain(&self.env).chain([&self.cwd, &self.user, &self.hostname]);
        let dests = self.mounts.iter().flat_map(|m| [&m.dest, &m.subpath]);
        if let Some(text) = texts.chain(dests).find(|text| text.contains('\0')) {
            return bad("spec", format!("{text:?} holds a NUL byte"));
        }
        if self.hostname.len() > HOSTNAME_MAX {
            return bad("hostname", format!("`{}` is longer than {HOSTNAME_MAX} bytes", self.hostname));
        }
        if let Some((host, _)) =
            self.extra_hosts.iter().find(|(h, _)| h.is_empty() || h.contains(char::is_whitespace))
        {
            return bad("extra_hosts", format!("{host:?} is not a host name"));
        }
        if let Some(mount) = self.mounts.iter().find(|m| clean(&m.dest) == "/") {
            return bad("mounts", format!("`{}` would hide the root file system", mount.dest));
        }
        if let Some(limit) = self.ulimits.iter().find(|u| crate::limits::resource(&u.name).is_none()) {
            return bad("ulimits", format!("there is no limit called `{}`", limit.name));
        }
        Ok(())
    }
}

/// A path in words: absolute, without `.`, `..` and doubled slashes. Not for use, only for comparison.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Something mounted into the sandbox.
#[derive(Clone, PartialEq, Eq)]
pub struct ContainerMount {
    /// Where, inside. Missing directories (or a file, if the source is one) are made, and removed after the run.
    pub dest: String,
    /// What.
    pub source: MountSource,
    /// Which file or directory below the source's root; resolved there, never outside. Empty: the root itself.
    pub subpath: String,
    /// Refuse writes.
    pub readonly: bool,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A bind, overlay or tmpfs. For a bind the source may be a file or socket.
    Mount(Mount),
    /// A file with this content that never touches a disk (secrets).
    Data {
        /// The content.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

// By hand: a secret's bytes belong in no log.
impl std::fmt::Debug for MountSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MountSource::Mount(mount) => f.debug_tuple("Mount").field(mount).finish(),
            MountSource::Data { bytes, mode, uid, gid } => {
                write!(f, "Data({} bytes, {mode:o}, {uid}:{gid})", bytes.len())
            }
        }
    }
}

impl std::fmt::Debug for ContainerMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = if self.readonly { "ro" } else { "rw" };
        write!(f, "{} <- {:?}/{} ({mode})", self.dest, self.source, self.subpath)
    }
}

/// Which network a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum NetMode {
    /// The daemon's.
    Host,
    /// A new one with nothing but loopback.
    None,
    /// A new one that is connected through the runtime's [`Bridge`](crate::Bridge).
    Bridge,
}

/// How much a step is trusted. Closed: what is not `Insecure` is sandboxed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SecurityMode {
    /// Few capabilities, seccomp, masked and read-only kernel files.
    Sandbox,
    /// Everything the daemon itself may do.
    Insecure,
}

/// Overrides of the host's resolver configuration; what is empty is taken from the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DnsConfig {
    /// Name servers.
    pub nameservers: Vec<String>,
    /// Options, for instance `ndots:2`.
    pub options: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// One resource limit; −1 is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ulimit {
    /// As in `ulimit` flags of container tools: `nofile`, `nproc`, …
    pub name: String,
    /// The limit in force.
    pub soft: i64,
    /// How far the process may raise it.
    pub hard: i64,
}

/// Limits that need a cgroup; zero or empty means none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of memory and swap together; −1 is unlimited.
    pub memory_swap: i64,
    /// Relative weight, 2 to 262,144.
    pub cpu_shares: u64,
    /// Microseconds of CPU time per period.
    pub cpu_quota: i64,
    /// The period in microseconds.
    pub cpu_period: u64,
    /// CPUs to run on, as `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, in the same form.
    pub cpuset_mems: String,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TermSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ProcessSpec {
        ProcessSpec::new(Mount::Bind { source: "/r".into(), readonly: false }, ["/bin/true"])
    }

    #[test]
    fn impossible_specs_name_the_field() {
        let field = |change: fn(&mut ProcessSpec)| {
            let mut spec = spec();
            change(&mut spec);
            match spec.validate() {
                Err(ExecError::Invalid { field, .. }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(field(|s| s.args.clear()), "args");
        assert_eq!(field(|s| s.env.push("A=\0".into())), "spec");
        assert_eq!(field(|s| s.hostname = "x".repeat(65)), "hostname");
        assert_eq!(field(|s| s.extra_hosts.push(("a b".into(), [1, 1, 1, 1].into()))), "extra_hosts");
        assert_eq!(field(|s| s.ulimits.push(Ulimit { name: "nofiles".into(), soft: 1, hard: 1 })), "ulimits");
        assert_eq!(
            field(|s| s.mounts.push(ContainerMount {
                dest: "/a/..".into(),
                source: MountSource::Mount(s.rootfs.clone()),
                subpath: String::new(),
                readonly: true,
            })),
            "mounts"
        );
        spec().validate().unwrap();
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let source = MountSource::Data { bytes: b"hunter2".to_vec(), mode: 0o400, uid: 0, gid: 0 };
        assert_eq!(format!("{source:?}"), "Data(7 bytes, 400, 0:0)");
    }

    #[test]
    fn paths_are_cleaned_in_words() {
        for (path, want) in [("a//b/./c", "/a/b/c"), ("/../x/..", "/"), ("", "/"), ("/a/../b/", "/b")] {
            assert_eq!(clean(path), want);
        }
    }
}
