//! The build op: solves a definition that lies in a file of its input, in the build that asks.

use rbuild_digest::Digest;
use rbuild_llb::{BuildOp, Definition};
use rbuild_solver::{CacheMap, OpContext};
use rbuild_store::Ref;
use serde::Serialize;

use crate::error::OpError;
use crate::op::LlbOp;
use crate::scope::Scope;

/// The input that holds the definition, and the file's name unless an attribute says otherwise.
const DEFINITION: &str = "buildkit.llb.definition";
/// Attribute with the file's name.
const FILE_NAME: &str = "llbbuild.filename";
/// As much as a request may have.
const MAX_BYTES: u64 = 16 << 20;

/// Upstream's identity: a JSON object of the type's name and the op.
pub(crate) fn cache_map(op: &BuildOp) -> CacheMap {
    #[derive(Serialize)]
    struct Input {
        #[serde(skip_serializing_if = "is_zero")]
        input: u32,
    }
    #[derive(Serialize)]
    struct Op<'a> {
        builder: i64,
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        inputs: std::collections::BTreeMap<&'a str, Input>,
        /// Ours: a definition within the op counts by its digest.
        #[serde(skip_serializing_if = "Option::is_none")]
        def: Option<Digest>,
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        attrs: &'a std::collections::BTreeMap<String, String>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Identity<'a> {
        r#type: &'static str,
        exec: Op<'a>,
    }
    let exec = Op {
        builder: op.builder.map_or(-1, i64::from),
        inputs: op.inputs.iter().map(|(name, input)| (name.as_str(), Input { input: *input })).collect(),
        def: op.definition.as_ref().map(|definition| Digest::of(definition.encode())),
        attrs: &op.attrs,
    };
    let identity = Identity { r#type: "buildkit.build.v0", exec };
    CacheMap::new(Digest::of(serde_json::to_vec(&identity).expect("plain fields")))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(input: &u32) -> bool {
    *input == 0
}

pub(crate) async fn run(
    op: &LlbOp,
    build: &BuildOp,
    cx: &OpContext<Scope>,
    inputs: &[Ref],
) -> Result<Vec<Ref>, OpError> {
    if build.builder.is_some() {
        return Err(OpError::unsupported("a build op with a builder of its own"));
    }
    let scope = cx.first_scope().ok_or(OpError::Cancelled)?;
    let nested = scope.nested.ok_or_else(|| OpError::unsupported("the build op outside of a build"))?;
    let work = async {
        let definition = definition(build, inputs).await?;
        match nested.solve(&definition).await? {
            Some(solved) => Ok::<_, OpError>(solved),
            None => Ok(op.worker.options.store.scratch().await?),
        }
    };
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(OpError::Cancelled),
        solved = work => Ok(vec![solved?]),
    }
}

/// The definition, from the op or from the file in its input.
async fn definition(build: &BuildOp, inputs: &[Ref]) -> Result<Definition, OpError> {
    if let Some(definition) = &build.definition {
        return Ok(definition.clone());
    }
    let input = build.inputs.get(DEFINITION).and_then(|input| inputs.get(*input as usize));
    let input =
        input.ok_or_else(|| OpError::invalid(format!("the build op has no input called `{DEFINITION}`")))?;
    let name = build.attrs.get(FILE_NAME).filter(|name| !name.is_empty());
    let name = name.map_or(DEFINITION, String::as_str).to_owned();
    let tree = input.tree().await?;
    let read = move || {
        let path = crate::files::rooted(tree.root(), name.as_bytes())?;
        match tree.root().read_limited(path, MAX_BYTES) {
            Ok(bytes) => Ok((name, bytes)),
            Err(error) if error.is_not_found() => Err(crate::files::FileError::not_found(name).into()),
            Err(error) => Err(OpError::from(error)),
        }
    };
    let (name, bytes) = tokio::task::spawn_blocking(read).await??;
    Definition::decode(&bytes)
        .map_err(|error| OpError::invalid(format!("`{name}` is not a build definition: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_op_says_is_its_identity() {
        let plain = BuildOp {
            builder: None,
            inputs: [(DEFINITION.to_owned(), 0)].into(),
            definition: None,
            attrs: [].into(),
        };
        let json =
            br#"{"Type":"buildkit.build.v0","Exec":{"builder":-1,"inputs":{"buildkit.llb.definition":{}}}}"#;
        assert_eq!(cache_map(&plain), CacheMap::new(Digest::of(json)));
        let mut named = plain.clone();
        named.attrs.insert(FILE_NAME.into(), "x".into());
        assert_ne!(cache_map(&plain), cache_map(&named));
    }
}
