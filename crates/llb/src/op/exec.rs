use std::collections::BTreeSet;

use rbuild_api::pb;

use super::{index_to_wire, optional_index};
use crate::OpError;

/// Runs a process on mounted inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOp {
    /// The process.
    pub meta: ExecMeta,
    /// What it sees; one of them at `/`.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: NetMode,
    /// How it is confined.
    pub security: SecurityMode,
    /// Secrets that become variables.
    pub secret_env: Vec<SecretEnv>,
    /// Devices by CDI name.
    pub cdi_devices: Vec<CdiDevice>,
}

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecMeta {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Proxies; they don't change what the step is.
    pub proxy_env: Option<ProxyEnv>,
    /// Additions to `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Host name.
    pub hostname: String,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Parent control group.
    pub cgroup_parent: String,
    /// Also remove the parents of mount points that had to be made.
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that count as success; empty is 0 alone.
    pub valid_exit_codes: Vec<i32>,
}

/// Something that a process sees at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which input; `None` is scratch.
    pub input: Option<u32>,
    /// Path within the input.
    pub selector: String,
    /// Where it is seen.
    pub dest: String,
    /// Which output it becomes after the process; `None`: it is thrown away.
    pub output: Option<u32>,
    /// The process can't write to it.
    pub readonly: bool,
    /// What it is.
    pub kind: MountKind,
    /// Names a result in interactive containers.
    pub result_id: String,
    /// Whether the mount's content, rather than its origin, identifies it to the cache.
    pub content_cache: ContentCache,
}

/// What a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MountKind {
    /// An input, or scratch.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Which one.
        id: String,
        /// Who else may use it meanwhile.
        sharing: CacheSharing,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 is no limit.
        size_bytes: i64,
    },
    /// A secret as a file.
    Secret(SecretMount),
    /// The client's ssh agent.
    Ssh(SshMount),
}

/// A secret as a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
    /// Go on without it if the client doesn't have it.
    pub optional: bool,
}

/// The client's ssh agent as a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent.
    pub id: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
    /// Go on without it if the client doesn't have it.
    pub optional: bool,
}

/// Proxies of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `HTTP_PROXY`.
    pub http_proxy: String,
    /// `HTTPS_PROXY`.
    pub https_proxy: String,
    /// `FTP_PROXY`.
    pub ftp_proxy: String,
    /// `NO_PROXY`.
    pub no_proxy: String,
    /// `ALL_PROXY`.
    pub all_proxy: String,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostIp {
    /// Name.
    pub host: String,
    /// Address.
    pub ip: String,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ulimit {
    /// `nofile`, `nproc`…
    pub name: String,
    /// Soft limit; -1 is none.
    pub soft: i64,
    /// Hard limit; -1 is none.
    pub hard: i64,
}

/// A secret as a variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretEnv {
    /// Which secret.
    pub id: String,
    /// Name of the variable.
    pub name: String,
    /// Go on without it if the client doesn't have it.
    pub optional: bool,
}

/// A device by its CDI name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CdiDevice {
    /// `vendor.com/class=name`.
    pub name: String,
    /// Go on without it.
    pub optional: bool,
}

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident = $wire:ident as $field:literal {
        $($(#[$vdoc:meta])* $variant:ident = $wvariant:ident),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// From the wire. Errors: values that we don't know.
            pub fn from_wire(value: i32) -> Result<Self, OpError> {
                match pb::$wire::try_from(value) {
                    $(Ok(pb::$wire::$wvariant) => Ok(Self::$variant),)+
                    Err(_) => Err(OpError::UnknownEnum { field: $field, value }),
                }
            }

            /// To the wire.
            pub fn to_wire(self) -> i32 {
                match self { $(Self::$variant => pb::$wire::$wvariant.into()),+ }
            }
        }
    };
}

wire_enum! {
    /// Network of a process.
    NetMode = NetMode as "network mode" {
        /// As the daemon is configured.
        #[default] Sandbox = Unset,
        /// The host's; needs an entitlement.
        Host = Host,
        /// None but loopback.
        None = None,
    }
}

wire_enum! {
    /// How a process is confined.
    SecurityMode = SecurityMode as "security mode" {
        /// Fully.
        #[default] Sandbox = Sandbox,
        /// Hardly; needs an entitlement.
        Insecure = Insecure,
    }
}

