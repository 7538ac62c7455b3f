//! Ids of the capabilities that LLB features need. A client puts them into an op's metadata; a daemon that
//! lacks one refuses the op.

macro_rules! caps {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)+) => {
        $($(#[$doc])* pub const $name: &str = $id;)+
        /// All of them.
        pub const ALL: &[&str] = &[$($name),+];
    };
}

caps! {
    /// Images.
    SOURCE_IMAGE = "source.image";
    /// A resolve mode that forces a pull.
    SOURCE_IMAGE_RESOLVE_MODE = "source.image.resolvemode";
    /// Only the first layers of an image.
    SOURCE_IMAGE_LAYER_LIMIT = "source.image.layerlimit";
    /// An image's expected digest.
    SOURCE_IMAGE_CHECKSUM = "source.image.checksum";
    /// A single blob of a registry.
    SOURCE_IMAGE_BLOB = "source.imageblob";
    /// Directories of the client.
    SOURCE_LOCAL = "source.local";
    /// Local sources distinguished by an id.
    SOURCE_LOCAL_UNIQUE = "source.local.unique";
    /// Local sources of a named session.
    SOURCE_LOCAL_SESSION_ID = "source.local.sessionid";
    /// Include patterns.
    SOURCE_LOCAL_INCLUDE_PATTERNS = "source.local.includepatterns";
    /// Paths whose links are followed.
    SOURCE_LOCAL_FOLLOW_PATHS = "source.local.followpaths";
    /// Exclude patterns.
    SOURCE_LOCAL_EXCLUDE_PATTERNS = "source.local.excludepatterns";
    /// Names the copy to compare with.
    SOURCE_LOCAL_SHARED_KEY_HINT = "source.local.sharedkeyhint";
    /// How to compare with it.
    SOURCE_LOCAL_DIFFER = "source.local.differ";
    /// Metadata only.
    SOURCE_METADATA_TRANSFER = "source.local.metadatatransfer";
    /// Git repositories.
    SOURCE_GIT = "source.git";
    /// Keep `.git`.
    SOURCE_GIT_KEEP_DIR = "source.git.keepgitdir";
    /// The whole url as an attribute.
    SOURCE_GIT_FULL_URL = "source.git.fullurl";
    /// Authentication over http.
    SOURCE_GIT_HTTP_AUTH = "source.git.httpauth";
    /// Known hosts.
    SOURCE_GIT_KNOWN_SSH_HOSTS = "source.git.knownsshhosts";
    /// An ssh agent.
    SOURCE_GIT_MOUNT_SSH_SOCK = "source.git.mountsshsock";
    /// A subdirectory.
    SOURCE_GIT_SUBDIR = "source.git.subdir";
    /// The expected commit.
    SOURCE_GIT_CHECKSUM = "source.git.checksum";
    /// No submodules.
    SOURCE_GIT_SKIP_SUBMODULES = "source.git.skipsubmodules";
    /// Verified signatures.
    SOURCE_GIT_SIGNATURE_VERIFY = "source.git.signatureverify";
    /// Times from the commit.
    SOURCE_GIT_MTIME = "source.git.mtime";
    /// Trust the given commit.
    SOURCE_GIT_FETCH_BY_COMMIT = "source.git.fetchbycommit";
    /// History from a bundle.
    SOURCE_GIT_BUNDLE = "source.git.bundle";
    /// A bundle instead of a worktree.
    SOURCE_GIT_CHECKOUT_BUNDLE = "source.git.checkoutbundle";
    /// Files over http.
    SOURCE_HTTP = "source.http";
    /// Authentication over http.
    SOURCE_HTTP_AUTH = "source.http.auth";
    /// The expected digest.
    SOURCE_HTTP_CHECKSUM = "source.http.checksum";
    /// Permissions of the file.
    SOURCE_HTTP_PERM = "source.http.perm";
    /// Owner of the file; the wire's spelling.
    SOURCE_HTTP_UID_GID = "soruce.http.uidgid";
    /// Request headers.
    SOURCE_HTTP_HEADER = "source.http.header";
    /// Verified signatures.
    SOURCE_HTTP_SIGNATURE_VERIFY = "source.http.signatureverify";
    /// OCI layouts of the client.
    SOURCE_OCI_LAYOUT = "source.ocilayout";
    /// A build op that names its file.
    BUILD_OP_LLB_FILE_NAME = "source.buildop.llbfilename";
    /// Processes.
    EXEC_META_BASE = "exec.meta.base";
    /// Parent control groups.
    EXEC_META_CGROUP_PARENT = "exec.meta.cgroup.parent";
    /// Network modes.
    EXEC_META_NETWORK = "exec.meta.network";
    /// A network with a proxy.
    EXEC_META_NETWORK_PROXY = "exec.meta.network.proxy";
    /// Proxies.
    EXEC_META_PROXY = "exec.meta.proxyenv";
    /// Security modes.
    EXEC_META_SECURITY = "exec.meta.security";
    /// Security modes with devices.
    EXEC_META_SECURITY_DEVICES = "exec.meta.security.devices.v1";
    /// The daemon sets a default PATH.
    EXEC_META_SETS_DEFAULT_PATH = "exec.meta.setsdefaultpath";
    /// Limits.
    EXEC_META_ULIMIT = "exec.meta.ulimit";
    /// CDI devices.
    EXEC_META_CDI = "exec.meta.cdi";
    /// Mount stubs are removed with their parents.
    EXEC_META_REMOVE_MOUNT_STUBS_RECURSIVE = "exec.meta.removemountstubs.recursive";
    /// Limits on memory and processors.
    EXEC_META_LINUX_RESOURCES = "exec.meta.linux.resources";
    /// Bind mounts.
    EXEC_MOUNT_BIND = "exec.mount.bind";
    /// Writable bind mounts whose changes are thrown away.
    EXEC_MOUNT_BIND_READ_WRITE_NO_OUTPUT = "exec.mount.bind.readwrite-nooutput";
    /// Cache mounts.
    EXEC_MOUNT_CACHE = "exec.mount.cache";
    /// Their sharing modes.
    EXEC_MOUNT_CACHE_SHARING = "exec.mount.cache.sharing";
    /// Content caching of mounts.
    EXEC_MOUNT_CONTENT_CACHE = "exec.mount.cache.content";
    /// Paths within a mount.
    EXEC_MOUNT_SELECTOR = "exec.mount.selector";
    /// Memory.
    EXEC_MOUNT_TMPFS = "exec.mount.tmpfs";
    /// Its size.
    EXEC_MOUNT_TMPFS_SIZE = "exec.mount.tmpfs.size";
    /// Secrets as files.
    EXEC_MOUNT_SECRET = "exec.mount.secret";
    /// Agents.
    EXEC_MOUNT_SSH = "exec.mount.ssh";
    /// Control groups.
    EXEC_CGROUP = "exec.cgroup";
    /// Secrets as variables.
    EXEC_SECRET_ENV = "exec.secretenv";
    /// Exit codes that count as success.
    EXEC_VALID_EXIT_CODE = "exec.validexitcode";
    /// File ops.
    FILE_BASE = "file.base";
    /// Wildcards in removals.
    FILE_RM_WILDCARD = "file.rm.wildcard";
    /// Removals don't follow links.
    FILE_RM_NO_FOLLOW_SYMLINK = "file.rm.nofollowsymlink";
    /// Patterns in copies.
    FILE_COPY_INCLUDE_EXCLUDE_PATTERNS = "file.copy.includeexcludepatterns";
    /// Paths that must be there.
    FILE_COPY_REQUIRED_PATHS = "file.copy.requiredpaths";
    /// Copies that replace.
    FILE_COPY_ALWAYS_REPLACE = "file.copy.alwaysreplaceexistingdestpaths";
    /// Symbolic modes.
    FILE_COPY_MODE_STRING = "file.copy.modestring";
    /// Symbolic links.
    FILE_SYMLINK_CREATE = "file.symlink.create";
    /// Constraints.
    CONSTRAINTS = "constraints";
    /// Platforms.
    PLATFORM = "platform";
    /// Vertices that ignore the cache.
    META_IGNORE_CACHE = "meta.ignorecache";
    /// Descriptions.
    META_DESCRIPTION = "meta.description";
    /// Cache export by vertex.
    META_EXPORT_CACHE = "meta.exportcache";
    /// GitHub's cache.
    REMOTE_CACHE_GHA = "cache.gha";
    /// S3.
    REMOTE_CACHE_S3 = "cache.s3";
    /// Azure.
    REMOTE_CACHE_AZBLOB = "cache.azblob";
    /// Merges.
    MERGE_OP = "mergeop";
    /// Differences.
    DIFF_OP = "diffop";
    /// Passthroughs.
    PASSTHROUGH_OP = "passthroughop";
    /// Annotations.
    ANNOTATIONS = "exporter.image.annotations";
    /// Attestations.
    ATTESTATIONS = "exporter.image.attestations";
    /// Fixed times.
    SOURCE_DATE_EPOCH = "exporter.sourcedateepoch";
    /// Several exporters.
    MULTIPLE_EXPORTERS = "exporter.multiple";
    /// Exporters that run in a session.
    SESSION_EXPORTER = "exporter.session";
    /// Source policies.
    SOURCE_POLICY = "source.policy";
    /// Source policies decided by the client.
    SOURCE_POLICY_SESSION = "source.policy.session";
    /// Collection by free space.
    GC_FREE_SPACE_FILTER = "gc.freespacefilter";
    /// Filters over the history.
    HISTORY_FILTER = "history.filter";
}
