use std::path::PathBuf;

use clap::ArgAction;

use crate::errors::CommandError;

/// The flags of `docker buildx build`.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// Extra line of /etc/hosts, HOST:IP (repeatable)
    #[arg(long, value_name = "HOST:IP", value_delimiter = ',')]
    pub(crate) add_host: Vec<String>,
    /// Allow an entitlement: network.host, security.insecure (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) allow: Vec<String>,
    /// Annotation of the image, [manifest:|index:|manifest-descriptor:|index-descriptor:]KEY=VALUE (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Statement that goes with the result: type=provenance,mode=min|max,… or type=sbom,generator=IMAGE (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) attest: Vec<String>,
    /// Build argument NAME=VALUE, or NAME to take it from the environment (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) build_arg: Vec<String>,
    /// Named context: NAME=PATH, docker-image://…, oci-layout://DIR[:TAG][@DIGEST] or URL (repeatable)
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) build_context: Vec<String>,
    /// Cache to start from: type=registry|local,…, or the name of an image (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,
    /// Where the cache goes afterwards: type=registry|local|inline,mode=min|max,… (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
    /// Ask instead of building: check, outline, targets, help; with ,format=json for programs
    #[arg(long, value_name = "METHOD")]
    pub(crate) call: Option<String>,
    /// Check the Dockerfile instead of building: shorthand for --call=check
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true",
          value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) check: bool,
    /// Cgroup under which steps run
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup_parent: Option<String>,
    /// Explain warnings at the end
    #[arg(short = 'D', long)]
    pub(crate) debug: bool,
    /// After the build, say why steps ran that were not cached
    #[arg(long)]
    pub(crate) explain: bool,
    /// Dockerfile [default: CONTEXT/Dockerfile]; - reads it from standard input; within an archive or URL a path in it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Write the image id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Label of the image, NAME=VALUE (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Load the result into a container engine of this machine: docker, podman, containerd, or the first that is there
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "ENGINE")]
    pub(crate) load: Option<String>,
    /// Keep the plain output in a file, whatever --progress shows
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Write the result's metadata to a file (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Network of RUN steps: default, none or host
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// Run every step again
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true",
          value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) no_cache: bool,
    /// Run the steps of a stage again (repeatable)
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Output: type=local|tar|oci|docker|image|registry|cacheonly,dest=PATH,… or just a path (repeatable)
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) output: Vec<String>,
    /// Target platform (repeatable)
    #[arg(long, value_delimiter = ',')]
    pub(crate) platform: Vec<String>,
    /// How progress is shown: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS",
          value_parser = ["auto", "plain", "tty", "rawjson", "quiet", "none"])]
    pub(crate) progress: String,
    /// How the result came about: shorthand for --attest=type=provenance; false for none [default: images are told the
    /// essentials]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "SPEC")]
    pub(crate) provenance: Option<String>,
    /// Ask the registry for newer base images
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true",
          value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) pull: bool,
    /// Push the result: shorthand for --output=type=registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true",
          value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) push: bool,
    /// Print the image id only
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value_t, default_missing_value = "true",
          value_name = "BOOL", hide_default_value = true, hide_possible_values = true, action = ArgAction::Set)]
    pub(crate) quiet: bool,
    /// List of the packages in the result: shorthand for --attest=type=sbom
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "SPEC")]
    pub(crate) sbom: Option<String>,
    /// Secret id=NAME[,src=PATH|env=VARIABLE] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) secret: Vec<String>,
    /// Enter a container when the build is done: on-error (the failed step), default (the result), or command=TEXT,
    /// step=NAME (before that step), user=, cwd=, env=NAME=VALUE, tty=BOOL, on=error|success
    #[arg(long, value_name = "SPEC", num_args = 0..=1, default_missing_value = "on-error", require_equals = true)]
    pub(crate) invoke: Option<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// Rules on what sources may be used and what replaces them (JSON, as buildctl takes it)
    #[arg(long, value_name = "FILE", env = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY")]
    pub(crate) source_policy_file: Option<PathBuf>,
    /// Ssh agent default or ID=SOCKET (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) ssh: Vec<String>,
    /// Name and optionally tag of the image (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Limit of steps, NAME=SOFT[:HARD] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) ulimit: Vec<String>,
    #[command(flatten)]
    pub(crate) refused: Refused,
    /// Where COPY and ADD take files from: a directory, a URL of an archive or Dockerfile, or - for one of those from
    /// standard input
    pub(crate) context: String,
}

/// Flags of buildx for what is not there yet: taken from the command line so that they can be refused by name.
#[derive(Debug, clap::Args)]
pub(crate) struct Refused {
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(long, hide = true)]
    policy: Vec<String>,
    #[arg(long, hide = true)]
    resource: Vec<String>,
}

impl Refused {
    /// Errors: the first flag that cannot be honoured.
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        let refused = [
            (self.builder.is_some(), "--builder", "name the daemon with --addr"),
            (
                !self.policy.is_empty(),
                "--policy",
                "policies in Rego are not evaluated: --source-policy-file takes rules",
            ),
            (!self.resource.is_empty(), "--resource", "limits of steps are the daemon's matter"),
        ];
        match refused.into_iter().find(|(asked, ..)| *asked) {
            Some((_, flag, hint)) => Err(CommandError::usage(format!("{flag} is not supported")).hint(hint)),
            None => Ok(()),
        }
    }
}