wire_enum! {
    /// Who may use a cache mount at the same time.
    CacheSharing = CacheSharingOpt as "cache sharing" {
        /// Everybody.
        #[default] Shared = Shared,
        /// Everybody has their own.
        Private = Private,
        /// One after the other.
        Locked = Locked,
    }
}

wire_enum! {
    /// Whether content identifies a mount to the cache.
    ContentCache = MountContentCache as "content cache" {
        /// Read-only ones: yes.
        #[default] Default = Default,
        /// Yes.
        On = On,
        /// No.
        Off = Off,
    }
}

impl ExecOp {
    /// How many outputs it has.
    pub fn output_count(&self) -> u32 {
        self.mounts.iter().filter_map(|m| m.output).max().map_or(0, |last| last + 1)
    }

    /// The mount at `/`.
    pub fn root_mount(&self) -> Option<&Mount> {
        self.mounts.iter().find(|m| m.dest == "/")
    }

    pub(super) fn from_wire(wire: pb::ExecOp, inputs: usize) -> Result<Self, OpError> {
        let meta = ExecMeta::from_wire(wire.meta.ok_or(OpError::Missing("meta of the exec"))?);
        if meta.args.is_empty() {
            return Err(OpError::Missing("arguments of the exec"));
        }
        let count = wire.mounts.len();
        let mounts = wire.mounts.into_iter().map(|m| Mount::from_wire(m, inputs, count));
        let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
        if !mounts.iter().any(|m| m.dest == "/") {
            return Err(OpError::Missing("root mount of the exec"));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = mounts.iter().filter_map(|m| m.output).find(|output| !seen.insert(*output)) {
            return Err(OpError::DuplicateOutput(i64::from(twice)));
        }
        Ok(Self {
            meta,
            mounts,
            network: NetMode::from_wire(wire.network)?,
            security: SecurityMode::from_wire(wire.security)?,
            secret_env: wire
                .secretenv
                .into_iter()
                .map(|s| SecretEnv { id: s.id, name: s.name, optional: s.optional })
                .collect(),
            cdi_devices: wire
                .cdi_devices
                .into_iter()
                .map(|d| CdiDevice { name: d.name, optional: d.optional })
                .collect(),
        })
    }

    pub(crate) fn to_wire(&self) -> pb::ExecOp {
        let secrets = self.secret_env.iter().cloned();
        let devices = self.cdi_devices.iter().cloned();
        pb::ExecOp {
            meta: Some(self.meta.to_wire()),
            mounts: self.mounts.iter().map(Mount::to_wire).collect(),
            network: self.network.to_wire(),
            security: self.security.to_wire(),
            secretenv: secrets
                .map(|s| pb::SecretEnv { id: s.id, name: s.name, optional: s.optional })
                .collect(),
            cdi_devices: devices.map(|d| pb::CdiDevice { name: d.name, optional: d.optional }).collect(),
        }
    }
}

impl ExecMeta {
    /// From the wire. Everything is legal here.
    pub fn from_wire(wire: pb::Meta) -> Self {
        Self {
            args: wire.args,
            env: wire.env,
            cwd: wire.cwd,
            user: wire.user,
            proxy_env: wire.proxy_env.map(|p| ProxyEnv {
                http_proxy: p.http_proxy,
                https_proxy: p.https_proxy,
                ftp_proxy: p.ftp_proxy,
                no_proxy: p.no_proxy,
                all_proxy: p.all_proxy,
            }),
            extra_hosts: wire.extra_hosts.into_iter().map(|h| HostIp { host: h.host, ip: h.ip }).collect(),
            hostname: wire.hostname,
            ulimits: wire
                .ulimit
                .into_iter()
                .map(|u| Ulimit { name: u.name, soft: u.soft, hard: u.hard })
                .collect(),
            cgroup_parent: wire.cgroup_parent,
            remove_mount_stubs_recursive: wire.remove_mount_stubs_recursive,
            valid_exit_codes: wire.valid_exit_codes,
        }
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::Meta {
        let hosts = self.extra_hosts.iter().cloned();
        let ulimits = self.ulimits.iter().cloned();
        pb::Meta {
            args: self.args.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            proxy_env: self.proxy_env.clone().map(|p| pb::ProxyEnv {
                http_proxy: p.http_proxy,
                https_proxy: p.https_proxy,
                ftp_proxy: p.ftp_proxy,
                no_proxy: p.no_proxy,
                all_proxy: p.all_proxy,
            }),
            extra_hosts: hosts.map(|h| pb::HostIp { host: h.host, ip: h.ip }).collect(),
            hostname: self.hostname.clone(),
            ulimit: ulimits.map(|u| pb::Ulimit { name: u.name, soft: u.soft, hard: u.hard }).collect(),
            cgroup_parent: self.cgroup_parent.clone(),
            remove_mount_stubs_recursive: self.remove_mount_stubs_recursive,
            valid_exit_codes: self.valid_exit_codes.clone(),
        }
    }
}

impl Mount {
    /// From the wire, with `inputs` inputs and `mounts` mounts in the op. Secrets and agents have no output,
    /// whatever the wire says (clients leave it at 0).
    pub fn from_wire(wire: pb::Mount, inputs: usize, mounts: usize) -> Result<Self, OpError> {
        let kind = MountKind::from_wire(&wire)?;
        let output = match kind {
            MountKind::Secret(_) | MountKind::Ssh(_) => None,
            _ => optional_index("output of the mount", wire.output, mounts)?,
        };
        Ok(Self {
            input: optional_index("input of the mount", wire.input, inputs)?,
            selector: wire.selector,
            dest: wire.dest,
            output,
            readonly: wire.readonly,
            kind,
            result_id: wire.result_id,
            content_cache: ContentCache::from_wire(wire.content_cache)?,
        })
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::Mount {
        let mut wire = pb::Mount {
            input: index_to_wire(self.input),
            selector: self.selector.clone(),
            dest: self.dest.clone(),
            output: index_to_wire(self.output),
            readonly: self.readonly,
            result_id: self.result_id.clone(),
            content_cache: self.content_cache.to_wire(),
            ..pb::Mount::default()
        };
        self.kind.put(&mut wire);
        wire
    }
}

impl MountKind {
    fn from_wire(wire: &pb::Mount) -> Result<Self, OpError> {
        let kind = pb::MountType::try_from(wire.mount_type)
            .map_err(|_| OpError::UnknownEnum { field: "mount type", value: wire.mount_type })?;
        Ok(match kind {
            pb::MountType::Bind => Self::Bind,
            pb::MountType::Cache => {
                let cache = wire.cache_opt.clone().ok_or(OpError::Missing("options of the cache mount"))?;
                Self::Cache { id: cache.id, sharing: CacheSharing::from_wire(cache.sharing)? }
            }
            pb::MountType::Tmpfs => {
                let size_bytes = wire.tmpfs_opt.map_or(0, |t| t.size);
                if size_bytes < 0 {
                    return Err(OpError::Range { field: "size of the tmpfs", value: size_bytes });
                }
                Self::Tmpfs { size_bytes }
            }
            pb::MountType::Secret => {
                let s = wire.secret_opt.clone().ok_or(OpError::Missing("options of the secret mount"))?;
                let pb::SecretOpt { id, uid, gid, mode, optional } = s;
                Self::Secret(SecretMount { id, uid, gid, mode, optional })
            }
            pb::MountType::Ssh => {
                let s = wire.ssh_opt.clone().ok_or(OpError::Missing("options of the ssh mount"))?;
                let pb::SshOpt { id, uid, gid, mode, optional } = s;
                Self::Ssh(SshMount { id, uid, gid, mode, optional })
            }
        })
    }

    fn put(&self, wire: &mut pb::Mount) {
        match self {
            Self::Bind => wire.mount_type = pb::MountType::Bind.into(),
            Self::Cache { id, sharing } => {
                wire.mount_type = pb::MountType::Cache.into();
                wire.cache_opt = Some(pb::CacheOpt { id: id.clone(), sharing: sharing.to_wire() });
            }
            Self::Tmpfs { size_bytes } => {
                wire.mount_type = pb::MountType::Tmpfs.into();
                wire.tmpfs_opt = Some(pb::TmpfsOpt { size: *size_bytes });
            }
            Self::Secret(s) => {
                wire.output = 0;
                wire.mount_type = pb::MountType::Secret.into();
                let (id, uid, gid, mode) = (s.id.clone(), s.uid, s.gid, s.mode);
                wire.secret_opt = Some(pb::SecretOpt { id, uid, gid, mode, optional: s.optional });
            }
            Self::Ssh(s) => {
                wire.output = 0;
                wire.mount_type = pb::MountType::Ssh.into();
                let (id, uid, gid, mode) = (s.id.clone(), s.uid, s.gid, s.mode);
                wire.ssh_opt = Some(pb::SshOpt { id, uid, gid, mode, optional: s.optional });
            }
        }
    }
}
