use rbuild_frontend::Fault;

use super::command::{ArgCommand, Command, parse_command};
use super::directive::Directives;
use super::flags::{FlagKind, Flags};
use super::node::{KEYWORDS, Node, NodeArgs, NodeFile, unknown_instruction};
use crate::CompileError;
use crate::lint::{self, Linter};
use crate::source::Lines;

/// A whole Dockerfile.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) directives: Directives,
    /// ARGs before the first FROM.
    pub(crate) global_args: Vec<GlobalArg>,
    pub(crate) stages: Vec<StageSource>,
}

/// One ARG before the first FROM.
#[derive(Debug, Clone)]
pub(crate) struct GlobalArg {
    pub(crate) args: Vec<ArgCommand>,
    pub(crate) lines: Lines,
    pub(crate) comments: Vec<String>,
}

/// A stage as it is written.
#[derive(Debug, Clone)]
pub(crate) struct StageSource {
    pub(crate) from: FromCommand,
    pub(crate) instructions: Vec<Instruction>,
}

/// FROM.
#[derive(Debug, Clone)]
pub(crate) struct FromCommand {
    pub(crate) base: String,
    /// Lower case; empty if it has none.
    pub(crate) name: String,
    pub(crate) platform: String,
    pub(crate) original: String,
    pub(crate) lines: Lines,
    pub(crate) comments: Vec<String>,
}

/// An instruction of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub(crate) command: Command,
    /// As it is written, continuations joined.
    pub(crate) original: String,
    pub(crate) lines: Lines,
    pub(crate) comments: Vec<String>,
}

/// Understands the instructions and groups them by stages.
pub(crate) fn parse_stages(file: NodeFile, lint: &Linter) -> Result<Parsed, CompileError> {
    let mut parsed = Parsed { directives: file.directives, ..Parsed::default() };
    for line in file.empty_continuations {
        lint::check_continuation(lint, line);
    }
    for node in &file.nodes {
        if !KEYWORDS.contains(&node.keyword.as_str()) {
            return Err(unknown_instruction(node));
        }
        if node.keyword == "from" {
            let from = parse_from(node, lint)?;
            parsed.stages.push(StageSource { from, instructions: Vec::new() });
            continue;
        }
        if node.keyword == "maintainer" {
            lint::check_maintainer(lint, node.lines);
        }
        let command = parse_command(node)?;
        if let Command::Arg(args) = &command {
            let names: Vec<&str> = args.iter().map(|arg| arg.name.as_str()).collect();
            lint::check_description(lint, &node.keyword, &names, &node.comments, node.lines);
        }
        match (parsed.stages.last_mut(), command) {
            (Some(stage), command) => stage.instructions.push(Instruction {
                command,
                original: node.original.clone(),
                lines: node.lines,
                comments: node.comments.clone(),
            }),
            (None, Command::Arg(args)) => {
                parsed.global_args.push(GlobalArg {
                    args,
                    lines: node.lines,
                    comments: node.comments.clone(),
                });
            }
            (None, _) => {
                let error = CompileError::at(node.lines, "no build stage in current context");
                return Err(error.fault(Fault::NoStage).hint("before the first FROM only ARG may stand"));
            }
        }
    }
    if parsed.stages.is_empty() {
        let error = CompileError::new("dockerfile contains no stages to build").fault(Fault::NoStage);
        return Err(error.hint("a Dockerfile begins with FROM and the name of an image"));
    }
    lint::check_stage_names(lint, &parsed.stages);
    lint::check_casing(lint, &parsed);
    Ok(parsed)
}

fn parse_from(node: &Node, lint: &Linter) -> Result<FromCommand, CompileError> {
    let words: &[String] = match &node.args {
        NodeArgs::Words(words) => words,
        _ => &[],
    };
    if let [_, word, name] = words {
        if word.eq_ignore_ascii_case("as") {
            lint::check_stage_name(lint, name, node.lines);
        }
        let keyword = node.original.split_whitespace().next().unwrap_or_default();
        lint::check_as_casing(lint, keyword, word, node.lines);
    }
    let (base, name) = match words {
        [base] => (base, String::new()),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (base, name.to_lowercase()),
        _ => {
            let error = CompileError::syntax(node.lines, "FROM requires either one or three arguments");
            return Err(error.fault(Fault::Arguments).hint("FROM image, or FROM image AS name"));
        }
    };
    if !name.is_empty() && !is_stage_name(&name) {
        let shown = crate::text::quote(&words[2]);
        return Err(CompileError::syntax(
            node.lines,
            format!(
                "invalid name for build stage: {shown}, name can't start with a number or contain symbols"
            ),
        )
        .fault(Fault::Arguments)
        .word(&words[2]));
    }
    let names: &[&str] = if name.is_empty() { &[] } else { &[&name] };
    lint::check_description(lint, &node.keyword, names, &node.comments, node.lines);
    let flags = Flags::parse(&node.flags, &[("platform", FlagKind::Value)], node.lines)?;
    Ok(FromCommand {
        base: base.clone(),
        name,
        platform: flags.text("platform"),
        original: node.original.clone(),
        lines: node.lines,
        comments: node.comments.clone(),
    })
}

fn is_stage_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    first
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}
