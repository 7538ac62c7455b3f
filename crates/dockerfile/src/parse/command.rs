use rbuild_frontend::Fault;

use super::flags::{FlagKind, Flags};
use super::heredoc::parse_heredoc;
use super::node::{Node, NodeArgs, unknown_instruction};
use crate::devices::DeviceSpec;
use crate::durations::parse_duration;
use crate::mounts::csv_fields;
use crate::source::Lines;
use crate::{CompileError, suggest};

/// An instruction that is understood; variables in it are not expanded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Env(Vec<Pair>),
    Label(Vec<Pair>),
    Maintainer(String),
    Add(Box<CopyCommand>),
    Copy(Box<CopyCommand>),
    /// The trigger as it is written.
    Onbuild(String),
    Workdir(String),
    Run(Box<RunCommand>),
    Cmd(ShellForm),
    Entrypoint(ShellForm),
    Healthcheck(HealthCommand),
    Expose(Vec<String>),
    User(String),
    Volume(Vec<String>),
    StopSignal(String),
    Arg(Vec<ArgCommand>),
    Shell(Vec<String>),
}

/// A name with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// One variable of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArgCommand {
    pub(crate) name: String,
    pub(crate) default: Option<String>,
}

/// A command in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShellForm {
    pub(crate) words: Vec<String>,
    /// The words go to a shell.
    pub(crate) shell: bool,
}

/// A document of COPY or ADD, or the script of a RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inline {
    /// The word that starts it.
    pub(crate) word: String,
    pub(crate) name: String,
    /// Its lines as their reader sees them.
    pub(crate) text: String,
    /// Its lines as they are written.
    pub(crate) raw: String,
    pub(crate) expand: bool,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RunCommand {
    pub(crate) form: ShellForm,
    /// The documents below.
    pub(crate) inline: Vec<Inline>,
    pub(crate) mounts: Vec<String>,
    pub(crate) network: String,
    pub(crate) security: String,
    pub(crate) devices: Vec<String>,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CopyCommand {
    pub(crate) sources: Vec<String>,
    pub(crate) inline: Vec<Inline>,
    pub(crate) dest: String,
    pub(crate) from: Option<String>,
    pub(crate) chown: String,
    pub(crate) chmod: String,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) excludes: Vec<String>,
    pub(crate) checksum: String,
    pub(crate) unpack: Option<bool>,
    pub(crate) keep_git_dir: Option<bool>,
}

/// HEALTHCHECK; times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HealthCommand {
    pub(crate) test: Vec<String>,
    pub(crate) interval: i64,
    pub(crate) timeout: i64,
    pub(crate) start_period: i64,
    pub(crate) start_interval: i64,
    pub(crate) retries: i64,
}

/// Understands one instruction; `None` for FROM, which is no part of a stage.
pub(crate) fn parse_command(node: &Node) -> Result<Command, CompileError> {
    let fault = if node.keyword == "onbuild" { Fault::Trigger } else { Fault::Arguments };
    parse_by_keyword(node).map_err(|error| error.fault(fault))
}

fn parse_by_keyword(node: &Node) -> Result<Command, CompileError> {
    let lines = node.lines;
    let no_flags = || Flags::parse(&node.flags, &[], lines);
    let command = match node.keyword.as_str() {
        "run" => return run(node),
        "copy" => return copy(node, false),
        "add" => return copy(node, true),
        "healthcheck" => return health(node),
        "env" => Command::Env(pairs(node)?),
        "label" => Command::Label(pairs(node)?),
        "maintainer" => Command::Maintainer(exactly_one(node)?),
        "onbuild" => return onbuild(node),
        "workdir" => Command::Workdir(exactly_one(node)?),
        "user" => Command::User(exactly_one(node)?),
        "stopsignal" => Command::StopSignal(exactly_one(node)?),
        "expose" => Command::Expose(at_least_one(node)?),
        "volume" => volume(node)?,
        "cmd" => Command::Cmd(shell_form(node)),
        "entrypoint" => Command::Entrypoint(shell_form(node)),
        "shell" => shell(node)?,
        "arg" => arg(node)?,
        _ => return Err(unknown_instruction(node)),
    };
    no_flags()?;
    Ok(command)
}

