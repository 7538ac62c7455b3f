use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rbuild_digest::Digest;
use rbuild_oci::{ImageConfig, Platform};

use super::constraints::Constraints;
use super::exec::{ExecOptions, ExecState, plan_exec};
use super::file::{FileActions, plan_file};
use super::paths;
use super::vertex::{Output, Plan, PlannedVertex};
use crate::op::{HostIp, NetMode, SecurityMode, Ulimit};
use crate::{Definition, Edge, Graph, LlbError, SourceOp, caps};

/// A place in a graph, and what the next process would see there.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(super) output: Option<Output>,
    pub(super) env: Arc<Environment>,
}

/// What a process sees beside its files.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// In the order of setting.
    pub(super) env: Vec<(String, String)>,
    pub(super) dir: String,
    pub(super) user: String,
    pub(super) hostname: String,
    pub(super) network: NetMode,
    pub(super) security: SecurityMode,
    pub(super) extra_hosts: Vec<HostIp>,
    pub(super) ulimits: Vec<Ulimit>,
    pub(super) cgroup_parent: String,
    pub(super) valid_exit_codes: Vec<i32>,
    pub(super) platform: Option<Platform>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            env: Vec::new(),
            dir: "/".to_owned(),
            user: String::new(),
            hostname: String::new(),
            network: NetMode::default(),
            security: SecurityMode::default(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
            valid_exit_codes: Vec::new(),
            platform: None,
        }
    }
}

impl State {
    /// An empty file system.
    pub fn scratch() -> Self {
        Self::default()
    }

    /// Any source. Capabilities come with `constraints`.
    pub fn source(source: SourceOp, constraints: Constraints) -> Self {
        let platform = constraints.platform.clone();
        let vertex = PlannedVertex::new(Plan::Source(source), constraints, Vec::new());
        Self::default().with_output(Output { vertex, index: 0 }, platform)
    }

    /// What a definition stands for. Its vertices stay byte for byte what they are when this state, or one
    /// built upon it, is marshalled; metadata and locations are kept. An empty definition is scratch.
    ///
    /// Errors: the definition is not acceptable.
    pub fn from_definition(definition: &Definition) -> Result<Self, LlbError> {
        let graph = Graph::from_definition(definition)?;
        let Some(terminal) = graph.terminal() else { return Ok(Self::scratch()) };
        let encoded: HashMap<Digest, &Bytes> = definition.ops.iter().map(|op| (Digest::of(op), op)).collect();
        let mut planned: Vec<Arc<PlannedVertex>> = Vec::with_capacity(graph.len());
        for vertex in graph.vertices() {
            let output =
                |edge: &Edge| Output { vertex: planned[edge.vertex.index()].clone(), index: edge.output };
            let order = vertex.inputs.iter().map(output).collect();
            let bytes = encoded[&vertex.digest].clone();
            let plan = Plan::Encoded { bytes, metadata: Box::new(vertex.metadata.clone()) };
            let constraints = Constraints { locations: vertex.locations.clone(), ..Constraints::default() };
            planned.push(PlannedVertex::new(plan, constraints, order));
        }
        let output = Output { vertex: planned[terminal.vertex.index()].clone(), index: terminal.output };
        Ok(Self::default().with_output(output, graph.vertex(terminal.vertex).op.platform.clone()))
    }

    /// Puts states on top of each other, bottom first. Scratch adds nothing; a single state is itself.
    #[must_use]
    pub fn merge(states: &[Self], mut constraints: Constraints) -> Self {
        let mut full = states.iter().filter(|state| state.output.is_some());
        let Some(first) = full.next() else { return Self::scratch() };
        let outputs: Vec<Output> = states.iter().filter_map(|state| state.output.clone()).collect();
        if outputs.len() == 1 {
            return first.clone();
        }
        constraints.add_cap(caps::MERGE_OP);
        let vertex = PlannedVertex::new(Plan::Merge(outputs.clone()), constraints, outputs);
        first.clone().with_output(Output { vertex, index: 0 }, None)
    }

    /// What `upper` adds to `lower`. Without a lower it is `upper`.
    #[must_use]
    pub fn diff(lower: &Self, upper: &Self, mut constraints: Constraints) -> Self {
        if lower.output.is_none() {
            return if upper.output.is_none() { Self::scratch() } else { upper.clone() };
        }
        constraints.add_cap(caps::DIFF_OP);
        let (low, up) = (lower.output.clone(), upper.output.clone());
        let order = [low.clone(), up.clone()].into_iter().flatten().collect();
        let vertex = PlannedVertex::new(Plan::Diff { lower: low, upper: up }, constraints, order);
        lower.clone().with_output(Output { vertex, index: 0 }, None)
    }

    /// This state, once all of `others` are there too.
    #[must_use]
    pub fn requires(&self, id: &str, others: &[Self], mut constraints: Constraints) -> Self {
        let Some(own) = self.output.clone() else { return self.clone() };
        if others.is_empty() {
            return self.clone();
        }
        constraints.add_cap(caps::PASSTHROUGH_OP);
        let inputs: Vec<Output> =
            std::iter::once(own).chain(others.iter().filter_map(|s| s.output.clone())).collect();
        let plan = Plan::Passthrough { id: id.to_owned(), inputs: inputs.clone(), outputs: vec![0] };
        let vertex = PlannedVertex::new(plan, constraints, inputs);
        self.clone().with_output(Output { vertex, index: 0 }, None)
    }

