use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rbuild_llb::Definition;

use crate::{Bridge, BridgeRef, BuildError, FrontendAttestation};

/// Compiles a request into lazy results. The built-in Dockerfile frontend and images that act as frontends
/// are both this.
#[async_trait]
pub trait Frontend: Send + Sync + std::fmt::Debug {
    /// Runs the frontend. Cancel: drop the future; nothing outlives it but what the bridge memoised.
    async fn solve(
        &self,
        bridge: Arc<dyn Bridge>,
        request: FrontendRequest,
    ) -> Result<FrontendResult, BuildError>;
}

/// What the client asked of a frontend.
#[derive(Debug, Clone, Default)]
pub struct FrontendRequest {
    /// Options (`FrontendAttrs` on the wire): `filename`, `target`, `build-arg:X`…
    pub options: BTreeMap<String, String>,
    /// Named inputs that are definitions.
    pub inputs: BTreeMap<String, Definition>,
    /// The session that started the build; local sources default to it. Empty when there is none.
    pub session_id: String,
}

/// The references of a result; `None` is an empty file system (scratch).
#[derive(Debug, Clone)]
pub enum ResultRefs {
    /// A single result without a name.
    Single(Option<Arc<dyn BridgeRef>>),
    /// One per platform (or name), keyed as in `refs.platforms`.
    Named(BTreeMap<String, Option<Arc<dyn BridgeRef>>>),
}

/// What a frontend yields.
#[derive(Debug, Clone)]
pub struct FrontendResult {
    /// Lazy references.
    pub refs: ResultRefs,
    /// `containerimage.config`, `refs.platforms`, `result.json`…
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// What lists of packages are to tell of besides the result, by the result's name (empty: the one without).
    pub scans: BTreeMap<String, Vec<ScanTarget>>,
    /// What is said of the parts, by the id of their platform.
    pub attestations: BTreeMap<String, Vec<FrontendAttestation>>,
}

/// Files that are no part of a result but of what it was made from.
#[derive(Debug, Clone)]
pub struct ScanTarget {
    /// What scanners call it: `sbom-context`, `sbom-<stage>`.
    pub name: String,
    /// What yields the files.
    pub definition: Definition,
}

impl FrontendResult {
    /// A result with one reference and no metadata.
    pub fn single(reference: Option<Arc<dyn BridgeRef>>) -> Self {
        Self {
            refs: ResultRefs::Single(reference),
            metadata: BTreeMap::new(),
            scans: BTreeMap::new(),
            attestations: BTreeMap::new(),
        }
    }
}
