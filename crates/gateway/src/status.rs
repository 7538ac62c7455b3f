//! The wire form of a [`BuildError`]: a gRPC status with typed details, both ways. The one place that knows it.
//!
//! Source: protocol notes, "Connections": details are `Any`s of type URL
//! `github.com/moby/buildkit/<type>+json` whose value is the JSON text of the message.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_digest::Digest;
use rbuild_frontend::{BuildError, Detail, ErrorCode, FailedStep, Fault, SharedRef};
use rbuild_llb::{Position, Range, SourceInfo, SourceLocation, op_to_proto_json};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use crate::ForwardedBuild;

const URL_PREFIX: &str = "github.com/moby/buildkit/";
const URL_SUFFIX: &str = "+json";
/// Details of our own; clients that do not know them leave them alone.
const FAULT_URL: &str = "rbuild/errors.Fault+json";
const HINT_URL: &str = "rbuild/errors.Hint+json";
/// gRPC peers refuse headers of more than about 16 KiB, so a Dockerfile larger than this stays out of the
/// details (the message still names the line).
const MAX_DETAILS: usize = 12 << 10;

#[derive(Serialize, Deserialize, Default)]
struct VertexJson {
    #[serde(default)]
    digest: String,
}
#[derive(Serialize, Deserialize, Default)]
struct NameJson {
    #[serde(default)]
    name: String,
}
#[derive(Serialize, Deserialize, Default)]
struct FaultJson {
    #[serde(default)]
    code: String,
}
#[derive(Serialize, Deserialize, Default)]
struct HintJson {
    #[serde(default)]
    text: String,
}
#[derive(Serialize, Deserialize, Default)]
struct ExitJson {
    #[serde(default, rename = "Code", alias = "code")]
    code: u32,
}
#[derive(Serialize, Deserialize, Default)]
struct SourceJson {
    #[serde(default)]
    info: Option<InfoJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeJson>,
}
#[derive(Serialize, Deserialize, Default)]
struct InfoJson {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    language: String,
}
#[derive(Serialize, Deserialize, Default)]
struct RangeJson {
    #[serde(default)]
    start: PositionJson,
    #[serde(default)]
    end: PositionJson,
}
#[derive(Serialize, Deserialize, Default)]
struct PositionJson {
    #[serde(default, skip_serializing_if = "is_zero")]
    line: i32,
    #[serde(default, skip_serializing_if = "is_zero")]
    character: i32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &i32) -> bool {
    *value == 0
}

/// Most bytes of a message before it is cut: what stands at its start says what went wrong, what stands at its
/// end (an exit code, a cause) how. A command may have a heredoc of any size in between.
const MESSAGE_HEAD: usize = 3 << 10;
const MESSAGE_TAIL: usize = 1 << 10;

/// As [`to_status`], for whoever drives the build: with names for what a failed step had and left, under which
/// containers can have it.
pub(crate) fn to_driver(build: &ForwardedBuild, error: &BuildError) -> Status {
    let named = |detail: &Detail| match detail {
        Detail::Step(step) => Detail::Opaque {
            type_url: format!("{URL_PREFIX}errdefs.Solve{URL_SUFFIX}"),
            value: step_json(build, step).to_string().into_bytes(),
        },
        other => other.clone(),
    };
    let details = error.details.iter().map(named).collect();
    to_status(&BuildError { details, ..error.clone() })
}

fn step_json(build: &ForwardedBuild, step: &FailedStep) -> serde_json::Value {
    let ids = |refs: &[Option<SharedRef>]| -> serde_json::Value {
        refs.iter().map(|held| held.clone().map(|held| build.hold(held)).unwrap_or_default()).collect()
    };
    let mut json = serde_json::Map::new();
    // As upstream has it: what is empty is not there.
    if !step.inputs.is_empty() {
        json.insert("inputIDs".into(), ids(&step.inputs));
        json.insert("mountIDs".into(), ids(&step.mounts));
    }
    json.insert("op".into(), op_to_proto_json(&step.op));
    if !step.description.is_empty() {
        json.insert("description".into(), step.description.clone().into_iter().collect());
    }
    json.into()
}

