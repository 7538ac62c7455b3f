use rbuild_frontend::Fault;
use rbuild_llb::{
    Attached, CacheSharing, CdiDevice, Chown, Constraints, ExecOptions, FileActions, MkdirAction,
    MkfileAction, MountOptions, NetMode, ProxyEnv, SecretOptions, SecurityMode, SshOptions, State,
};

use super::outline::{OutlineMount, StageOutline};
use super::paths;
use super::stage::{StageLowering, with_command};
use crate::CompileError;
use crate::devices::DeviceSpec;
use crate::mounts::{MountSpec, MountType, Sharing};
use crate::parse::{Inline, RunCommand, ShellForm, is_heredoc};
use crate::plan::{From, Step};

/// Where scripts of heredocs are seen.
const SCRIPTS: &str = "/dev/pipes/";

/// A step's text may be a whole script; this much of its first line is shown.
const MAX_SUMMARY: usize = 120;

impl StageLowering<'_, '_> {
    pub(super) fn run(&mut self, step: &Step, run: &RunCommand) -> Result<(), CompileError> {
        let (form, script) = script_of(run);
        let args = self.command(&form);
        if args.is_empty() {
            return Err(CompileError::new("arguments are required: the JSON array of RUN is empty"));
        }
        let shown = self.step_name(step, &summary(run));
        let constraints = with_command(self.constraints(step, shown), &step.instruction.original);
        let mut options =
            ExecOptions { args: args.clone(), proxy_env: self.proxy(), ..ExecOptions::default() };
        options.constraints = constraints.platform(self.built.platform.clone());
        options.constraints.metadata.linux_resources.clone_from(&self.cx.options.linux_resources);
        if let Some(script) = script {
            options.mounts.push(script_mount(script));
        }
        self.mounts(step, run, &mut options)?;
        options.cdi_devices = self.devices(run)?;
        if self.cx.options.shm_size > 0 {
            let shm = Attached::Tmpfs { size_bytes: self.cx.options.shm_size };
            options.mounts.push(MountOptions::new("/dev/shm", shm));
        }
        options.environment_of = Some(self.process_state(run));
        let before = self.built.state.clone();
        self.built.state = before.run(options).root().with_environment_of(&before);
        let history = format!("RUN {}{} # buildkit", self.shown_args(), args.join(" "));
        // Each process carries its environment, and its line of history the ARGs.
        let env = before.env().iter().map(|(name, value)| name.len() + value.len());
        self.cx.spend(env.chain([history.len()]).sum())?;
        self.commit(history, true);
        Ok(())
    }

    /// What the process sees beside its files.
    fn process_state(&self, run: &RunCommand) -> State {
        let options = self.cx.options;
        let network = match run.network.as_str() {
            "none" => NetMode::None,
            "host" => NetMode::Host,
            _ => options.network,
        };
        let security =
            if run.security == "insecure" { SecurityMode::Insecure } else { SecurityMode::Sandbox };
        let mut state = self.built.state.clone().network(network).security(security);
        state = state.hostname(&options.hostname).cgroup_parent(&options.cgroup_parent);
        for host in &options.extra_hosts {
            state = state.add_extra_host(&host.host, &host.ip);
        }
        for limit in &options.ulimits {
            state = state.add_ulimit(&limit.name, limit.soft, limit.hard);
        }
        state
    }

    fn proxy(&self) -> Option<ProxyEnv> {
        let given = |name: &str| {
            let args = &self.cx.options.build_args;
            let same = args.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
            same.map(|(_, value)| value.clone()).next_back().unwrap_or_default()
        };
        let proxy = ProxyEnv {
            http_proxy: given("http_proxy"),
            https_proxy: given("https_proxy"),
            ftp_proxy: given("ftp_proxy"),
            no_proxy: given("no_proxy"),
            all_proxy: given("all_proxy"),
        };
        (proxy != ProxyEnv::default()).then_some(proxy)
    }

