//! What a result was made from: sources with their digests, secrets and agents by name.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_frontend::BuildError;
use rbuild_llb::{ExecOp, Graph, MountKind, NetMode, OpKind, SourceOp, Vertex};
use rbuild_oci::{ImageRef, purl};
use serde::Serialize;

use crate::bridge::BuildContext;
use crate::error::from_op;
use crate::redact::without_password;

/// A source as provenance names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Material {
    pub(crate) uri: String,
    pub(crate) digest: BTreeMap<String, String>,
}

/// Something that was asked of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Asked {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) optional: bool,
}

/// All inputs of one result.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    /// Ordered as upstream's: images by name, then those of layouts, repositories, files.
    materials: BTreeMap<(u8, String), Material>,
    /// Id to whether nothing needs it.
    secrets: BTreeMap<String, bool>,
    ssh: BTreeMap<String, bool>,
    locals: BTreeSet<String>,
    has_network: bool,
    /// By repository.
    images: BTreeMap<String, ImageRef>,
}

impl Inputs {
    /// Adds what the vertices of a graph use. Sources that the build did not resolve yet are resolved now.
    pub(crate) async fn add_graph(
        &mut self,
        context: &BuildContext,
        graph: &Graph,
    ) -> Result<(), BuildError> {
        for vertex in graph.vertices() {
            match &vertex.op.kind {
                OpKind::Source(source) => self.add_source(context, vertex, source).await?,
                OpKind::Exec(exec) => self.add_exec(exec),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn materials(&self) -> Vec<Material> {
        self.materials.values().cloned().collect()
    }

    /// Images of registries, one of each repository.
    pub(crate) fn images(&self) -> impl Iterator<Item = &ImageRef> {
        self.images.values()
    }

    pub(crate) fn secrets(&self) -> Vec<Asked> {
        asked(&self.secrets)
    }

    pub(crate) fn ssh(&self) -> Vec<Asked> {
        asked(&self.ssh)
    }

    pub(crate) fn locals(&self) -> Vec<String> {
        self.locals.iter().cloned().collect()
    }

    /// Whether every source can be had again by anyone: directories of the client cannot.
    pub(crate) fn is_complete(&self) -> bool {
        self.locals.is_empty()
    }

    /// Whether nothing came in but the materials.
    pub(crate) fn is_hermetic(&self) -> bool {
        self.is_complete() && !self.has_network
    }

    fn add_exec(&mut self, exec: &ExecOp) {
        self.has_network |= exec.network != NetMode::None;
        for mount in &exec.mounts {
            match &mount.kind {
                MountKind::Secret(secret) => ask(&mut self.secrets, &secret.id, secret.optional),
                MountKind::Ssh(ssh) => ask(&mut self.ssh, or_default(&ssh.id), ssh.optional),
                MountKind::Bind | MountKind::Cache { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        for secret in &exec.secret_env {
            ask(&mut self.secrets, &secret.id, secret.optional);
        }
    }

    async fn add_source(
        &mut self,
        context: &BuildContext,
        vertex: &Vertex,
        source: &SourceOp,
    ) -> Result<(), BuildError> {
        let attr = |name: &str| source.attrs.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let (scheme, rest) = source.identifier.split_once("://").unwrap_or(("", &source.identifier));
        match scheme {
            "local" => {
                self.locals.insert(rest.to_owned());
            }
            "docker-image" | "oci-layout" => self.add_image(context, vertex, source, (scheme, rest)).await?,
            "git" => {
                for name in ["git.authheadersecret", "git.authtokensecret"] {
                    if let Some(id) = attr(name) {
                        ask(&mut self.secrets, id, true);
                    }
                }
                if let Some(id) = attr("git.mountsshsock") {
                    ask(&mut self.ssh, id, true);
                }
                let resolved = resolve(context, vertex, source).await?;
                if let Some(git) = resolved.git {
                    let remote = attr("git.fullurl").unwrap_or(&source.identifier);
                    let remote = remote.split('#').next().unwrap_or_default();
                    // Without the directory: that is taken of the commit afterwards.
                    let place = source.identifier.split_once('#').map_or("", |(_, place)| place);
                    let place = place.split(':').next().unwrap_or_default();
                    let mark = if place.is_empty() { "" } else { "#" };
                    self.add(2, format!("{remote}{mark}{place}"), git_digest(&git.commit));
                }
            }
            "http" | "https" => {
                if let Some(id) = attr("http.authheadersecret") {
                    ask(&mut self.secrets, id, true);
                }
                if let Some((digest, ..)) = resolve(context, vertex, source).await?.http {
                    self.add(3, source.identifier.clone(), sha256(&digest));
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn add_image(
        &mut self,
        context: &BuildContext,
        vertex: &Vertex,
        source: &SourceOp,
        (scheme, rest): (&str, &str),
    ) -> Result<(), BuildError> {
        let name = ImageRef::parse(rest)
            .map_err(|error| BuildError::invalid(format!("provenance: image `{rest}`: {error}")))?;
        let digest = match name.digest() {
            Some(digest) => Some(digest),
            None => resolve(context, vertex, source).await?.image.map(|image| image.digest),
        };
        if scheme == "docker-image" {
            self.images.entry(name.repository()).or_insert_with(|| name.clone());
        }
        let (rank, kind) = if scheme == "oci-layout" { (1, "oci") } else { (0, "docker") };
        let platform = vertex.op.platform.as_ref();
        if let Some(digest) = digest {
            let uri = purl(kind, &name.tag_or_latest(), platform);
            let key = format!("{rest} {}", platform.map(ToString::to_string).unwrap_or_default());
            let material = Material { uri, digest: sha256(&digest) };
            self.materials.insert((rank, key), material);
        }
        Ok(())
    }

    fn add(&mut self, rank: u8, uri: String, digest: BTreeMap<String, String>) {
        let uri = without_password(&uri);
        self.materials.insert((rank, uri.clone()), Material { uri, digest });
    }
}

/// Something is optional if all who use it can do without.
fn ask(list: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
    *list.entry(id.to_owned()).or_insert(true) &= optional;
}

fn asked(list: &BTreeMap<String, bool>) -> Vec<Asked> {
    list.iter().map(|(id, optional)| Asked { id: id.clone(), optional: *optional }).collect()
}

fn or_default(id: &str) -> &str {
    if id.is_empty() { "default" } else { id }
}

fn sha256(digest: &rbuild_digest::Digest) -> BTreeMap<String, String> {
    BTreeMap::from([("sha256".to_owned(), digest.hex())])
}

/// By the length of the id: repositories have either kind.
fn git_digest(commit: &str) -> BTreeMap<String, String> {
    let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
    BTreeMap::from([(algorithm.to_owned(), commit.to_owned())])
}

/// The answer that the build has had, if it has: see `Memo`.
async fn resolve(
    context: &BuildContext,
    vertex: &Vertex,
    source: &SourceOp,
) -> Result<rbuild_worker::ResolvedSource, BuildError> {
    let reporter = context.step("");
    let platform = vertex.op.platform.clone();
    let resolved = context.worker.resolve_source(&context.scope, &reporter, source, platform).await;
    resolved.map_err(|error| from_op(&error).context("provenance"))
}