/// The gRPC status that carries `error`.
pub fn to_status(error: &BuildError) -> Status {
    let rpc = to_rpc_status(error);
    Status::with_details(code_of(error.code), rpc.message.clone(), rpc.encode_to_vec().into())
}

/// A message that fits into a header.
fn cut(message: &str) -> String {
    if message.len() <= MESSAGE_HEAD + MESSAGE_TAIL {
        return message.to_owned();
    }
    let boundary = |at: &usize| message.is_char_boundary(*at);
    let head = (0..=MESSAGE_HEAD).rev().find(boundary).unwrap_or(0);
    let tail = (message.len() - MESSAGE_TAIL..=message.len()).find(boundary).unwrap_or(message.len());
    format!("{}…{}", &message[..head], &message[tail..])
}

/// The bytes of [`to_rpc_status`], as they are kept.
pub fn encode_error(error: &BuildError) -> Vec<u8> {
    to_rpc_status(error).encode_to_vec()
}

/// The `google.rpc.Status` that carries `error`, as history records and `Return` use it.
pub fn to_rpc_status(error: &BuildError) -> RpcStatus {
    let message = cut(&error.message);
    let mut room = MAX_DETAILS.saturating_sub(message.len());
    let mut take = |any: prost_types::Any| {
        room = room.checked_sub(any.value.len() + any.type_url.len())?;
        Some(any)
    };
    // What is small goes first: only files can be too large.
    let (files, facts): (Vec<&Detail>, Vec<&Detail>) =
        error.details.iter().partition(|detail| matches!(detail, Detail::Source(_)));
    let mut details: Vec<prost_types::Any> =
        facts.into_iter().filter_map(|detail| take(detail_to_any(detail)?)).collect();
    for detail in files {
        let whole = detail_to_any(detail).and_then(&mut take);
        details.extend(whole.or_else(|| take(detail_to_any(&shortened(detail)?)?)));
    }
    RpcStatus { code: code_of(error.code) as i32, message, details }
}

/// A place in a file, with the file's lines blank but for those around the place: line numbers stay what they are, and
/// clients show no more than these. Only the first lines of a long place count.
fn shortened(detail: &Detail) -> Option<Detail> {
    /// Lines of a place that are kept.
    const PLACE: i32 = 20;
    /// More than clients show before and after a place.
    const AROUND: i32 = 3;
    let Detail::Source(location) = detail else { return None };
    let first = location.ranges.iter().map(|range| range.start.line).min()?;
    let ranges: Vec<Range> = location
        .ranges
        .iter()
        .filter(|range| range.start.line < first.saturating_add(PLACE))
        .copied()
        .collect();
    let last = ranges.iter().map(|range| range.end.line).max()?.min(first.saturating_add(PLACE));
    let kept = first.saturating_sub(AROUND)..=last.saturating_add(AROUND);
    let mut data = Vec::new();
    for (number, line) in (1..=*kept.end()).zip(location.info.data.split_inclusive(|byte| *byte == b'\n')) {
        data.extend_from_slice(if kept.contains(&number) { line } else { b"\n" });
    }
    let info = SourceInfo { data: data.into(), definition: None, ..(*location.info).clone() };
    Some(Detail::Source(SourceLocation { info: Arc::new(info), ranges }))
}

/// Reads an error that a frontend outside the daemon returned.
pub fn from_rpc_status(status: RpcStatus) -> BuildError {
    let mut error = BuildError::new(code_from(Code::from_i32(status.code)), status.message);
    error.details = status.details.into_iter().map(|any| detail_from_any(any.type_url, any.value)).collect();
    error
}

/// Reads an error that a peer answered to one of our calls.
pub fn from_status(status: &Status) -> BuildError {
    match RpcStatus::decode(status.details()) {
        Ok(rpc) if !rpc.details.is_empty() => {
            from_rpc_status(RpcStatus { code: status.code() as i32, message: status.message().into(), ..rpc })
        }
        _ => BuildError::new(code_from(status.code()), status.message()),
    }
}

fn code_of(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::PermissionDenied => Code::PermissionDenied,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::ResourceExhausted => Code::ResourceExhausted,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::Cancelled => Code::Cancelled,
        ErrorCode::Unknown => Code::Unknown,
        ErrorCode::Internal => Code::Internal,
    }
}

