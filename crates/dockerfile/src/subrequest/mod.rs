//! Answers to requests that are no build: what a client may ask of a file. Texts and JSON equal upstream's.

mod describe;
mod json;
mod lint;
mod outline;
mod table;
mod targets;

use std::collections::BTreeMap;

use base64::Engine as _;
use rbuild_frontend::subrequest::{LinePosition, LineRange, Place, VERSION};
use rbuild_frontend::{BuildError, ErrorCode, FrontendResult};
use rbuild_llb::Range;

pub(crate) use describe::describe;
pub(crate) use lint::lint;
pub(crate) use outline::outline;
pub(crate) use targets::targets;

use crate::source::{Lines, Source};

/// An answer: JSON for programs and text for people, in the result's metadata.
fn answer<T: serde::Serialize>(value: &T, text: String) -> Result<FrontendResult, BuildError> {
    let json =
        json::indented(value).map_err(|error| BuildError::new(ErrorCode::Internal, error.to_string()))?;
    let metadata = BTreeMap::from([
        ("result.json".to_owned(), json.into_bytes()),
        ("result.txt".to_owned(), text.into_bytes()),
        ("version".to_owned(), VERSION.as_bytes().to_vec()),
    ]);
    Ok(FrontendResult { metadata, ..FrontendResult::single(None) })
}

fn place(lines: Lines) -> Place {
    place_of(&lines.ranges())
}

fn place_of(ranges: &[Range]) -> Place {
    let line = |line| LinePosition { line };
    let ranges =
        ranges.iter().map(|range| LineRange { start: line(range.start.line), end: line(range.end.line) });
    Place { ranges: ranges.collect() }
}

fn text_of(source: &Source) -> String {
    base64::engine::general_purpose::STANDARD.encode(&source.info.data)
}
