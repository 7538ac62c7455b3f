//! A daemon that executes nothing: it remembers what is solved and reads files from the case's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_frontend::{
    Bridge, BridgeRef, BuildError, DirEntry, ErrorCode, FileRange, FrontendResult, ImageMeta, ImageQuery,
    SolveRequest, SourceMeta, SourceQuery, Warning,
};
use rbuild_llb::Definition;
use rbuild_oci::Platform;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a case asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Case {
    pub(crate) opts: BTreeMap<String, String>,
    pub(crate) images: BTreeMap<String, Value>,
    #[serde(skip)]
    dir: PathBuf,
}

impl Case {
    pub(crate) fn load(dir: &Path) -> Self {
        let options = std::fs::read(dir.join("options.json"));
        let case: Self = options.map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default();
        Self { dir: dir.to_owned(), ..case }
    }
}

#[derive(Debug)]
pub(crate) struct FakeBridge {
    case: Case,
    solved: Mutex<Vec<Definition>>,
    forwarded: Mutex<Vec<SolveRequest>>,
    resolving: AtomicUsize,
    most_resolving: AtomicUsize,
    warnings: Mutex<Vec<Warning>>,
}

#[derive(Debug)]
struct FakeRef {
    definition: Definition,
    dir: PathBuf,
}

impl FakeBridge {
    pub(crate) fn new(case: Case) -> Self {
        Self {
            case,
            solved: Mutex::default(),
            forwarded: Mutex::default(),
            warnings: Mutex::default(),
            resolving: AtomicUsize::new(0),
            most_resolving: AtomicUsize::new(0),
        }
    }

    /// Requests for other frontends.
    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn forwarded(&self) -> Vec<SolveRequest> {
        self.forwarded.lock().unwrap().clone()
    }

    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        self.warnings.lock().unwrap().clone()
    }

    /// How many images were asked for at the same time.
    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn most_resolved_at_once(&self) -> usize {
        self.most_resolving.load(Ordering::SeqCst)
    }

    #[allow(dead_code, reason = "each test binary uses its own part")]
    pub(crate) fn solved(&self) -> Vec<Definition> {
        self.solved.lock().unwrap().clone()
    }
}

fn default_config(platform: Option<&Platform>) -> Value {
    let mut config = json!({
        "architecture": platform.map_or("amd64", |p| p.architecture.as_str()),
        "os": "linux",
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
        },
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
    });
    if let Some(variant) = platform.map(|p| p.variant.as_str()).filter(|variant| !variant.is_empty()) {
        config["variant"] = variant.into();
    }
    config
}

#[async_trait]
impl Bridge for FakeBridge {
    async fn solve(&self, request: SolveRequest) -> Result<FrontendResult, BuildError> {
        if !request.frontend.is_empty() {
            self.forwarded.lock().unwrap().push(request);
            return Ok(FrontendResult::single(None));
        }
        let Some(definition) = request.definition else { return Ok(FrontendResult::single(None)) };
        self.solved.lock().unwrap().push(definition.clone());
        Ok(FrontendResult::single(Some(Arc::new(FakeRef { definition, dir: self.case.dir.clone() }))))
    }

    async fn resolve_image(&self, query: ImageQuery) -> Result<ImageMeta, BuildError> {
        let now = self.resolving.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_resolving.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.resolving.fetch_sub(1, Ordering::SeqCst);
        let known = self.case.images.get(&query.reference).cloned();
        let config = known.unwrap_or_else(|| default_config(query.platform.as_ref()));
        Ok(ImageMeta {
            digest: Digest::of(&query.reference),
            config: serde_json::to_vec(&config).unwrap(),
            reference: query.reference,
        })
    }

    async fn resolve_source(&self, _query: SourceQuery) -> Result<SourceMeta, BuildError> {
        Err(BuildError::unimplemented("not here"))
    }

    async fn warn(&self, warning: Warning) -> Result<(), BuildError> {
        self.warnings.lock().unwrap().push(warning);
        Ok(())
    }

    fn inputs(&self) -> BTreeMap<String, Definition> {
        BTreeMap::new()
    }

    fn options(&self) -> BTreeMap<String, String> {
        self.case.opts.clone()
    }

    fn session_id(&self) -> String {
        "SESSION".into()
    }

    fn platforms(&self) -> Vec<Platform> {
        vec![Platform::new("linux", "amd64")]
    }
}

#[async_trait]
impl BridgeRef for FakeRef {
    fn definition(&self) -> Definition {
        self.definition.clone()
    }

    async fn evaluate(&self) -> Result<(), BuildError> {
        Ok(())
    }

    async fn read_file(&self, path: &str, _range: Option<FileRange>) -> Result<Vec<u8>, BuildError> {
        std::fs::read(self.dir.join(path))
            .map_err(|error| BuildError::new(ErrorCode::NotFound, format!("open {path}: {error}")))
    }

    async fn read_dir(&self, _path: &str, _include: &str) -> Result<Vec<DirEntry>, BuildError> {
        Err(BuildError::unimplemented("not here"))
    }

    async fn stat_file(&self, _path: &str) -> Result<DirEntry, BuildError> {
        Err(BuildError::unimplemented("not here"))
    }
}
