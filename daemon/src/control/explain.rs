//! Why the steps of a build ran, for `rbuildctl history explain`, and what they used, for `history inspect`.

use rbuild_api::rbuild::v1 as wire;
use rbuild_api::rbuild::v1::builds_server::Builds;
use rbuild_api::rbuild::v1::cause::Kind;
use rbuild_build::Cause;
use tonic::Request;

use super::{ControlService, Reply};

#[tonic::async_trait]
impl Builds for ControlService {
    async fn explain(&self, request: Request<wire::ExplainRequest>) -> Reply<wire::ExplainResponse> {
        let id = request.into_inner().r#ref;
        let record = self.builder.history().get(&id).ok_or_else(|| super::history::no_such_build(&id))?;
        let steps = record.explained.iter().map(|step| wire::ExplainedStep {
            vertex: step.vertex.to_string(),
            name: step.name.clone(),
            causes: step.causes.iter().cloned().map(cause).collect(),
        });
        Ok(tonic::Response::new(wire::ExplainResponse { steps: steps.collect() }))
    }

    async fn usage(&self, request: Request<wire::UsageRequest>) -> Reply<wire::UsageResponse> {
        let id = request.into_inner().r#ref;
        let record = self.builder.history().get(&id).ok_or_else(|| super::history::no_such_build(&id))?;
        let usage = record.usage.map(|blob| wire::UsageResponse {
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
        });
        Ok(tonic::Response::new(usage.unwrap_or_default()))
    }
}

fn cause(cause: Cause) -> wire::Cause {
    let of = |kind: Kind, subject: String| wire::Cause { kind: kind.into(), subject, ..Default::default() };
    match cause {
        Cause::First => of(Kind::First, String::new()),
        Cause::BuildArg { name, before, after } => wire::Cause { before, after, ..of(Kind::BuildArg, name) },
        Cause::Field { field, before, after } => wire::Cause { before, after, ..of(Kind::Field, field) },
        Cause::Files(files) => wire::Cause {
            added: files.added,
            removed: files.removed,
            changed: files.changed,
            total: files.total,
            ..of(Kind::Files, String::new())
        },
        Cause::Before { step } => of(Kind::Before, step),
        Cause::Input { step } => of(Kind::Input, step),
        Cause::CacheSkipped => of(Kind::CacheSkipped, String::new()),
        Cause::NotKept => of(Kind::NotKept, String::new()),
    }
}