    /// Runs a process. The result's root is what the process leaves behind (or this state, if the root is
    /// read-only).
    pub fn run(&self, options: ExecOptions) -> ExecState {
        plan_exec(self, options)
    }

    /// Performs file actions.
    #[must_use]
    pub fn file(&self, actions: FileActions, constraints: Constraints) -> Self {
        plan_file(self, actions, constraints)
    }

    /// Whether it is an empty file system.
    pub fn is_scratch(&self) -> bool {
        self.output.is_none()
    }

    /// Whether both are the same output of the same vertex under construction (not merely equal ones).
    pub fn same_output(&self, other: &Self) -> bool {
        match (&self.output, &other.output) {
            (None, None) => true,
            (Some(a), Some(b)) => a.is(b),
            _ => false,
        }
    }

    pub(super) fn with_output(mut self, output: Output, platform: Option<Platform>) -> Self {
        self.output = Some(output);
        match platform {
            Some(platform) => self.platform(platform),
            None => self,
        }
    }

    /// The files of this state with the environment of `other`.
    #[must_use]
    pub fn with_environment_of(mut self, other: &Self) -> Self {
        self.env = other.env.clone();
        self
    }

    fn edit(mut self, change: impl FnOnce(&mut Environment)) -> Self {
        change(Arc::make_mut(&mut self.env));
        self
    }

    /// Sets a variable; one that was set before moves to the end.
    #[must_use]
    pub fn add_env(self, name: &str, value: &str) -> Self {
        self.edit(|env| {
            env.env.retain(|(known, _)| known != name);
            env.env.push((name.to_owned(), value.to_owned()));
        })
    }

    /// Takes environment, directory and platform from an image's config.
    #[must_use]
    pub fn with_image_config(self, config: &ImageConfig) -> Self {
        let mut state = self;
        for variable in &config.config.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            if !name.is_empty() {
                state = state.add_env(name, value);
            }
        }
        state = state.dir(&config.config.working_dir);
        let platform = &config.platform;
        if platform.os.is_empty() || platform.architecture.is_empty() {
            return state;
        }
        state.platform(platform.clone())
    }

    /// The value of a variable.
    pub fn get_env(&self, name: &str) -> Option<&str> {
        self.env.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All variables in order.
    pub fn env(&self) -> &[(String, String)] {
        &self.env.env
    }

    /// Changes the working directory; a relative one goes on from the present one.
    #[must_use]
    pub fn dir(self, dir: &str) -> Self {
        self.edit(|env| {
            env.dir = if dir.starts_with('/') {
                dir.to_owned()
            } else if env.dir.is_empty() {
                paths::join(&["/", dir])
            } else {
                paths::join(&[&env.dir, dir])
            };
        })
    }

    /// The working directory.
    pub fn get_dir(&self) -> &str {
        &self.env.dir
    }

    /// Sets the user: `user[:group]`.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.edit(|env| user.clone_into(&mut env.user))
    }

    /// Sets the host name.
    #[must_use]
    pub fn hostname(self, hostname: &str) -> Self {
        self.edit(|env| hostname.clone_into(&mut env.hostname))
    }

    /// Sets the network.
    #[must_use]
    pub fn network(self, mode: NetMode) -> Self {
        self.edit(|env| env.network = mode)
    }

    /// Sets how processes are confined.
    #[must_use]
    pub fn security(self, mode: SecurityMode) -> Self {
        self.edit(|env| env.security = mode)
    }

    /// Adds a line to `/etc/hosts`.
    #[must_use]
    pub fn add_extra_host(self, host: &str, ip: &str) -> Self {
        self.edit(|env| env.extra_hosts.push(HostIp { host: host.to_owned(), ip: ip.to_owned() }))
    }

    /// Adds a limit.
    #[must_use]
    pub fn add_ulimit(self, name: &str, soft: i64, hard: i64) -> Self {
        self.edit(|env| env.ulimits.push(Ulimit { name: name.to_owned(), soft, hard }))
    }

    /// Sets the parent control group.
    #[must_use]
    pub fn cgroup_parent(self, parent: &str) -> Self {
        self.edit(|env| parent.clone_into(&mut env.cgroup_parent))
    }

    /// Sets the exit codes that count as success.
    #[must_use]
    pub fn valid_exit_codes(self, codes: &[i32]) -> Self {
        self.edit(|env| env.valid_exit_codes = codes.to_vec())
    }

    /// Sets the platform of processes.
    #[must_use]
    pub fn platform(self, platform: Platform) -> Self {
        self.edit(|env| env.platform = Some(platform))
    }

    /// The platform of processes, if one is set.
    pub fn get_platform(&self) -> Option<&Platform> {
        self.env.platform.as_ref()
    }
}