    fn mounts(
        &mut self,
        step: &Step,
        run: &RunCommand,
        options: &mut ExecOptions,
    ) -> Result<(), CompileError> {
        for (written, from) in run.mounts.iter().zip(&step.from) {
            let mut expand = |text: &str| self.expand(text);
            let mount = MountSpec::parse(written, &mut expand).map_err(|error| error.fault(Fault::Mount))?;
            match mount.kind {
                MountType::Secret => {
                    let secret = secret(&mount)?;
                    self.outline_mount(&secret.id, mount.required, |outline| &mut outline.secrets);
                    options.secrets.push(secret);
                }
                MountType::Ssh => {
                    let id = mount.id.as_deref().filter(|id| !id.is_empty()).unwrap_or("default");
                    self.outline_mount(id, mount.required, |outline| &mut outline.ssh);
                    options.ssh.push(ssh(&mount));
                }
                MountType::Tmpfs => {
                    let target = self.target(&mount)?;
                    let source = selector(&mount);
                    if mount.from.is_none() {
                        // Upstream takes its source for one in the context; so equal files give equal LLB.
                        self.cx.files(From::Context, &[&source])?;
                    }
                    let size_bytes = mount.size.unwrap_or(0);
                    let mut tmpfs = MountOptions::new(target, Attached::Tmpfs { size_bytes });
                    tmpfs.selector = source;
                    tmpfs.readonly = mount.readonly.unwrap_or(false);
                    options.mounts.push(tmpfs);
                }
                MountType::Bind | MountType::Cache => {
                    let mounted = self.file_mount(&mount, *from)?;
                    options.mounts.push(mounted);
                }
            }
        }
        Ok(())
    }

    fn devices(&self, run: &RunCommand) -> Result<Vec<CdiDevice>, CompileError> {
        let devices = run.devices.iter().map(|written| {
            let device = DeviceSpec::parse(written).map_err(CompileError::new)?;
            Ok(CdiDevice { name: self.expand(&device.name)?, optional: !device.required })
        });
        devices.collect()
    }

    fn outline_mount(
        &mut self,
        id: &str,
        required: bool,
        list: impl FnOnce(&mut StageOutline) -> &mut Vec<OutlineMount>,
    ) {
        let lines = self.lines;
        if let Some(outline) = self.cx.outline_of(self.id) {
            list(outline).push(OutlineMount { id: id.to_owned(), required, lines });
        }
    }

    fn target(&self, mount: &MountSpec) -> Result<String, CompileError> {
        let written = mount.target.as_deref().unwrap_or_default();
        let target = if written.starts_with('/') {
            written.to_owned()
        } else {
            paths::clean_rooted(&format!("{}/{written}", self.built.state.get_dir()))
        };
        if paths::clean_rooted(&target) == "/" {
            let error = CompileError::new(format!("invalid mount target {}", crate::text::quote(&target)));
            return Err(error.fault(Fault::Mount).hint("target= is missing or names the root directory"));
        }
        Ok(target)
    }

    fn file_mount(&mut self, mount: &MountSpec, from: From) -> Result<MountOptions, CompileError> {
        let target = self.target(mount)?;
        let mut selector = selector(mount);
        let state = self.cx.files(from, &[&selector])?;
        let attached = if mount.kind == MountType::Cache {
            let mut from = state;
            let owned = mount.mode.is_some() || mount.uid.is_some() || mount.gid.is_some();
            if from.is_scratch() && selector.is_empty() && owned {
                from = cache_directory(mount);
                selector = "/cache".to_owned();
            }
            let given = mount.id.clone().filter(|id| !id.is_empty());
            let id = given.unwrap_or_else(|| paths::clean(mount.target.as_deref().unwrap_or_default()));
            let id = format!("{}/{id}", self.cx.options.cache_namespace);
            Attached::Cache { from, id, sharing: sharing(mount.sharing.unwrap_or_default()) }
        } else {
            Attached::Bind(state)
        };
        let bind = mount.kind == MountType::Bind;
        let mut options = MountOptions::new(target, attached);
        options.selector = selector;
        options.readonly = mount.readonly.unwrap_or(bind);
        options.no_output = bind && !options.readonly;
        Ok(options)
    }
}

/// The path of a mount within its source; nothing for all of it.
fn selector(mount: &MountSpec) -> String {
    match mount.source.as_deref().map(paths::clean_rooted) {
        Some(path) if path != "/" => path,
        _ => String::new(),
    }
}

