use std::collections::BTreeMap;

use rbuild_digest::Digest;
use rbuild_oci::ImageRef;

use super::constraints::Constraints;
use super::state::State;
use crate::error::BuildProblem;
use crate::git::GitUrl;
use crate::{LlbError, SourceOp, caps};

/// Where an image is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageResolveMode {
    /// As the daemon is configured.
    #[default]
    Default,
    /// Always ask the registry.
    ForcePull,
    /// Prefer what is here.
    PreferLocal,
}

impl ImageResolveMode {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::ForcePull => "pull",
            Self::PreferLocal => "local",
        }
    }
}

/// Options of an image.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Where it is looked for.
    pub resolve_mode: ImageResolveMode,
    /// How the daemon records it, for instance `internal`; empty is as usual.
    pub record_type: String,
    /// Only the first layers.
    pub layer_limit: Option<u32>,
    /// The expected digest of the manifest.
    pub checksum: Option<Digest>,
    /// Metadata, platform, place.
    pub constraints: Constraints,
}

/// Options of an image in an OCI layout of the client.
#[derive(Debug, Clone, Default)]
pub struct OciLayoutOptions {
    /// Whose layout; empty is the build's session.
    pub session_id: String,
    /// Which layout.
    pub store_id: String,
    /// Only the first layers.
    pub layer_limit: Option<u32>,
    /// Metadata, platform, place.
    pub constraints: Constraints,
}

/// How the client's files are compared with the copy that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalDiffer {
    /// Not at all: everything is sent.
    None,
    /// By metadata.
    Metadata,
}

/// Options of a directory of the client.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Whose directory; empty is the build's session.
    pub session_id: String,
    /// Only what matches.
    pub include_patterns: Vec<String>,
    /// Not what matches.
    pub exclude_patterns: Vec<String>,
    /// Paths whose symlinks are sent too.
    pub follow_paths: Vec<String>,
    /// Names the copy to compare with.
    pub shared_key_hint: String,
    /// How to compare, and whether the daemon must be able to.
    pub differ: Option<(LocalDiffer, bool)>,
    /// Metadata only, but for these paths.
    pub metadata_only: Option<Vec<String>>,
    /// Metadata, place.
    pub constraints: Constraints,
}

/// Options of a file over http.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// Its expected digest.
    pub checksum: Option<Digest>,
    /// Its name; empty is the url's.
    pub filename: String,
    /// Its permissions; 0 is as usual.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Secret that is sent as the authorisation header.
    pub auth_header_secret: String,
    /// Further request headers, `accept` and `user-agent`.
    pub headers: BTreeMap<String, String>,
    /// Public key and armoured detached signature.
    pub signature: Option<(String, String)>,
    /// Metadata, place.
    pub constraints: Constraints,
}

/// Options of a git repository.
#[derive(Debug, Clone, Default)]
pub struct GitOptions {
    /// Branch, tag or commit; empty is the default branch.
    pub git_ref: String,
    /// Subdirectory.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Secret with a token; `None` is `GIT_AUTH_TOKEN`, asked for but not demanded.
    pub auth_token_secret: Option<String>,
    /// Secret with a header; `None` is `GIT_AUTH_HEADER`, asked for but not demanded.
    pub auth_header_secret: Option<String>,
    /// Known hosts for ssh.
    pub known_ssh_hosts: String,
    /// The agent for ssh; empty is `default`.
    pub mount_ssh_sock: String,
    /// The expected commit.
    pub checksum: String,
    /// No submodules.
    pub skip_submodules: bool,
    /// `commit`: times from the commit; empty is the checkout's.
    pub mtime: String,
    /// Trust `checksum` without asking what the ref is.
    pub fetch_by_commit: bool,
    /// Metadata, place.
    pub constraints: Constraints,
}

impl GitOptions {
    /// What the address itself asks for.
    pub fn of(url: &GitUrl) -> Self {
        let asked = url.options.clone();
        Self {
            git_ref: url.git_ref.clone(),
            subdir: url.subdir.clone(),
            keep_git_dir: asked.keep_git_dir.unwrap_or(false),
            checksum: asked.checksum.unwrap_or_default(),
            skip_submodules: asked.submodules == Some(false),
            mtime: if asked.commit_mtime { "commit".to_owned() } else { String::new() },
            fetch_by_commit: asked.fetch_by_commit,
            ..Self::default()
        }
    }
}