fn words(node: &Node) -> &[String] {
    match &node.args {
        NodeArgs::Words(words) | NodeArgs::Json(words) => words,
        NodeArgs::Pairs(_) | NodeArgs::Nested(_) => &[],
    }
}

fn name(node: &Node) -> String {
    node.keyword.to_uppercase()
}

fn at_least_one(node: &Node) -> Result<Vec<String>, CompileError> {
    let words = words(node);
    if words.is_empty() {
        return Err(CompileError::syntax(
            node.lines,
            format!("{} requires at least one argument", name(node)),
        ));
    }
    Ok(words.to_vec())
}

fn exactly_one(node: &Node) -> Result<String, CompileError> {
    match words(node) {
        [word] => Ok(word.clone()),
        _ => Err(CompileError::syntax(node.lines, format!("{} requires exactly one argument", name(node)))),
    }
}

fn pairs(node: &Node) -> Result<Vec<Pair>, CompileError> {
    let NodeArgs::Pairs(pairs) = &node.args else { return Ok(Vec::new()) };
    if pairs.is_empty() {
        return Err(CompileError::syntax(
            node.lines,
            format!("{} requires at least one argument", name(node)),
        ));
    }
    if pairs.iter().any(|(name, _)| name.is_empty()) {
        return Err(CompileError::syntax(node.lines, format!("{} names can not be blank", name(node))));
    }
    Ok(pairs.iter().map(|(name, value)| Pair { name: name.clone(), value: value.clone() }).collect())
}

fn shell_form(node: &Node) -> ShellForm {
    match &node.args {
        NodeArgs::Json(words) => ShellForm { words: words.clone(), shell: false },
        // An instruction without a command is a shell with an empty one.
        _ => {
            let words = words(node);
            ShellForm {
                words: if words.is_empty() { vec![String::new()] } else { words.to_vec() },
                shell: true,
            }
        }
    }
}

fn volume(node: &Node) -> Result<Command, CompileError> {
    let paths: Vec<String> = at_least_one(node)?.iter().map(|path| path.trim().to_owned()).collect();
    if paths.iter().any(String::is_empty) {
        return Err(CompileError::syntax(node.lines, "VOLUME specified can not be an empty string"));
    }
    Ok(Command::Volume(paths))
}

fn shell(node: &Node) -> Result<Command, CompileError> {
    let words = at_least_one(node)?;
    match node.args {
        NodeArgs::Json(_) => Ok(Command::Shell(words)),
        _ => Err(CompileError::syntax(node.lines, "SHELL requires the arguments to be in JSON form")
            .word(words.join(" "))
            .hint("for instance SHELL [\"/bin/bash\", \"-c\"]")),
    }
}

fn arg(node: &Node) -> Result<Command, CompileError> {
    let mut list = Vec::new();
    for word in at_least_one(node)? {
        let (name, default) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        if name.is_empty() {
            return Err(CompileError::syntax(node.lines, "ARG names can not be blank"));
        }
        list.push(ArgCommand { name, default });
    }
    Ok(Command::Arg(list))
}