fn sharing(sharing: Sharing) -> CacheSharing {
    match sharing {
        Sharing::Shared => CacheSharing::Shared,
        Sharing::Private => CacheSharing::Private,
        Sharing::Locked => CacheSharing::Locked,
    }
}

/// A cache's first state, when its owner or mode are given.
fn cache_directory(mount: &MountSpec) -> State {
    let action = MkdirAction {
        path: "/cache".to_owned(),
        mode: mount.mode.unwrap_or(0o755),
        owner: Some(Chown::ids(mount.uid.unwrap_or(0), mount.gid.unwrap_or(0))),
        ..MkdirAction::default()
    };
    let constraints = Constraints::default().custom_name("[internal] setting cache mount permissions");
    State::scratch().file(FileActions::new().mkdir(action), constraints)
}

fn secret(mount: &MountSpec) -> Result<SecretOptions, CompileError> {
    let target = mount.target.clone().filter(|target| !target.is_empty());
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if given(&mount.id).is_some() && given(&mount.source).is_some() {
        return Err(CompileError::new("both source and id can't be set").fault(Fault::Mount));
    }
    let id = match given(&mount.id).or_else(|| given(&mount.source)) {
        Some(id) => id,
        None => match &target {
            Some(target) => paths::base(target).to_owned(),
            None => {
                let error = CompileError::new("invalid secret mount. one of source, target required");
                return Err(error.fault(Fault::Mount).hint("for instance --mount=type=secret,id=token"));
            }
        },
    };
    let target = match target {
        Some(target) => Some(target),
        None if mount.env.is_some() => None,
        None => Some(format!("/run/secrets/{}", paths::base(&id))),
    };
    Ok(SecretOptions {
        id,
        target,
        env: mount.env.clone(),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o400),
        optional: !mount.required,
    })
}

fn ssh(mount: &MountSpec) -> SshOptions {
    SshOptions {
        id: mount.id.clone().unwrap_or_default(),
        target: mount.target.clone().filter(|target| !target.is_empty()),
        uid: mount.uid.unwrap_or(0),
        gid: mount.gid.unwrap_or(0),
        mode: mount.mode.unwrap_or(0o600),
        optional: !mount.required,
    }
}

/// The command of a RUN with its documents put in, and the script that must be mounted for it.
fn script_of(run: &RunCommand) -> (ShellForm, Option<&Inline>) {
    let [first, ..] = run.inline.as_slice() else { return (run.form.clone(), None) };
    let text = run.form.words.join(" ");
    let shell = |text: String| ShellForm { words: vec![text], shell: true };
    if run.inline.len() == 1 && is_heredoc(&text) {
        if first.text.starts_with("#!") {
            return (shell(format!("{SCRIPTS}{}", first.name)), Some(first));
        }
        return (shell(first.text.clone()), None);
    }
    let mut full = text;
    for document in &run.inline {
        full.push('\n');
        full.push_str(&document.raw);
        full.push_str(&document.name);
    }
    (shell(full), None)
}

fn script_mount(script: &Inline) -> MountOptions {
    let action = MkfileAction {
        path: format!("/{}", script.name),
        mode: 0o755,
        data: script.text.clone().into(),
        ..MkfileAction::default()
    };
    let constraints = Constraints::default().custom_name("[internal] preparing inline document");
    let state = State::scratch().file(FileActions::new().mkfile(action), constraints);
    let mut mount = MountOptions::bind(SCRIPTS, state);
    mount.selector = "/".to_owned();
    mount.readonly = true;
    mount
}

/// ` (first line...)` for a RUN that is one document.
fn summary(run: &RunCommand) -> String {
    let [document] = run.inline.as_slice() else { return String::new() };
    if !is_heredoc(&run.form.words.join(" ")) {
        return String::new();
    }
    let mut lines = document.text.trim().lines();
    let first = lines.next().unwrap_or_default();
    let cut = first.chars().take(MAX_SUMMARY).collect::<String>();
    let more = if lines.next().is_some() || cut.len() < first.len() { "..." } else { "" };
    format!(" ({cut}{more})")
}
