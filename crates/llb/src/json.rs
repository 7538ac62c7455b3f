//! Ops for people and scripts, in the shapes of `buildctl debug dump-llb`: JSON objects, one a line, and dot.
//!
//! The JSON is that of Go's encoder over upstream's structs: fields in a fixed order, empty ones left out,
//! strings escaped for HTML.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use rbuild_api::pb;
use rbuild_api::pb::file_action::Action;
use rbuild_api::pb::user_opt::User;
use rbuild_digest::Digest;

use crate::{Definition, LlbError};

/// One JSON object per op, a line each.
///
/// Errors: [`LlbError::Decode`] for an op that isn't one.
pub fn definition_to_json_lines(definition: &Definition) -> Result<String, LlbError> {
    let mut lines = String::new();
    for (index, bytes) in definition.ops.iter().enumerate() {
        let op = pb::Op::decode(bytes.as_ref()).map_err(|source| LlbError::Decode { index, source })?;
        let digest = Digest::of(bytes);
        let metadata = definition.metadata.get(&digest).cloned().unwrap_or_default();
        let mut object = Object::new();
        object.raw("Op", &op_json(&op)).text("Digest", &digest.to_string());
        object.raw("OpMetadata", &metadata_json(&metadata.to_wire()));
        lines.push_str(&object.end());
        lines.push('\n');
    }
    Ok(lines)
}

/// A whole definition as Go's encoder writes its wire message, in one line.
pub fn definition_to_json(definition: &Definition) -> String {
    let wire = definition.to_wire();
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let mut object = Object::new();
    if !wire.def.is_empty() {
        object.raw("def", &list(wire.def.iter().map(|op| quoted(&BASE64.encode(op))).collect()));
    }
    if !wire.metadata.is_empty() {
        let sorted: std::collections::BTreeMap<_, _> = wire.metadata.iter().collect();
        let mut metadata = Object::new();
        for (digest, of_op) in sorted {
            metadata.raw(digest, &metadata_json(of_op));
        }
        object.raw("metadata", &metadata.end());
    }
    // The texts that it points into are left out: the definition is that of the text itself.
    if let Some(source) = &wire.source {
        let sorted: std::collections::BTreeMap<_, _> = source.locations.iter().collect();
        let mut locations = Object::new();
        for (digest, places) in sorted {
            let places: Vec<String> = places.locations.iter().map(location_json).collect();
            let mut of_op = Object::new();
            if !places.is_empty() {
                of_op.raw("locations", &list(places));
            }
            locations.raw(digest, &of_op.end());
        }
        let mut of_source = Object::new();
        of_source.raw("locations", &locations.end());
        object.raw("Source", &of_source.end());
    }
    object.end()
}

pub(crate) fn location_json(location: &pb::Location) -> String {
    let position = |position: Option<pb::Position>| {
        let position = position.unwrap_or_default();
        let mut object = Object::new();
        object.number("line", position.line).number("character", position.character);
        object.end()
    };
    let range = |range: &pb::Range| {
        let mut object = Object::new();
        object.raw("start", &position(range.start)).raw("end", &position(range.end));
        object.end()
    };
    let ranges: Vec<String> = location.ranges.iter().map(range).collect();
    let mut object = Object::new();
    object.number("sourceIndex", location.source_index);
    object.raw("ranges", &format!("[{}]", ranges.join(",")));
    object.end()
}

/// One op as JSON, without digest and metadata.
pub fn op_to_json(op: &crate::Op) -> String {
    op_json(&op.to_wire())
}

/// What a process op is, without inputs and platform: upstream's cache keys are made of it.
pub fn exec_to_json(op: &crate::ExecOp) -> String {
    exec_json(&op.to_wire())
}

/// What a file action does, without the numbers of its inputs and outputs: upstream's cache keys are made of it.
pub fn file_action_to_json(action: &crate::FileAction) -> String {
    kind_json(&action.to_wire()).1
}