fn onbuild(node: &Node) -> Result<Command, CompileError> {
    Flags::parse(&node.flags, &[], node.lines)?;
    let NodeArgs::Nested(inner) = &node.args else {
        return Err(CompileError::syntax(node.lines, "ONBUILD requires at least one argument"));
    };
    match inner.keyword.as_str() {
        "onbuild" => {
            Err(CompileError::syntax(node.lines, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"))
        }
        keyword @ ("maintainer" | "from") => Err(CompileError::syntax(
            node.lines,
            format!("{} isn't allowed as an ONBUILD trigger", keyword.to_uppercase()),
        )),
        _ => {
            let text = node.original.get("onbuild".len()..).unwrap_or_default().trim_start();
            let mut text = text.to_owned();
            for document in &inner.heredocs {
                text.push('\n');
                text.push_str(&document.content);
                text.push_str(&document.name);
            }
            Ok(Command::Onbuild(text))
        }
    }
}

const RUN_FLAGS: [(&str, FlagKind); 4] = [
    ("mount", FlagKind::Values),
    ("network", FlagKind::Value),
    ("security", FlagKind::Value),
    ("device", FlagKind::Values),
];

fn run(node: &Node) -> Result<Command, CompileError> {
    let flags = Flags::parse(&node.flags, &RUN_FLAGS, node.lines)?;
    let network = flags.text("network");
    if !matches!(network.as_str(), "" | "default" | "none" | "host") {
        let shown = crate::text::quote(&network);
        let error = CompileError::syntax(node.lines, format!("invalid network mode {shown}"));
        return Err(choice(error, &network, &["default", "none", "host"]));
    }
    let security = flags.text("security");
    if !matches!(security.as_str(), "" | "sandbox" | "insecure") {
        let shown = crate::text::quote(&security);
        let error = CompileError::syntax(node.lines, format!("security {shown} is not valid"));
        return Err(choice(error, &security, &["sandbox", "insecure"]));
    }
    let mounts = flags.values("mount");
    for mount in &mounts {
        csv_fields(mount)
            .map_err(|message| CompileError::syntax(node.lines, message).fault(Fault::Mount).word(mount))?;
    }
    let devices = flags.values("device");
    for device in &devices {
        DeviceSpec::parse(device).map_err(|message| {
            CompileError::syntax(node.lines, message).fault(Fault::FlagValue).word(device)
        })?;
    }
    Ok(Command::Run(Box::new(RunCommand {
        form: shell_form(node),
        inline: inline(node),
        mounts,
        network,
        security,
        devices,
    })))
}

/// A flag's value is none of the few that there are.
fn choice(error: CompileError, value: &str, choices: &[&'static str]) -> CompileError {
    let hint = match suggest::nearest(value, choices.iter().copied(), false) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("it is one of {}", choices.join(", ")),
    };
    error.fault(Fault::FlagValue).word(value).hint(hint)
}

/// The documents with the words that start them.
fn inline(node: &Node) -> Vec<Inline> {
    let documents = node.heredocs.iter();
    documents
        .map(|doc| Inline {
            word: String::new(),
            name: doc.name.clone(),
            text: doc.text(),
            raw: doc.content.clone(),
            expand: doc.expand,
        })
        .collect()
}

const COPY_FLAGS: [(&str, FlagKind); 6] = [
    ("chmod", FlagKind::Value),
    ("chown", FlagKind::Value),
    ("exclude", FlagKind::Values),
    ("from", FlagKind::Value),
    ("link", FlagKind::Bool),
    ("parents", FlagKind::Bool),
];

const ADD_FLAGS: [(&str, FlagKind); 7] = [
    ("checksum", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("chown", FlagKind::Value),
    ("exclude", FlagKind::Values),
    ("keep-git-dir", FlagKind::Bool),
    ("link", FlagKind::Bool),
    ("unpack", FlagKind::Bool),
];

fn copy(node: &Node, add: bool) -> Result<Command, CompileError> {
    let words = words(node);
    let [sources @ .., dest] = words else { return Err(too_few(node)) };
    if sources.is_empty() {
        return Err(too_few(node));
    }
    let known: &[_] = if add { &ADD_FLAGS } else { &COPY_FLAGS };
    let flags = Flags::parse(&node.flags, known, node.lines)?;
    let (sources, inline) = split_sources(node, sources, dest)?;
    let command = Box::new(CopyCommand {
        sources,
        inline,
        dest: dest.clone(),
        from: flags.value("from").filter(|from| !from.is_empty()).map(str::to_owned),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.is_set("link"),
        parents: flags.is_set("parents"),
        excludes: flags.values("exclude"),
        checksum: flags.text("checksum"),
        unpack: flags.value("unpack").map(|value| value == "true"),
        keep_git_dir: flags.value("keep-git-dir").map(|value| value == "true"),
    });
    Ok(if add { Command::Add(command) } else { Command::Copy(command) })
}

fn too_few(node: &Node) -> CompileError {
    CompileError::syntax(
        node.lines,
        format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            name(node)
        ),
    )
}

/// Sources that are documents, and the others.
fn split_sources(
    node: &Node,
    words: &[String],
    dest: &str,
) -> Result<(Vec<String>, Vec<Inline>), CompileError> {
    if node.heredocs.is_empty() {
        return Ok((words.to_vec(), Vec::new()));
    }
    if parse_heredoc(dest).is_some() {
        let message = format!("{} cannot accept a heredoc as a destination", name(node));
        return Err(CompileError::syntax(node.lines, message));
    }
    let mut documents = inline(node).into_iter();
    let mut paths = Vec::new();
    let mut inlines = Vec::new();
    for word in words {
        match parse_heredoc(word).and_then(|_| documents.next()) {
            Some(document) => inlines.push(Inline { word: word.clone(), ..document }),
            None => paths.push(word.clone()),
        }
    }
    Ok((paths, inlines))
}

const HEALTH_FLAGS: [(&str, FlagKind); 5] = [
    ("interval", FlagKind::Value),
    ("timeout", FlagKind::Value),
    ("start-period", FlagKind::Value),
    ("start-interval", FlagKind::Value),
    ("retries", FlagKind::Value),
];

fn health(node: &Node) -> Result<Command, CompileError> {
    let fail = |message: String| CompileError::syntax(node.lines, message);
    let words = at_least_one(node)?;
    let (kind, command) =
        words.split_first().map_or((String::new(), &[][..]), |(k, c)| (k.to_uppercase(), c));
    if kind == "NONE" {
        if !command.is_empty() {
            return Err(fail("HEALTHCHECK NONE takes no arguments".to_owned()));
        }
        Flags::parse(&node.flags, &[], node.lines)?;
        return Ok(Command::Healthcheck(HealthCommand { test: vec![kind], ..HealthCommand::default() }));
    }
    let flags = Flags::parse(&node.flags, &HEALTH_FLAGS, node.lines)?;
    if kind != "CMD" {
        let shown = crate::text::quote(&kind);
        return Err(fail(format!("Unknown type {shown} in HEALTHCHECK (try CMD)")));
    }
    if command.is_empty() {
        return Err(fail("Missing command after HEALTHCHECK CMD".to_owned()));
    }
    let test = match node.args {
        NodeArgs::Json(_) => std::iter::once("CMD".to_owned()).chain(command.iter().cloned()).collect(),
        _ => vec!["CMD-SHELL".to_owned(), command.join(" ")],
    };
    let time = |name: &str| health_time(&flags, name, node.lines);
    Ok(Command::Healthcheck(HealthCommand {
        test,
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries: retries(&flags).map_err(fail)?,
    }))
}

/// A time of at least a millisecond; 0 and nothing inherit.
fn health_time(flags: &Flags, name: &str, lines: Lines) -> Result<i64, CompileError> {
    let text = flags.text(name);
    let fail = |message: String| {
        let error = CompileError::syntax(lines, message).fault(Fault::FlagValue);
        error.word(&text).hint("times are written like 30s, 1m30s or 500ms")
    };
    if text.is_empty() {
        return Ok(0);
    }
    let nanos = parse_duration(&text).map_err(fail)?;
    if nanos != 0 && nanos < 1_000_000 {
        return Err(fail(format!("Interval {} cannot be less than 1ms", crate::text::quote(name))));
    }
    Ok(nanos)
}

fn retries(flags: &Flags) -> Result<i64, String> {
    let text = flags.text("retries");
    if text.is_empty() {
        return Ok(0);
    }
    let shown = crate::text::quote(&text);
    let count: i32 =
        text.parse().map_err(|_| format!("strconv.ParseInt: parsing {shown}: invalid syntax"))?;
    if count < 0 {
        return Err(format!("--retries cannot be negative ({count})"));
    }
    Ok(i64::from(count))
}
