use std::sync::Arc;

use super::constraints::{Constraints, DefaultPath, MarshalOptions};
use super::state::{Environment, State};
use super::vertex::{Output, Plan, PlannedVertex};
use crate::error::BuildProblem;
use crate::op::{
    CacheSharing, CdiDevice, ContentCache, ExecMeta, ExecOp, Mount, MountKind, NetMode, ProxyEnv, SecretEnv,
    SecretMount, SecurityMode, SshMount,
};
use crate::{LlbError, caps};

/// What processes find in `PATH` if nobody says otherwise.
const DEFAULT_PATH_UNIX: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process to run.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub args: Vec<String>,
    /// What it sees beside its root.
    pub mounts: Vec<MountOptions>,
    /// Secrets as files or variables.
    pub secrets: Vec<SecretOptions>,
    /// The client's agents.
    pub ssh: Vec<SshOptions>,
    /// Devices.
    pub cdi_devices: Vec<CdiDevice>,
    /// The process can't write to its root; the result is the state it started from.
    pub readonly_root: bool,
    /// Proxies.
    pub proxy_env: Option<ProxyEnv>,
    /// Metadata, platform, place.
    pub constraints: Constraints,
    /// Environment of the process alone; `None`: that of the state. The result keeps the state's.
    pub environment_of: Option<State>,
}