/// The graph in the language of graphviz.
///
/// Errors: [`LlbError::Decode`] for an op that isn't one.
pub fn definition_to_dot(definition: &Definition) -> Result<String, LlbError> {
    let mut nodes = String::new();
    let mut edges = String::new();
    for (index, bytes) in definition.ops.iter().enumerate() {
        let op = pb::Op::decode(bytes.as_ref()).map_err(|source| LlbError::Decode { index, source })?;
        let digest = Digest::of(bytes).to_string();
        let (label, shape) = dot_label(&digest, &op);
        writeln!(
            nodes,
            "  {} [label={} shape={}];",
            dot_quoted(&digest),
            dot_quoted(&label),
            dot_quoted(shape)
        )
        .ok();
        for (position, input) in op.inputs.iter().enumerate() {
            let label = dot_edge_label(&op, position);
            writeln!(
                edges,
                "  {} -> {} [label={}];",
                dot_quoted(&input.digest),
                dot_quoted(&digest),
                dot_quoted(&label)
            )
            .ok();
        }
    }
    Ok(format!("digraph {{\n{nodes}{edges}}}\n"))
}

/// Escapes in JSON text what Go's encoder escapes and serde doesn't.
pub fn go_escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(text, "\\u{:04x}", u32::from(c)).ok();
            }
            _ => text.push(c),
        }
    }
    text
}

pub(crate) fn quoted(text: &str) -> String {
    go_escaped(&serde_json::Value::from(text).to_string())
}

fn dot_quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes an object's fields in the order of the calls, without the empty ones.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self("{".to_owned())
    }

    pub(crate) fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        write!(self.0, "{}:{json}", quoted(name)).ok();
        self
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        if !value.is_empty() {
            self.raw(name, &quoted(value));
        }
        self
    }

    pub(crate) fn number(&mut self, name: &str, value: impl Into<i128>) -> &mut Self {
        let value = value.into();
        if value != 0 {
            self.raw(name, &value.to_string());
        }
        self
    }

    fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        if value {
            self.raw(name, "true");
        }
        self
    }

    fn texts(&mut self, name: &str, values: &[String]) -> &mut Self {
        self.list(name, values, |value| quoted(value))
    }

    pub(crate) fn list<T>(&mut self, name: &str, values: &[T], json: impl Fn(&T) -> String) -> &mut Self {
        if !values.is_empty() {
            let items: Vec<String> = values.iter().map(json).collect();
            self.raw(name, &format!("[{}]", items.join(",")));
        }
        self
    }

    fn map<'a, V: 'a>(
        &mut self,
        name: &str,
        map: &'a std::collections::BTreeMap<String, V>,
        json: impl Fn(&'a V) -> String,
    ) -> &mut Self {
        if !map.is_empty() {
            let mut object = Self::new();
            for (key, value) in map {
                object.raw(key, &json(value));
            }
            self.raw(name, &object.end());
        }
        self
    }

    fn maybe<T>(&mut self, name: &str, value: Option<&T>, json: impl Fn(&T) -> String) -> &mut Self {
        if let Some(value) = value {
            self.raw(name, &json(value));
        }
        self
    }

    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        if !value.is_empty() {
            self.raw(name, &quoted(&BASE64.encode(value)));
        }
        self
    }

    pub(crate) fn end(&mut self) -> String {
        let mut text = std::mem::take(&mut self.0);
        text.push('}');
        text
    }
}