fn code_from(code: Code) -> ErrorCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => ErrorCode::InvalidArgument,
        Code::NotFound => ErrorCode::NotFound,
        Code::AlreadyExists => ErrorCode::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::PermissionDenied,
        Code::Unimplemented => ErrorCode::Unimplemented,
        Code::ResourceExhausted => ErrorCode::ResourceExhausted,
        Code::Unavailable | Code::DeadlineExceeded => ErrorCode::Unavailable,
        Code::Cancelled | Code::Aborted => ErrorCode::Cancelled,
        Code::Internal | Code::DataLoss => ErrorCode::Internal,
        Code::Ok | Code::Unknown => ErrorCode::Unknown,
    }
}

fn json_any(name: &str, value: &impl Serialize) -> prost_types::Any {
    own_any(&format!("{URL_PREFIX}{name}{URL_SUFFIX}"), value)
}

fn own_any(type_url: &str, value: &impl Serialize) -> prost_types::Any {
    // Plain structs of strings and numbers: serialising them cannot fail.
    let value = serde_json::to_vec(value).unwrap_or_default();
    prost_types::Any { type_url: type_url.to_owned(), value }
}

/// `None`: it says something only to whoever drives the build.
fn detail_to_any(detail: &Detail) -> Option<prost_types::Any> {
    Some(match detail {
        Detail::Step(_) => return None,
        Detail::Vertex(digest) => json_any("errdefs.Vertex", &VertexJson { digest: digest.to_string() }),
        Detail::Source(location) => json_any("errdefs.Source", &source_to_json(location)),
        Detail::Exit(code) => json_any("gatewayapi.ExitMessage", &ExitJson { code: *code }),
        Detail::Fault(fault) => own_any(FAULT_URL, &FaultJson { code: fault.code().to_owned() }),
        Detail::Hint(text) => own_any(HINT_URL, &HintJson { text: text.clone() }),
        Detail::Subrequest(name) => json_any("errdefs.Subrequest", &NameJson { name: name.clone() }),
        Detail::FrontendCap(name) => json_any("errdefs.FrontendCap", &NameJson { name: name.clone() }),
        Detail::Opaque { type_url, value } => {
            prost_types::Any { type_url: type_url.clone(), value: value.clone() }
        }
    })
}

fn source_to_json(location: &SourceLocation) -> SourceJson {
    let position = |p: &Position| PositionJson { line: p.line, character: p.character };
    SourceJson {
        info: Some(InfoJson {
            filename: location.info.filename.clone(),
            data: BASE64.encode(&location.info.data),
            language: location.info.language.clone(),
        }),
        ranges: (location.ranges.iter())
            .map(|range| RangeJson { start: position(&range.start), end: position(&range.end) })
            .collect(),
    }
}

fn detail_from_any(type_url: String, value: Vec<u8>) -> Detail {
    let own = match type_url.as_str() {
        FAULT_URL => serde_json::from_slice::<FaultJson>(&value)
            .ok()
            .and_then(|fault| Fault::parse(&fault.code))
            .map(Detail::Fault),
        HINT_URL => serde_json::from_slice::<HintJson>(&value).ok().map(|hint| Detail::Hint(hint.text)),
        _ => None,
    };
    if let Some(own) = own {
        return own;
    }
    let name = type_url.strip_prefix(URL_PREFIX).and_then(|rest| rest.strip_suffix(URL_SUFFIX));
    let known = match name {
        Some("errdefs.Vertex") => serde_json::from_slice::<VertexJson>(&value)
            .ok()
            .and_then(|v| Digest::parse(&v.digest).ok())
            .map(Detail::Vertex),
        Some("errdefs.Source") => {
            serde_json::from_slice::<SourceJson>(&value).ok().and_then(source_from_json).map(Detail::Source)
        }
        Some("gatewayapi.ExitMessage") => {
            serde_json::from_slice::<ExitJson>(&value).ok().map(|exit| Detail::Exit(exit.code))
        }
        Some("errdefs.Subrequest") => {
            serde_json::from_slice::<NameJson>(&value).ok().map(|n| Detail::Subrequest(n.name))
        }
        Some("errdefs.FrontendCap") => {
            serde_json::from_slice::<NameJson>(&value).ok().map(|n| Detail::FrontendCap(n.name))
        }
        _ => None,
    };
    known.unwrap_or(Detail::Opaque { type_url, value })
}

