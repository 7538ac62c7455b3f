use std::fmt::Write as _;

use rbuild_frontend::subrequest::{LintError, LintResult, LintSource, LintWarning};
use rbuild_frontend::{BuildError, Detail, FrontendResult};
use serde_json::value::RawValue;

use super::{answer, place, place_of, text_of};
use crate::lint::Finding;
use crate::source::{Lines, Source};

/// Findings, and why the file cannot be built if it cannot.
pub(crate) fn lint(
    findings: &[Finding],
    failure: Option<&BuildError>,
    source: &Source,
) -> Result<FrontendResult, BuildError> {
    let warnings: Vec<LintWarning> = findings.iter().map(warning).collect();
    let failed = failure.is_some();
    let found = LintResult {
        warnings: Some(warnings).filter(|warnings| !warnings.is_empty()),
        sources: vec![source_of(source)],
        build_error: failure.map(error),
    };
    let mut result = answer(&found, text(findings, source))?;
    let code = if findings.is_empty() && !failed { "0" } else { "1" };
    result.metadata.insert("result.statuscode".to_owned(), code.into());
    Ok(result)
}

fn warning(finding: &Finding) -> LintWarning {
    LintWarning {
        rule_name: finding.rule.id.to_owned(),
        description: finding.rule.description.to_owned(),
        url: finding.rule.url(),
        detail: finding.message.clone(),
        location: place(finding.lines),
    }
}

fn source_of(source: &Source) -> LintSource {
    let definition = source.info.definition.as_ref().map(rbuild_llb::definition_to_json);
    LintSource {
        filename: source.info.filename.clone(),
        data: text_of(source),
        // What was just written as JSON is JSON.
        definition: definition.and_then(|json| RawValue::from_string(json).ok()),
        language: source.info.language.clone(),
    }
}

fn error(error: &BuildError) -> LintError {
    let place = error.details.iter().find_map(|detail| match detail {
        Detail::Source(location) => Some(place_of(&location.ranges)),
        _ => None,
    });
    LintError { message: error.message.clone(), location: place.unwrap_or_default() }
}

/// Each finding with its lines, in the order of the file.
fn text(findings: &[Finding], source: &Source) -> String {
    let text = String::from_utf8_lossy(&source.info.data);
    let lines: Vec<&str> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.lines.first);
    let mut out = String::new();
    for finding in sorted {
        let url = finding.rule.url();
        let page = if url.is_empty() { String::new() } else { format!(" - {url}") };
        out.push_str(&format!("\nWARNING: {}{page}\n{}\n", finding.rule.id, finding.message));
        excerpt(&mut out, &source.info.filename, &lines, finding.lines);
    }
    out
}

fn excerpt(out: &mut String, filename: &str, lines: &[&str], marked: Lines) {
    const RULE: &str = "--------------------";
    // A single line is shown with two on each side, several with one.
    let around = if marked.first == marked.last { 2 } else { 1 };
    let first = marked.first.saturating_sub(around).max(1);
    let last = marked.last.saturating_add(around);
    // Writing to a string cannot fail.
    let mut line = |text: std::fmt::Arguments<'_>| _ = out.write_fmt(text).is_ok();
    line(format_args!("{filename}:{}\n{RULE}\n", marked.first));
    for (number, shown) in (1..).zip(lines).filter(|(number, _)| (first..=last).contains(number)) {
        let mark = if (marked.first..=marked.last).contains(&number) { ">>>" } else { "   " };
        line(format_args!("{number:>4} | {mark} {shown}\n"));
    }
    line(format_args!("{RULE}\n"));
}
