//! Every folder of `golden/` is a request; what the frontend asks of the daemon and what it returns must be
//! what is recorded there. The records were made by running upstream's frontend as a black box against the
//! same fake daemon.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics has failed")]

mod fake;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fake::{Case, FakeBridge};
use rbuild_dockerfile::DockerfileFrontend;
use rbuild_frontend::{BuildError, Detail, Frontend, FrontendRequest, FrontendResult, Warning};
use rbuild_llb::{Definition, Range, definition_to_json_lines};

fn cases() -> Vec<PathBuf> {
    // Another folder of requests can be tried, for instance a generated one.
    let root = std::env::var("GOLDEN_ROOT")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from);
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// Ids of progress groups are random in the record.
fn normalise(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\"progress_group\":{\"id\":\"") {
        let start = at + "\"progress_group\":{\"id\":\"".len();
        let end = start + rest[start..].find('"').unwrap();
        out.push_str(&rest[..start]);
        out.push_str("GROUP");
        rest = &rest[end..];
    }
    out + rest
}

fn ranges(list: &[Range]) -> String {
    let shown: Vec<String> = list.iter().map(|r| format!("{}-{}", r.start.line, r.end.line)).collect();
    shown.join(",")
}

fn describe(definition: &Definition) -> String {
    let mut text = normalise(&definition_to_json_lines(definition).unwrap());
    let Some(source) = &definition.source else { return text };
    for (digest, places) in &source.locations {
        if !places.is_empty() {
            let shown: Vec<String> = places.iter().map(|place| ranges(&place.ranges)).collect();
            writeln!(text, "@ {digest} {}", shown.join(" ")).unwrap();
        }
    }
    text
}

fn describe_outcome(bridge: &FakeBridge, outcome: &Result<FrontendResult, BuildError>) -> String {
    let mut text = String::new();
    if outcome.is_ok() {
        // Upstream asks for the same file of a named context at each use.
        let mut seen = Vec::new();
        for definition in bridge.solved() {
            let described = describe(&definition);
            if !seen.contains(&described) {
                seen.push(described);
            }
        }
        // Platforms are compiled at the same time.
        seen.sort();
        for (number, described) in seen.iter().enumerate() {
            write!(text, "# solve {number}\n{described}").unwrap();
        }
    }
    match outcome {
        Ok(result) => {
            for (key, value) in &result.metadata {
                writeln!(text, "# {key}\n{}", String::from_utf8_lossy(value)).unwrap();
            }
        }
        Err(error) => {
            writeln!(text, "# error\n{}", error.message).unwrap();
            for detail in &error.details {
                if let Detail::Source(location) = detail {
                    writeln!(text, "@ {}", ranges(&location.ranges)).unwrap();
                }
            }
        }
    }
    text
}

/// The warnings as `warnings.txt` has them; those of one rule at one place come in any order.
fn describe_warnings(warnings: &[Warning]) -> String {
    let line = |warning: &Warning| {
        let Warning { level, short, detail, url, location, .. } = warning;
        let place = ranges(&location.as_ref().unwrap().ranges);
        let rule = short.split(':').next().unwrap();
        (format!("{rule}{place}"), format!("{level} {short} | {} | {url} | {place}\n", detail.join(";")))
    };
    let lines: Vec<(String, String)> = warnings.iter().map(line).collect();
    let mut text = String::new();
    for same in lines.chunk_by(|a, b| a.0 == b.0) {
        let mut same: Vec<&str> = same.iter().map(|(_, line)| line.as_str()).collect();
        same.sort_unstable();
        text.extend(same);
    }
    text
}

async fn run(dir: &Path) -> (String, String) {
    let case = Case::load(dir);
    let request = FrontendRequest {
        options: case.opts.clone(),
        session_id: "SESSION".into(),
        ..FrontendRequest::default()
    };
    let bridge = Arc::new(FakeBridge::new(case));
    let outcome = DockerfileFrontend::default().solve(bridge.clone(), request).await;
    (describe_outcome(&bridge, &outcome), describe_warnings(&bridge.warnings()))
}

#[tokio::test]
async fn requests_and_results_are_those_of_upstream() {
    let only = std::env::var("GOLDEN_CASE").ok();
    let mut failed = Vec::new();
    let mut count = 0;
    for dir in cases() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        count += 1;
        let expected = std::fs::read_to_string(dir.join("llb.txt")).unwrap();
        let expected_warnings = std::fs::read_to_string(dir.join("warnings.txt")).unwrap_or_default();
        let (found, warnings) = run(&dir).await;
        let found = found + "# warnings\n" + &warnings;
        let expected = expected + "# warnings\n" + &expected_warnings;
        if found != expected {
            let other = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
            let (found_line, expected_line) =
                other.unwrap_or((&found[found.len().min(expected.len())..], ""));
            println!("== {name}\nfound    {found_line}\nexpected {expected_line}");
            if let Ok(keep) = std::env::var("GOLDEN_KEEP") {
                std::fs::write(Path::new(&keep).join(&name), &found).unwrap();
            }
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{} of {count} differ: {failed:?}", failed.len());
    assert!(count >= 40 || only.is_some(), "only {count} cases");
}
