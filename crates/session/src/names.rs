//! Names on the wire: methods and metadata keys.

/// Context transfer, client to daemon.
pub const FILE_SYNC_DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// Context transfer in batches, between our own ends.
pub const FILE_SYNC_BATCHED: &str = "/rbuild.filesync.v1.FileSync/DiffCopy";
/// Export transfer, daemon to client.
pub const FILE_SEND_DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Registry credentials.
pub const AUTH_CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// Registry tokens fetched by the client.
pub const AUTH_FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
/// Public key that proves the right to a cached token.
pub const AUTH_GET_TOKEN_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
/// Signature that proves the right to a cached token.
pub const AUTH_VERIFY_TOKEN_AUTHORITY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";
/// Secrets by id.
pub const SECRETS_GET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
/// Whether an agent of this id is offered.
pub const SSH_CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
/// Bytes to and from an agent.
pub const SSH_FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// A stream of the client's, for instance its standard input.
pub const UPLOAD_PULL: &str = "/moby.upload.v1.Upload/Pull";
/// Host of the URLs under which builds find what a client uploads; no such host is ever connected.
pub const UPLOAD_HOST: &str = "buildkit-session";
/// Whether a source may be used.
pub const POLICY_CHECK: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";
/// What a content store of the client's says of a blob.
pub const CONTENT_INFO: &str = "/containerd.services.content.v1.Content/Info";
/// A blob into a content store of the client's.
pub const CONTENT_WRITE: &str = "/containerd.services.content.v1.Content/Write";
/// The bytes of a blob of a content store of the client's.
pub const CONTENT_READ: &str = "/containerd.services.content.v1.Content/Read";
/// All methods of the content service that a client serves.
pub const CONTENT: [&str; 6] = [
    CONTENT_INFO,
    CONTENT_READ,
    CONTENT_WRITE,
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/ListStatuses",
    "/containerd.services.content.v1.Content/Abort",
];
/// The store of an exporter that writes a directory in OCI layout.
pub const EXPORT_STORE: &str = "export";
/// Health of the client.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Metadata of `Control.Session`: the session's id.
pub const SESSION_ID: &str = "x-docker-expose-session-uuid";
/// Metadata of `Control.Session`: a name for people.
pub const SESSION_NAME: &str = "x-docker-expose-session-name";
/// Metadata of `Control.Session`: identifies the client's directories over many builds.
pub const SESSION_SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
/// Metadata of `Control.Session`: one value per method the client serves.
pub const SESSION_METHOD: &str = "x-docker-expose-session-grpc-method";
/// Metadata of `Control.Session`: milliseconds between and for health checks; one failure then ends the session.
pub const SESSION_HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";

pub(crate) const DIR_NAME: &str = "dir-name";
pub(crate) const INCLUDE_PATTERNS: &str = "include-patterns";
pub(crate) const EXCLUDE_PATTERNS: &str = "exclude-patterns";
pub(crate) const FOLLOW_PATHS: &str = "followpaths";
/// Which upload is meant: the path of its URL.
pub(crate) const UPLOAD_PATH: &str = "urlpath";
/// And the host of its URL.
pub(crate) const UPLOAD_HOST_KEY: &str = "urlhost";
/// Which of the client's content stores is meant.
pub(crate) const STORE_ID: &str = "buildkit-attachable-store-id";
pub(crate) const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
pub(crate) const EXPORTER_MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
pub(crate) const EXPORTER_MD_PREFIX: &str = "exporter-md-";
pub(crate) const SSH_ID: &str = "buildkit.ssh.id";
