use std::collections::BTreeMap;

use rbuild_llb::{Definition, Graph};

use crate::lint::Linter;
use crate::parse::inner::{Node, NodeArgs};
use crate::parse::{detect_syntax, parse, parse_nodes, parse_trigger};
use crate::source::Lines;
use crate::{CompileError, Lowered, compile_offline};

/// A whole Dockerfile, then options (`key=value`) behind zero bytes.
///
/// Claims: compiling ends, never panics, and gives the same bytes again; what is compiled is a graph that any
/// daemon accepts, unchanged by a trip over the wire; errors and steps point at lines that exist; a comment at
/// the end changes nothing.
pub fn dockerfile(data: &[u8]) {
    let mut parts = super::parts(data);
    let text = parts.next().unwrap_or_default();
    let options: BTreeMap<String, String> = parts
        .filter_map(|part| {
            let part = String::from_utf8_lossy(part).into_owned();
            part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        })
        .collect();
    let line_count = line_count(text);
    if let Some((_, line)) = detect_syntax(text) {
        assert!(line as usize <= line_count);
    }
    drop(parse_trigger(&String::from_utf8_lossy(text), '\\', Lines::one(1)));
    a_comment_at_the_end_changes_nothing(text);

    let compiled = compile_offline("Dockerfile", text, &options);
    let again = compile_offline("Dockerfile", text, &options);
    match (compiled, again) {
        (Ok(first), Ok(second)) => {
            assert_eq!(first.definition, second.definition);
            assert_eq!(first.config, second.config);
            assert_eq!(first.warnings, second.warnings);
            check_lowered(&first, line_count);
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.to_string(), second.to_string());
            assert_eq!(first.lines(), second.lines());
            check_error(&first, line_count);
        }
        (first, second) => panic!("once {:?}, then {:?}", first.map(|_| ()), second.map(|_| ())),
    }
}

fn line_count(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').count()
}

fn check_error(error: &CompileError, line_count: usize) {
    assert!(!error.to_string().is_empty());
    if let Some((first, last)) = error.lines() {
        assert!(
            1 <= first && first <= last && last as usize <= line_count,
            "{error}: {first}-{last} of {line_count}"
        );
    }
}

fn check_lowered(lowered: &Lowered, line_count: usize) {
    let definition = &lowered.definition;
    let graph = Graph::from_definition(definition).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(graph.is_empty(), definition.is_scratch());
    let decoded = Definition::decode(&definition.encode()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(decoded.ops, definition.ops);
    assert_eq!(decoded.metadata, definition.metadata);
    for vertex in graph.vertices() {
        for range in vertex.locations.iter().flat_map(|location| &location.ranges) {
            let (first, last) = (range.start.line, range.end.line);
            let end = usize::try_from(last).unwrap_or(0);
            assert!(1 <= first && first <= last && end <= line_count, "{}: {first}-{last}", vertex.name());
        }
    }
    let config: serde_json::Value =
        serde_json::from_slice(&lowered.config).unwrap_or_else(|error| panic!("{error}"));
    assert!(config.is_object());
}

fn a_comment_at_the_end_changes_nothing(text: &[u8]) {
    let Ok(file) = parse_nodes(text) else { return };
    let longer = [text, b"\n# the end"].concat();
    let longer = parse_nodes(&longer).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.directives, longer.directives);
    assert_eq!(file.nodes.len(), longer.nodes.len());
    for (node, longer) in file.nodes.iter().zip(&longer.nodes) {
        same_but_for_the_last_line(node, longer);
    }
    drop(parse(text, &Linter::default()));
}

/// A `\` at the end takes the line of the comment in, also for what ONBUILD holds.
fn same_but_for_the_last_line(node: &Node, longer: &Node) {
    assert_eq!((&node.keyword, &node.flags), (&longer.keyword, &longer.flags));
    assert_eq!((&node.original, &node.heredocs), (&longer.original, &longer.heredocs));
    assert_eq!(node.lines.first, longer.lines.first);
    match (&node.args, &longer.args) {
        (NodeArgs::Nested(node), NodeArgs::Nested(longer)) => same_but_for_the_last_line(node, longer),
        (args, longer) => assert_eq!(args, longer),
    }
}
