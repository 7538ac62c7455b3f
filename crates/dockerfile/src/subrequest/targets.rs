use rbuild_frontend::subrequest::{Target, TargetList};
use rbuild_frontend::{BuildError, FrontendResult};

use super::table::table;
use super::{answer, place, text_of};
use crate::lint::describes;
use crate::parse::{Parsed, StageSource};
use crate::source::Source;

/// Which stages a file has.
pub(crate) fn targets(parsed: &Parsed, source: &Source) -> Result<FrontendResult, BuildError> {
    let last = parsed.stages.len().saturating_sub(1);
    let targets: Vec<Target> =
        parsed.stages.iter().enumerate().map(|(index, stage)| target(stage, index == last)).collect();
    let header = ["TARGET".to_owned(), "DESCRIPTION".to_owned()];
    let rows = targets.iter().map(|target| [shown(target), target.description.clone()]);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let text = table(&rows, 1);
    answer(&TargetList { targets, sources: vec![text_of(source)] }, text)
}

fn target(stage: &StageSource, default: bool) -> Target {
    let from = &stage.from;
    let said = from.comments.iter().find_map(|comment| describes(comment, &from.name));
    Target {
        name: from.name.clone(),
        default,
        description: said.unwrap_or_default().to_owned(),
        base: from.base.clone(),
        platform: from.platform.clone(),
        location: place(from.lines),
    }
}

fn shown(target: &Target) -> String {
    match (target.name.as_str(), target.default) {
        (name, false) => name.to_owned(),
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
    }
}