/// Something mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Where.
    pub target: String,
    /// What.
    pub attached: Attached,
    /// Path within it; empty is all of it.
    pub selector: String,
    /// The process can't write to it.
    pub readonly: bool,
    /// What the process writes is thrown away.
    pub no_output: bool,
    /// Whether its content identifies it to the cache.
    pub content_cache: ContentCache,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub enum Attached {
    /// The files of a state.
    Bind(State),
    /// A directory that outlives the build.
    Cache {
        /// What it holds at first.
        from: State,
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
}

impl MountOptions {
    /// A writable mount of a state, whose changes become an output.
    pub fn bind(target: impl Into<String>, state: State) -> Self {
        Self::new(target, Attached::Bind(state))
    }

    /// Any mount with defaults.
    pub fn new(target: impl Into<String>, attached: Attached) -> Self {
        Self {
            target: target.into(),
            attached,
            selector: String::new(),
            readonly: false,
            no_output: false,
            content_cache: ContentCache::default(),
        }
    }
}

/// A secret for a process.
#[derive(Debug, Clone)]
pub struct SecretOptions {
    /// Which secret.
    pub id: String,
    /// The file it becomes.
    pub target: Option<String>,
    /// The variable it becomes.
    pub env: Option<String>,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permissions of the file.
    pub mode: u32,
    /// Go on without it if the client doesn't have it.
    pub optional: bool,
}

impl Default for SecretOptions {
    fn default() -> Self {
        let id = String::new();
        Self { id, target: None, env: None, uid: 0, gid: 0, mode: 0o400, optional: false }
    }
}

/// An agent for a process.
#[derive(Debug, Clone)]
pub struct SshOptions {
    /// Which agent.
    pub id: String,
    /// Path of the socket; `None` is `/run/buildkit/ssh_agent.N`.
    pub target: Option<String>,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permissions of the socket.
    pub mode: u32,
    /// Go on without it if the client doesn't have it.
    pub optional: bool,
}

impl Default for SshOptions {
    fn default() -> Self {
        Self { id: String::new(), target: None, uid: 0, gid: 0, mode: 0o600, optional: false }
    }
}

/// What a process leaves behind.
#[derive(Debug, Clone)]
pub struct ExecState {
    root: State,
    mounts: Vec<(String, Option<State>)>,
}

impl ExecState {
    /// The root.
    pub fn root(&self) -> State {
        self.root.clone()
    }

    /// A mount. Errors: there is none at `target`, or it has no output.
    pub fn mount(&self, target: &str) -> Result<State, LlbError> {
        let found = self.mounts.iter().find(|(known, _)| known == target);
        found
            .and_then(|(_, state)| state.clone())
            .ok_or_else(|| LlbError::Build(BuildProblem::NoMountOutput(target.to_owned())))
    }
}

/// A process, its mounts sorted by target as outputs are numbered.
#[derive(Debug)]
pub(super) struct ExecPlan {
    args: Vec<String>,
    env: Arc<Environment>,
    mounts: Vec<PlannedMount>,
    secrets: Vec<SecretOptions>,
    ssh: Vec<SshOptions>,
    cdi_devices: Vec<CdiDevice>,
    proxy_env: Option<ProxyEnv>,
}

#[derive(Debug)]
struct PlannedMount {
    target: String,
    source: Option<Output>,
    output: Option<u32>,
    selector: String,
    readonly: bool,
    kind: MountKind,
    content_cache: ContentCache,
}

impl ExecPlan {
    pub(super) fn take_inputs(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.mounts.iter_mut().filter_map(|m| m.source.take())
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.env
    }

    /// Capabilities that the process needs.
    pub(super) fn caps(&self, options: &MarshalOptions, constraints: &Constraints) -> Vec<&'static str> {
        let mut needed = vec![caps::EXEC_META_BASE];
        let mut add = |condition: bool, cap| {
            if condition {
                needed.push(cap);
            }
        };
        let env = &self.env;
        add(options.default_path == DefaultPath::Daemon, caps::EXEC_META_SETS_DEFAULT_PATH);
        add(!env.valid_exit_codes.is_empty(), caps::EXEC_VALID_EXIT_CODE);
        add(!env.ulimits.is_empty(), caps::EXEC_META_ULIMIT);
        add(constraints.metadata.linux_resources.is_some(), caps::EXEC_META_LINUX_RESOURCES);
        add(env.network != NetMode::Sandbox, caps::EXEC_META_NETWORK);
        add(env.security != SecurityMode::Sandbox, caps::EXEC_META_SECURITY);
        add(self.proxy_env.is_some(), caps::EXEC_META_PROXY);
        add(!self.secrets.is_empty(), caps::EXEC_MOUNT_SECRET);
        add(self.secrets.iter().any(|s| s.env.is_some()), caps::EXEC_SECRET_ENV);
        add(!self.ssh.is_empty(), caps::EXEC_MOUNT_SSH);
        add(!self.cdi_devices.is_empty(), caps::EXEC_META_CDI);
        for mount in &self.mounts {
            add(!mount.selector.is_empty(), caps::EXEC_MOUNT_SELECTOR);
            add(mount.content_cache != ContentCache::Default, caps::EXEC_MOUNT_CONTENT_CACHE);
            match &mount.kind {
                MountKind::Cache { .. } => {
                    add(true, caps::EXEC_MOUNT_CACHE);
                    add(true, caps::EXEC_MOUNT_CACHE_SHARING);
                }
                MountKind::Tmpfs { size_bytes } => {
                    add(true, caps::EXEC_MOUNT_TMPFS);
                    add(*size_bytes > 0, caps::EXEC_MOUNT_TMPFS_SIZE);
                }
                _ => add(mount.source.is_some(), caps::EXEC_MOUNT_BIND),
            }
        }
        needed
    }

    /// The op. `input` numbers an output among the op's inputs.
    pub(super) fn op(
        &self,
        options: &MarshalOptions,
        platform_os: &str,
        mut input: impl FnMut(&Output) -> u32,
    ) -> Result<ExecOp, LlbError> {
        if self.args.is_empty() {
            return Err(LlbError::Build(BuildProblem::NoArgs));
        }
        if self.env.dir.is_empty() {
            return Err(LlbError::Build(BuildProblem::NoCwd));
        }
        let mut mounts: Vec<Mount> = self
            .mounts
            .iter()
            .map(|mount| Mount {
                input: mount.source.as_ref().map(&mut input),
                selector: mount.selector.clone(),
                dest: mount.target.clone(),
                output: mount.output,
                readonly: mount.readonly,
                kind: mount.kind.clone(),
                result_id: String::new(),
                content_cache: mount.content_cache,
            })
            .collect();
        mounts.extend(self.secret_mounts());
        mounts.extend(self.ssh_mounts());
        let secret_env = self.secrets.iter().filter_map(|s| {
            let (id, optional) = (s.id.clone(), s.optional);
            s.env.clone().map(|name| SecretEnv { id, name, optional })
        });
        Ok(ExecOp {
            meta: self.meta(options, platform_os),
            mounts,
            network: self.env.network,
            security: self.env.security,
            secret_env: secret_env.collect(),
            cdi_devices: self.cdi_devices.clone(),
        })
    }

    fn meta(&self, options: &MarshalOptions, platform_os: &str) -> ExecMeta {
        let mut env: Vec<String> =
            self.env.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let has = |name: &str| self.env.env.iter().any(|(known, _)| known == name);
        if !self.ssh.is_empty() && !has("SSH_AUTH_SOCK") {
            env.push(format!("SSH_AUTH_SOCK={}", self.ssh_target(0)));
        }
        if options.default_path == DefaultPath::Builder && platform_os != "windows" && !has("PATH") {
            env.push(format!("PATH={DEFAULT_PATH_UNIX}"));
        }
        ExecMeta {
            args: self.args.clone(),
            env,
            cwd: self.env.dir.clone(),
            user: self.env.user.clone(),
            proxy_env: self.proxy_env.clone(),
            extra_hosts: self.env.extra_hosts.clone(),
            hostname: self.env.hostname.clone(),
            ulimits: self.env.ulimits.clone(),
            cgroup_parent: self.env.cgroup_parent.clone(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: self.env.valid_exit_codes.clone(),
        }
    }

    fn secret_mounts(&self) -> impl Iterator<Item = Mount> + '_ {
        self.secrets.iter().filter_map(|s| {
            let (id, optional) = (s.id.clone(), s.optional);
            let secret = SecretMount { id, uid: s.uid, gid: s.gid, mode: s.mode, optional };
            s.target.as_ref().map(|target| virtual_mount(target.clone(), MountKind::Secret(secret)))
        })
    }

    fn ssh_mounts(&self) -> impl Iterator<Item = Mount> + '_ {
        self.ssh.iter().enumerate().map(|(position, s)| {
            let (id, optional) = (s.id.clone(), s.optional);
            let agent = SshMount { id, uid: s.uid, gid: s.gid, mode: s.mode, optional };
            virtual_mount(self.ssh_target(position), MountKind::Ssh(agent))
        })
    }

    fn ssh_target(&self, position: usize) -> String {
        let given = self.ssh[position].target.clone().filter(|target| !target.is_empty());
        given.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{position}"))
    }
}