pub(crate) fn op_json(op: &pb::Op) -> String {
    let mut kind = Object::new();
    match &op.op {
        Some(pb::op::Op::Exec(exec)) => kind.raw("exec", &exec_json(exec)),
        Some(pb::op::Op::Source(source)) => kind.raw("source", &source_json(source)),
        Some(pb::op::Op::File(file)) => {
            kind.raw("file", &Object::new().list("actions", &file.actions, action_json).end())
        }
        Some(pb::op::Op::Build(build)) => kind.raw("build", &build_json(build)),
        Some(pb::op::Op::Merge(merge)) => {
            let json = |input: &pb::MergeInput| Object::new().number("input", input.input).end();
            kind.raw("merge", &Object::new().list("inputs", &merge.inputs, json).end())
        }
        Some(pb::op::Op::Diff(diff)) => {
            let mut object = Object::new();
            object.maybe("lower", diff.lower.as_ref(), |l| Object::new().number("input", l.input).end());
            object.maybe("upper", diff.upper.as_ref(), |u| Object::new().number("input", u.input).end());
            kind.raw("diff", &object.end())
        }
        Some(pb::op::Op::Passthrough(op)) => {
            let mut object = Object::new();
            object.text("id", &op.id).list("outputs", &op.outputs, |output| output.to_string());
            kind.raw("passthrough", &object.end())
        }
        None => &mut kind,
    };
    let mut object = Object::new();
    object.list("inputs", &op.inputs, |input| {
        Object::new().text("digest", &input.digest).number("index", input.index).end()
    });
    object.raw("Op", &kind.end());
    object.maybe("platform", op.platform.as_ref(), platform_json);
    object.maybe("constraints", op.constraints.as_ref(), |constraints| {
        Object::new().texts("filter", &constraints.filter).end()
    });
    object.end()
}

fn platform_json(platform: &pb::Platform) -> String {
    let mut object = Object::new();
    object
        .text("Architecture", &platform.architecture)
        .text("OS", &platform.os)
        .text("Variant", &platform.variant)
        .text("OSVersion", &platform.os_version)
        .texts("OSFeatures", &platform.os_features)
        .end()
}

fn source_json(source: &pb::SourceOp) -> String {
    let mut object = Object::new();
    object.text("identifier", &source.identifier).map("attrs", &source.attrs, |value| quoted(value));
    object.end()
}

fn exec_json(exec: &pb::ExecOp) -> String {
    let mut object = Object::new();
    object
        .maybe("meta", exec.meta.as_ref(), meta_json)
        .list("mounts", &exec.mounts, mount_json)
        .number("network", exec.network)
        .number("security", exec.security)
        .list("secretenv", &exec.secretenv, |secret| {
            let mut object = Object::new();
            object.text("ID", &secret.id).text("name", &secret.name).flag("optional", secret.optional).end()
        })
        .list("cdiDevices", &exec.cdi_devices, |device| {
            Object::new().text("name", &device.name).flag("optional", device.optional).end()
        })
        .end()
}

fn meta_json(meta: &pb::Meta) -> String {
    let mut object = Object::new();
    object
        .texts("args", &meta.args)
        .texts("env", &meta.env)
        .text("cwd", &meta.cwd)
        .text("user", &meta.user)
        .maybe("proxy_env", meta.proxy_env.as_ref(), |proxy| {
            let mut object = Object::new();
            object
                .text("http_proxy", &proxy.http_proxy)
                .text("https_proxy", &proxy.https_proxy)
                .text("ftp_proxy", &proxy.ftp_proxy)
                .text("no_proxy", &proxy.no_proxy)
                .text("all_proxy", &proxy.all_proxy)
                .end()
        })
        .list("extraHosts", &meta.extra_hosts, |host| {
            Object::new().text("Host", &host.host).text("IP", &host.ip).end()
        })
        .text("hostname", &meta.hostname)
        .list("ulimit", &meta.ulimit, |limit| {
            let mut object = Object::new();
            object.text("Name", &limit.name).number("Soft", limit.soft).number("Hard", limit.hard).end()
        })
        .text("cgroupParent", &meta.cgroup_parent)
        .flag("removeMountStubsRecursive", meta.remove_mount_stubs_recursive)
        .list("validExitCodes", &meta.valid_exit_codes, |code| code.to_string())
        .end()
}

