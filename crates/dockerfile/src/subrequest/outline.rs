use rbuild_frontend::subrequest::{Outline, OutlineArg, OutlineMount};
use rbuild_frontend::{BuildError, FrontendResult};

use super::table::table;
use super::{answer, place, text_of};
use crate::lower;
use crate::source::Source;

/// Spaces between columns.
const GAP: usize = 3;

/// What a target takes from the outside. `target`: its name and what the file says of it.
pub(crate) fn outline(
    target: (String, String),
    found: lower::Outline,
    source: &Source,
) -> Result<FrontendResult, BuildError> {
    let args = found.args.into_iter().map(|arg| OutlineArg {
        name: arg.name,
        description: arg.description,
        value: arg.value,
        location: place(arg.lines),
    });
    let outline = Outline {
        name: target.0,
        description: target.1,
        args: args.collect(),
        secrets: mounts(found.secrets),
        ssh: mounts(found.ssh),
        sources: vec![text_of(source)],
    };
    let text = text(&outline);
    answer(&outline, text)
}

fn mounts(found: Vec<lower::OutlineMount>) -> Vec<OutlineMount> {
    let mount = |mount: lower::OutlineMount| OutlineMount {
        name: mount.id,
        required: mount.required,
        location: place(mount.lines),
    };
    found.into_iter().map(mount).collect()
}

fn text(outline: &Outline) -> String {
    let mut out = String::new();
    if !outline.name.is_empty() {
        let mut rows = vec![["TARGET:".to_owned(), outline.name.clone()]];
        if !outline.description.is_empty() {
            rows.push(["DESCRIPTION:".to_owned(), outline.description.clone()]);
        }
        out.push_str(&table(&rows, 1));
        out.push('\n');
    }
    if !outline.args.is_empty() {
        let header = ["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned);
        let rows =
            outline.args.iter().map(|arg| [arg.name.clone(), arg.value.clone(), arg.description.clone()]);
        let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
        out.push_str(&table(&rows, GAP));
        out.push('\n');
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if mounts.is_empty() {
            continue;
        }
        let header = [title.to_owned(), "REQUIRED".to_owned()];
        let required = |mount: &OutlineMount| if mount.required { "true" } else { "" }.to_owned();
        let rows = mounts.iter().map(|mount| [mount.name.clone(), required(mount)]);
        let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
        out.push_str(&table(&rows, GAP));
        out.push('\n');
    }
    out
}