type Attrs = BTreeMap<String, String>;

/// Sets an attribute that has a value.
fn set(attrs: &mut Attrs, name: &str, value: impl Into<String>) -> bool {
    let value = value.into();
    let given = !value.is_empty();
    if given {
        attrs.insert(name.to_owned(), value);
    }
    given
}

/// A list as Go's encoder writes it, which also escapes what HTML would mind; empty is no value.
fn json_list(list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    crate::json::go_escaped(&serde_json::Value::from(list).to_string())
}

impl State {
    /// An image. Errors: `name` is not an image name.
    pub fn image(name: &str, options: ImageOptions) -> Result<Self, LlbError> {
        let reference = ImageRef::parse(name).map_err(|err| {
            LlbError::Build(BuildProblem::ImageName { name: name.to_owned(), reason: err.to_string() })
        })?;
        let mut constraints = options.constraints;
        let mut attrs = Attrs::new();
        constraints.add_cap(caps::SOURCE_IMAGE);
        if options.resolve_mode != ImageResolveMode::Default {
            set(&mut attrs, "image.resolvemode", options.resolve_mode.as_str());
        }
        if options.resolve_mode == ImageResolveMode::ForcePull {
            constraints.add_cap(caps::SOURCE_IMAGE_RESOLVE_MODE);
        }
        set(&mut attrs, "image.recordtype", options.record_type);
        if let Some(limit) = options.layer_limit {
            set(&mut attrs, "image.layerlimit", limit.to_string());
            constraints.add_cap(caps::SOURCE_IMAGE_LAYER_LIMIT);
        }
        if let Some(checksum) = options.checksum {
            set(&mut attrs, "image.checksum", checksum.to_string());
            constraints.add_cap(caps::SOURCE_IMAGE_CHECKSUM);
        }
        let identifier = format!("docker-image://{}", reference.tag_or_latest());
        Ok(Self::source(SourceOp::new(identifier, attrs), constraints))
    }

    /// An image in an OCI layout of the client.
    pub fn oci_layout(reference: &str, options: OciLayoutOptions) -> Self {
        let mut constraints = options.constraints;
        let mut attrs = Attrs::new();
        set(&mut attrs, "oci.session", options.session_id);
        set(&mut attrs, "oci.store", options.store_id);
        if let Some(limit) = options.layer_limit {
            set(&mut attrs, "oci.layerlimit", limit.to_string());
        }
        constraints.add_cap(caps::SOURCE_OCI_LAYOUT);
        Self::source(SourceOp::new(format!("oci-layout://{reference}"), attrs), constraints)
    }

    /// A directory of the client.
    pub fn local(name: &str, options: LocalOptions) -> Self {
        let mut constraints = options.constraints;
        let mut attrs = Attrs::new();
        let texts = [
            ("local.session", options.session_id, caps::SOURCE_LOCAL_SESSION_ID),
            (
                "local.includepattern",
                json_list(&options.include_patterns),
                caps::SOURCE_LOCAL_INCLUDE_PATTERNS,
            ),
            ("local.followpaths", json_list(&options.follow_paths), caps::SOURCE_LOCAL_FOLLOW_PATHS),
            (
                "local.excludepatterns",
                json_list(&options.exclude_patterns),
                caps::SOURCE_LOCAL_EXCLUDE_PATTERNS,
            ),
            ("local.sharedkeyhint", options.shared_key_hint, caps::SOURCE_LOCAL_SHARED_KEY_HINT),
        ];
        for (name, value, cap) in texts {
            if set(&mut attrs, name, value) {
                constraints.add_cap(cap);
            }
        }
        if let Some((differ, required)) = options.differ {
            let word = if differ == LocalDiffer::None { "none" } else { "metadata" };
            set(&mut attrs, "local.differ", word);
            if required {
                constraints.add_cap(caps::SOURCE_LOCAL_DIFFER);
            }
        }
        if let Some(except) = options.metadata_only {
            set(&mut attrs, "local.metadatatransfer", "true");
            set(&mut attrs, "local.metadatatransferexclude", json_list(&except));
            constraints.add_cap(caps::SOURCE_METADATA_TRANSFER);
        }
        constraints.add_cap(caps::SOURCE_LOCAL);
        Self::source(SourceOp::new(format!("local://{name}"), attrs), constraints)
    }