fn mount_json(mount: &pb::Mount) -> String {
    let owned = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        let mut object = Object::new();
        object.text("ID", id).number("uid", uid).number("gid", gid).number("mode", mode);
        object.flag("optional", optional).end()
    };
    let mut object = Object::new();
    object
        .number("input", mount.input)
        .text("selector", &mount.selector)
        .text("dest", &mount.dest)
        .number("output", mount.output)
        .flag("readonly", mount.readonly)
        .number("mountType", mount.mount_type)
        .maybe("TmpfsOpt", mount.tmpfs_opt.as_ref(), |tmpfs| Object::new().number("size", tmpfs.size).end())
        .maybe("cacheOpt", mount.cache_opt.as_ref(), |cache| {
            Object::new().text("ID", &cache.id).number("sharing", cache.sharing).end()
        })
        .maybe("secretOpt", mount.secret_opt.as_ref(), |s| owned(&s.id, s.uid, s.gid, s.mode, s.optional))
        .maybe("SSHOpt", mount.ssh_opt.as_ref(), |s| owned(&s.id, s.uid, s.gid, s.mode, s.optional))
        .text("resultID", &mount.result_id)
        .number("contentCache", mount.content_cache)
        .end()
}

fn action_json(action: &pb::FileAction) -> String {
    let mut kind = Object::new();
    if let (Some(name), json) = kind_json(action) {
        kind.raw(name, &json);
    }
    let mut object = Object::new();
    object.raw("input", &action.input.to_string());
    object.raw("secondaryInput", &action.secondary_input.to_string());
    object.raw("output", &action.output.to_string());
    object.raw("Action", &kind.end()).end()
}

/// The kind of an action and its fields.
fn kind_json(action: &pb::FileAction) -> (Option<&'static str>, String) {
    match &action.action {
        Some(Action::Copy(copy)) => (Some("copy"), copy_json(copy)),
        Some(Action::Mkfile(file)) => {
            let mut object = Object::new();
            object.text("path", &file.path).number("mode", file.mode).bytes("data", &file.data);
            object.maybe("owner", file.owner.as_ref(), owner_json).number("timestamp", file.timestamp);
            (Some("mkfile"), object.end())
        }
        Some(Action::Mkdir(dir)) => {
            let mut object = Object::new();
            object.text("path", &dir.path).number("mode", dir.mode).flag("makeParents", dir.make_parents);
            object.maybe("owner", dir.owner.as_ref(), owner_json).number("timestamp", dir.timestamp);
            (Some("mkdir"), object.end())
        }
        Some(Action::Rm(rm)) => {
            let mut object = Object::new();
            object.text("path", &rm.path).flag("allowNotFound", rm.allow_not_found);
            (Some("rm"), object.flag("allowWildcard", rm.allow_wildcard).end())
        }
        Some(Action::Symlink(link)) => {
            let mut object = Object::new();
            object.text("oldpath", &link.oldpath).text("newpath", &link.newpath);
            object.maybe("owner", link.owner.as_ref(), owner_json).number("timestamp", link.timestamp);
            (Some("symlink"), object.end())
        }
        None => (None, String::new()),
    }
}

fn copy_json(copy: &pb::FileActionCopy) -> String {
    let mut object = Object::new();
    object
        .text("src", &copy.src)
        .text("dest", &copy.dest)
        .maybe("owner", copy.owner.as_ref(), owner_json)
        .number("mode", copy.mode)
        .flag("followSymlink", copy.follow_symlink)
        .flag("dirCopyContents", copy.dir_copy_contents)
        .flag("attemptUnpackDockerCompatibility", copy.attempt_unpack_docker_compatibility)
        .flag("createDestPath", copy.create_dest_path)
        .flag("allowWildcard", copy.allow_wildcard)
        .flag("allowEmptyWildcard", copy.allow_empty_wildcard)
        .number("timestamp", copy.timestamp)
        .texts("include_patterns", &copy.include_patterns)
        .texts("exclude_patterns", &copy.exclude_patterns)
        .flag("alwaysReplaceExistingDestPaths", copy.always_replace_existing_dest_paths)
        .text("modeStr", &copy.mode_str)
        .texts("required_paths", &copy.required_paths)
        .end()
}