fn source_from_json(source: SourceJson) -> Option<SourceLocation> {
    let info = source.info?;
    let position = |p: &PositionJson| Position { line: p.line, character: p.character };
    Some(SourceLocation {
        info: Arc::new(SourceInfo {
            filename: info.filename,
            data: BASE64.decode(info.data).ok()?.into(),
            language: info.language,
            definition: None,
        }),
        ranges: (source.ranges.iter())
            .map(|range| Range { start: position(&range.start), end: position(&range.end) })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_the_wire() {
        let digest = Digest::of("v");
        let info = SourceInfo {
            filename: "Dockerfile".into(),
            data: b"FROM scratch\n".to_vec().into(),
            language: "Dockerfile".into(),
            definition: None,
        };
        let range =
            Range { start: Position { line: 1, character: 0 }, end: Position { line: 1, character: 4 } };
        let error = BuildError::new(ErrorCode::Unknown, "it broke")
            .with(Detail::Vertex(digest))
            .with(Detail::Exit(7))
            .fault(Fault::StepFailed)
            .hint("try again")
            .with(Detail::Opaque { type_url: "x/y".into(), value: vec![1] })
            .with(Detail::Source(SourceLocation { info: Arc::new(info), ranges: vec![range] }));
        let back = from_status(&to_status(&error));
        assert_eq!(back.message, "it broke");
        assert_eq!(format!("{:?}", back.details), format!("{:?}", error.details));
    }

    #[test]
    fn exit_code_is_spelt_as_upstream_spells_it() {
        let any = detail_to_any(&Detail::Exit(7)).unwrap();
        assert_eq!(any.type_url, "github.com/moby/buildkit/gatewayapi.ExitMessage+json");
        assert_eq!(any.value, br#"{"Code":7}"#);
    }

    fn huge(data: Vec<u8>, line: i32) -> RpcStatus {
        let info = SourceInfo { filename: "Dockerfile".into(), data: data.into(), ..SourceInfo::default() };
        let ranges = vec![Range::lines(line, line)];
        let error = BuildError::invalid("x")
            .with(Detail::Source(SourceLocation { info: Arc::new(info), ranges }))
            .with(Detail::Exit(1));
        to_rpc_status(&error)
    }

    #[test]
    fn a_huge_message_keeps_its_head_its_tail_and_the_details() {
        let message = format!("process \"{}\" did not complete: exit code: 7", "é\n".repeat(32 << 10));
        let error = BuildError::new(ErrorCode::Unknown, message.clone()).with(Detail::Exit(7));
        let status = to_status(&error);
        assert!(status.message().len() <= (4 << 10) + '…'.len_utf8(), "{}", status.message().len());
        assert!(status.message().starts_with("process \"é"));
        assert!(status.message().contains('…') && status.message().ends_with("exit code: 7"));
        let back = from_status(&status);
        assert_eq!(back.message, status.message());
        assert!(matches!(back.details[..], [Detail::Exit(7)]));
        let short = "é".repeat(2 << 10);
        assert_eq!(to_status(&BuildError::invalid(short.clone())).message(), short);
    }

    #[test]
    fn a_huge_dockerfile_does_not_blow_up_the_headers() {
        assert_eq!(huge(vec![b'#'; 1 << 20], 1).details.len(), 1);
        // Even its line ends are too many.
        assert_eq!(huge(vec![b'\n'; 1 << 20], 1 << 19).details.len(), 1);
    }

    #[test]
    fn of_a_long_dockerfile_the_lines_around_the_error_are_sent() {
        let text: String = (1..=2_000).map(|n| format!("RUN echo this is line {n}\n")).collect();
        let back = from_rpc_status(huge(text.clone().into_bytes(), 1_234));
        let Some(Detail::Source(location)) = back.details.last() else { panic!("{:?}", back.details) };
        let sent = String::from_utf8_lossy(&location.info.data).into_owned();
        for (number, (sent, written)) in (1..).zip(sent.lines().zip(text.lines())) {
            let near = (1_231..=1_237).contains(&number);
            assert_eq!(sent, if near { written } else { "" }, "line {number}");
        }
        assert_eq!(sent.lines().count(), 1_237);
    }
}
