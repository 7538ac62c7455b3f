//! A step of a definition as a container: what the failed step left, or what a step would begin with.

use prost::Message as _;
use rbuild_api::google::rpc::Status as RpcStatus;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::pb;
use rbuild_digest::{Digest, random_id};
use serde_json::Value;
use tonic::Status;

use crate::gateway::Gateway;

const VERTEX: &str = "github.com/moby/buildkit/errdefs.Vertex+json";
const SOLVE: &str = "github.com/moby/buildkit/errdefs.Solve+json";

/// A step that runs a process.
#[derive(Debug)]
pub(super) struct Step {
    /// As progress shows it.
    pub(super) name: String,
    /// What it runs.
    pub(super) exec: pb::ExecOp,
    inputs: Vec<pb::Input>,
    platform: Option<pb::Platform>,
}

/// The steps of a definition that run processes, with their digests.
pub(super) fn steps(definition: &pb::Definition) -> Vec<(String, Step)> {
    let step = |bytes: &Vec<u8>| {
        let op = pb::Op::decode(bytes.as_slice()).ok()?;
        let Some(pb::op::Op::Exec(exec)) = op.op else { return None };
        let digest = Digest::of(bytes).to_string();
        let name = definition.metadata.get(&digest).and_then(|of| of.description.get("llb.customname"));
        let args = || exec.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default();
        let name = name.cloned().unwrap_or_else(args);
        Some((digest, Step { name, exec, inputs: op.inputs, platform: op.platform }))
    };
    definition.def.iter().filter_map(step).collect()
}

/// Which step an error is about, and the ids of what its mounts were left with.
pub(super) fn failed(status: &Status) -> Option<(String, Vec<String>)> {
    let rpc = RpcStatus::decode(status.details()).ok()?;
    let detail = |url: &str| -> Option<Value> {
        let any = rpc.details.iter().find(|any| any.type_url == url)?;
        serde_json::from_slice(&any.value).ok()
    };
    let digest = detail(VERTEX)?.get("digest")?.as_str()?.to_owned();
    let ids = detail(SOLVE)?.get("mountIDs")?.as_array()?.clone();
    Some((digest, ids.iter().map(|id| id.as_str().unwrap_or_default().to_owned()).collect()))
}

impl Step {
    /// What its mounts are made of, computed now.
    pub(super) async fn begun(
        &self,
        gateway: &mut Gateway,
        definition: &pb::Definition,
    ) -> Result<Vec<String>, Status> {
        let mut ids = Vec::with_capacity(self.exec.mounts.len());
        for mount in &self.exec.mounts {
            let input = usize::try_from(mount.input).ok().and_then(|input| self.inputs.get(input));
            ids.push(match input {
                Some(input) if mount.mount_type() == pb::MountType::Bind => {
                    gateway.solve(ending_at(definition, input)).await?
                }
                _ => String::new(),
            });
        }
        Ok(ids)
    }

    /// Its container, with the results of these ids as what is mounted.
    pub(super) fn container(&self, ids: &[String]) -> wire::NewContainerRequest {
        let mounts = self.exec.mounts.iter().enumerate().map(|(index, mount)| pb::Mount {
            result_id: ids.get(index).cloned().unwrap_or_default(),
            input: -1,
            output: -1,
            ..mount.clone()
        });
        let meta = self.exec.meta.clone().unwrap_or_default();
        wire::NewContainerRequest {
            container_id: random_id(),
            mounts: mounts.collect(),
            network: self.exec.network,
            platform: self.platform.clone(),
            constraints: None,
            extra_hosts: meta.extra_hosts,
            hostname: meta.hostname,
        }
    }
}

/// The part of a definition that this output needs, and more: what is not needed is not computed.
fn ending_at(definition: &pb::Definition, input: &pb::Input) -> pb::Definition {
    let mut part = definition.clone();
    part.def.pop();
    part.def.push(pb::Op { inputs: vec![input.clone()], ..pb::Op::default() }.encode_to_vec());
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> pb::Definition {
        let exec = pb::ExecOp {
            meta: Some(pb::Meta {
                args: vec!["sh".into(), "-c".into(), "make".into()],
                ..pb::Meta::default()
            }),
            mounts: vec![pb::Mount { dest: "/".into(), ..pb::Mount::default() }],
            ..pb::ExecOp::default()
        };
        let op = pb::Op { op: Some(pb::op::Op::Exec(exec)), ..pb::Op::default() };
        pb::Definition { def: vec![op.encode_to_vec(), Vec::new()], ..pb::Definition::default() }
    }

    #[test]
    fn steps_are_called_what_progress_calls_them() {
        let mut definition = definition();
        assert_eq!(steps(&definition)[0].1.name, "sh -c make");
        let digest = steps(&definition)[0].0.clone();
        let description = [("llb.customname".to_owned(), "[2/2] RUN make".to_owned())].into();
        definition.metadata.insert(digest, pb::OpMetadata { description, ..pb::OpMetadata::default() });
        assert_eq!(steps(&definition)[0].1.name, "[2/2] RUN make");
    }

    #[test]
    fn an_error_names_its_step_and_what_is_left() {
        let any = |url: &str, json: &str| prost_types::Any { type_url: url.into(), value: json.into() };
        let status = |details: Vec<prost_types::Any>| {
            let rpc = RpcStatus { code: 2, message: "x".into(), details };
            Status::with_details(tonic::Code::Unknown, "x", rpc.encode_to_vec().into())
        };
        let vertex = any(VERTEX, r#"{"digest":"sha256:00"}"#);
        let left = any(SOLVE, r#"{"inputIDs":["a",""],"mountIDs":["b",""]}"#);
        let found = failed(&status(vec![left, vertex.clone()])).unwrap();
        assert_eq!(found, ("sha256:00".to_owned(), vec!["b".to_owned(), String::new()]));
        assert!(failed(&status(vec![vertex])).is_none());
        assert!(failed(&Status::unknown("x")).is_none());
    }
}