fn owner_json(owner: &pb::ChownOpt) -> String {
    let user = |user: &pb::UserOpt| {
        let mut inner = Object::new();
        match &user.user {
            Some(User::ByName(named)) => {
                let json = Object::new().text("name", &named.name).number("input", named.input).end();
                inner.raw("byName", &json);
            }
            Some(User::ById(id)) => {
                inner.number("byId", *id);
            }
            None => {}
        }
        Object::new().raw("User", &inner.end()).end()
    };
    let mut object = Object::new();
    object.maybe("user", owner.user.as_ref(), user).maybe("group", owner.group.as_ref(), user).end()
}

fn build_json(build: &pb::BuildOp) -> String {
    let mut object = Object::new();
    object.number("builder", build.builder);
    object.map("inputs", &build.inputs, |input| Object::new().number("input", input.input).end());
    object.maybe("def", build.def.as_ref(), |def| {
        let mut object = Object::new();
        object.list("def", &def.def, |op| quoted(&BASE64.encode(op)));
        object.map("metadata", &def.metadata, metadata_json).end()
    });
    object.map("attrs", &build.attrs, |value| quoted(value)).end()
}

fn metadata_json(metadata: &pb::OpMetadata) -> String {
    let mut object = Object::new();
    object
        .flag("ignore_cache", metadata.ignore_cache)
        .map("description", &metadata.description, |value| quoted(value))
        .maybe("export_cache", metadata.export_cache.as_ref(), |export| {
            Object::new().flag("Value", export.value).end()
        })
        .map("caps", &metadata.caps, |value| value.to_string())
        .maybe("progress_group", metadata.progress_group.as_ref(), |group| {
            let mut object = Object::new();
            object.text("id", &group.id).text("name", &group.name).flag("weak", group.weak).end()
        })
        .maybe("linux_resources", metadata.linux_resources.as_ref(), |limits| {
            let mut object = Object::new();
            object
                .number("memory", limits.memory)
                .number("memorySwap", limits.memory_swap)
                .number("cpuShares", limits.cpu_shares)
                .number("cpuPeriod", limits.cpu_period)
                .number("cpuQuota", limits.cpu_quota)
                .text("cpusetCpus", &limits.cpuset_cpus)
                .text("cpusetMems", &limits.cpuset_mems)
                .end()
        })
        .end()
}

fn dot_label(digest: &str, op: &pb::Op) -> (String, &'static str) {
    match &op.op {
        Some(pb::op::Op::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(pb::op::Op::Exec(exec)) => {
            (exec.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default(), "box")
        }
        Some(pb::op::Op::Build(_)) => ("build".to_owned(), "box3d"),
        Some(pb::op::Op::Merge(_)) => ("merge".to_owned(), "invtriangle"),
        Some(pb::op::Op::Diff(_)) => ("diff".to_owned(), "doublecircle"),
        Some(pb::op::Op::File(file)) => {
            let names: Vec<String> = file.actions.iter().map(dot_action).collect();
            (names.join(","), "note")
        }
        Some(pb::op::Op::Passthrough(_)) | None => (digest.to_owned(), "plaintext"),
    }
}

fn dot_action(action: &pb::FileAction) -> String {
    match &action.action {
        Some(Action::Copy(copy)) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
        Some(Action::Mkfile(file)) => format!("mkfile{{path={}}}", file.path),
        Some(Action::Mkdir(dir)) => format!("mkdir{{path={}}}", dir.path),
        Some(Action::Rm(rm)) => format!("rm{{path={}}}", rm.path),
        Some(Action::Symlink(link)) => {
            format!("symlink{{oldpath={}, newpath={}}}", link.oldpath, link.newpath)
        }
        None => String::new(),
    }
}

/// Where an input of a process is mounted, unless at its root.
fn dot_edge_label(op: &pb::Op, position: usize) -> String {
    let Some(pb::op::Op::Exec(exec)) = &op.op else { return String::new() };
    let mut used = exec.mounts.iter().filter(|m| usize::try_from(m.input) == Ok(position) && m.dest != "/");
    used.next_back().map(|mount| mount.dest.clone()).unwrap_or_default()
}