/// A mount that isn't files of the graph.
fn virtual_mount(dest: String, kind: MountKind) -> Mount {
    Mount {
        input: None,
        selector: String::new(),
        dest,
        output: None,
        readonly: false,
        kind,
        result_id: String::new(),
        content_cache: ContentCache::Default,
    }
}

impl PlannedMount {
    /// The mount, and the state that goes on from it.
    fn new(options: MountOptions) -> (Self, State) {
        let (base, kind) = match options.attached {
            Attached::Bind(state) => (state, MountKind::Bind),
            Attached::Cache { from, id, sharing } => (from, MountKind::Cache { id, sharing }),
            Attached::Tmpfs { size_bytes } => (State::scratch(), MountKind::Tmpfs { size_bytes }),
        };
        let writes = !options.readonly && !options.no_output && kind == MountKind::Bind;
        let mount = Self {
            target: options.target,
            source: base.output.clone(),
            output: writes.then_some(0),
            selector: options.selector,
            readonly: options.readonly,
            kind,
            content_cache: options.content_cache,
        };
        (mount, base)
    }
}

pub(super) fn plan_exec(state: &State, options: ExecOptions) -> ExecState {
    let mut root = MountOptions::bind("/", state.clone());
    root.readonly = options.readonly_root;
    let all = std::iter::once(root).chain(options.mounts);
    let mut mounts: Vec<(PlannedMount, State)> = all.map(PlannedMount::new).collect();
    mounts.sort_by(|(a, _), (b, _)| a.target.cmp(&b.target));
    for (number, output) in (0..).zip(mounts.iter_mut().filter_map(|(m, _)| m.output.as_mut())) {
        *output = number;
    }
    let order = mounts.iter().filter_map(|(m, _)| m.source.clone()).collect();
    let mut bases = Vec::with_capacity(mounts.len());
    for (mount, base) in &mounts {
        bases.push((mount.target.clone(), mount.output, mount.readonly, base.clone()));
    }
    let mounts = mounts.into_iter().map(|(mount, _)| mount).collect();
    let platform = options.constraints.platform.clone();
    let plan = ExecPlan {
        args: options.args,
        env: options.environment_of.unwrap_or_else(|| state.clone()).env.clone(),
        mounts,
        secrets: options.secrets,
        ssh: options.ssh,
        cdi_devices: options.cdi_devices,
        proxy_env: options.proxy_env,
    };
    let vertex = PlannedVertex::new(Plan::Exec(Box::new(plan)), options.constraints, order);
    let after = |output: Option<u32>, readonly: bool, base: State| match output {
        Some(index) => {
            let output = Output { vertex: vertex.clone(), index };
            Some(base.with_output(output, platform.clone()))
        }
        None => readonly.then_some(base),
    };
    let mounts: Vec<(String, Option<State>)> =
        bases.into_iter().map(|(target, output, ro, base)| (target, after(output, ro, base))).collect();
    let found = mounts.iter().find(|(target, after)| target == "/" && after.is_some());
    let root = found.and_then(|(_, after)| after.clone()).unwrap_or_else(|| state.clone());
    ExecState { root, mounts }
}