    /// A file over http.
    pub fn http(url: &str, options: HttpOptions) -> Self {
        let mut constraints = options.constraints;
        let mut attrs = Attrs::new();
        if let Some(checksum) = options.checksum {
            set(&mut attrs, "http.checksum", checksum.to_string());
            constraints.add_cap(caps::SOURCE_HTTP_CHECKSUM);
        }
        set(&mut attrs, "http.filename", options.filename);
        if options.mode != 0 {
            set(&mut attrs, "http.perm", format!("0{:o}", options.mode));
            constraints.add_cap(caps::SOURCE_HTTP_PERM);
        }
        for (name, id) in [("http.uid", options.uid), ("http.gid", options.gid)] {
            if id != 0 {
                set(&mut attrs, name, id.to_string());
                constraints.add_cap(caps::SOURCE_HTTP_UID_GID);
            }
        }
        if set(&mut attrs, "http.authheadersecret", options.auth_header_secret) {
            constraints.add_cap(caps::SOURCE_HTTP_AUTH);
        }
        if !options.headers.is_empty() {
            constraints.add_cap(caps::SOURCE_HTTP_HEADER);
        }
        for (name, value) in options.headers {
            set(&mut attrs, &format!("http.header.{}", name.to_ascii_lowercase()), value);
        }
        if let Some((key, signature)) = options.signature {
            set(&mut attrs, "http.sig.pubkey", key);
            set(&mut attrs, "http.sig.signature", signature);
            constraints.add_cap(caps::SOURCE_HTTP_SIGNATURE_VERIFY);
        }
        constraints.add_cap(caps::SOURCE_HTTP);
        Self::source(SourceOp::new(url, attrs), constraints)
    }

    /// A git repository. What its address asks for is in the options: see [`GitOptions::of`].
    pub fn git(url: &GitUrl, options: GitOptions) -> Self {
        let mut identifier = format!("git://{}", url.place());
        if !options.git_ref.is_empty() || !options.subdir.is_empty() {
            identifier = format!("{identifier}#{}", options.git_ref);
        }
        if !options.subdir.is_empty() {
            identifier = format!("{identifier}:{}", options.subdir);
        }
        let (attrs, constraints) = git_attrs(url, options);
        Self::source(SourceOp::new(identifier, attrs), constraints)
    }
}

fn git_attrs(url: &GitUrl, options: GitOptions) -> (Attrs, Constraints) {
    let mut constraints = options.constraints;
    let mut attrs = Attrs::new();
    let flag = |on: bool| if on { "true" } else { "" }.to_owned();
    let texts = [
        ("git.keepgitdir", flag(options.keep_git_dir), caps::SOURCE_GIT_KEEP_DIR),
        ("git.fullurl", url.remote().to_owned(), caps::SOURCE_GIT_FULL_URL),
        ("git.checksum", options.checksum, caps::SOURCE_GIT_CHECKSUM),
        ("git.skipsubmodules", flag(options.skip_submodules), caps::SOURCE_GIT_SKIP_SUBMODULES),
        ("git.mtime", options.mtime, caps::SOURCE_GIT_MTIME),
        ("git.fetchbycommit", flag(options.fetch_by_commit), caps::SOURCE_GIT_FETCH_BY_COMMIT),
    ];
    for (name, value, cap) in texts {
        if set(&mut attrs, name, value) {
            constraints.add_cap(cap);
        }
    }
    let secrets = [
        ("git.authtokensecret", options.auth_token_secret, "GIT_AUTH_TOKEN"),
        ("git.authheadersecret", options.auth_header_secret, "GIT_AUTH_HEADER"),
    ];
    for (name, given, usual) in secrets {
        if given.is_some() {
            constraints.add_cap(caps::SOURCE_GIT_HTTP_AUTH);
        }
        set(&mut attrs, name, given.unwrap_or_else(|| usual.to_owned()));
    }
    if url.is_ssh() {
        set(&mut attrs, "git.knownsshhosts", options.known_ssh_hosts);
        constraints.add_cap(caps::SOURCE_GIT_KNOWN_SSH_HOSTS);
        let agent = options.mount_ssh_sock;
        let agent = if agent.is_empty() { "default".to_owned() } else { agent };
        set(&mut attrs, "git.mountsshsock", agent);
        constraints.add_cap(caps::SOURCE_GIT_MOUNT_SSH_SOCK);
    }
    constraints.add_cap(caps::SOURCE_GIT);
    (attrs, constraints)
}
