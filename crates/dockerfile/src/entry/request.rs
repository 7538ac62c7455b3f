use std::collections::{BTreeMap, BTreeSet};

use rbuild_frontend::{BuildError, Detail, Fault, FrontendRequest, ResolveMode};
use rbuild_llb::{Definition, HostIp, LinuxResources, NetMode, Ulimit};
use rbuild_oci::Platform;

use super::unsupported;
use crate::{CompileOptions, NoCache};

/// Capabilities that a client may demand of this frontend.
const CAPS: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// A request, understood.
#[derive(Debug)]
pub(super) struct BuildRequest {
    /// Name of the file, as it was given.
    pub(super) filename: String,
    /// It was given, so that there is no second name to try.
    pub(super) filename_given: bool,
    /// Under which name the client shares the directory of the file.
    pub(super) dockerfile_key: String,
    /// It was given: even with a remote context the file is the client's.
    pub(super) dockerfile_key_given: bool,
    /// The context if it is not a directory of the client; may hold credentials.
    pub(super) remote: String,
    /// The directory of a remote context that is the context.
    pub(super) subdir: String,
    pub(super) session: String,
    pub(super) inputs: BTreeMap<String, Definition>,
    pub(super) contexts: Vec<NamedContext>,
    /// Sessions of named local directories.
    pub(super) local_sessions: BTreeMap<String, String>,
    /// One per platform.
    pub(super) platforms: Vec<CompileOptions>,
    /// The result is named by platform even if there is only one.
    pub(super) multi_platform: bool,
    /// All options, for frontends that are asked in our place.
    pub(super) options: BTreeMap<String, String>,
}

/// A name that the request gives a meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedContext {
    pub(super) name: String,
    /// Only for this platform.
    pub(super) platform: Option<Platform>,
    /// What it means: `docker-image://…`, `local:…`, `input:…`.
    pub(super) value: String,
}

type Options = BTreeMap<String, String>;

impl BuildRequest {
    /// Reads a request. Errors: an option that can't be read, or one that rbuild can't honour.
    pub(super) fn parse(request: FrontendRequest, daemon: &[Platform]) -> Result<Self, BuildError> {
        let FrontendRequest { options, inputs, session_id } = request;
        check_caps(&options)?;
        check_devices(&options)?;
        let base = compile_options(&options, daemon)?;
        let targets = match get(&options, "platform") {
            "" => vec![base.target_platform.clone()],
            list => list.split(',').map(target_platform).collect::<Result<Vec<_>, _>>()?,
        };
        let mut unique: Vec<Platform> = Vec::new();
        for target in targets {
            if !unique.contains(&target) {
                unique.push(target);
            }
        }
        let multi_platform = unique.len() > 1 || multi_requested(&options)?;
        let platforms = unique.into_iter().map(|target_platform| CompileOptions {
            target_platform,
            platform_given: !get(&options, "platform").is_empty(),
            show_platforms: multi_platform,
            ..base.clone()
        });
        let filename = get(&options, "filename");
        Ok(Self {
            filename: if filename.is_empty() { "Dockerfile".to_owned() } else { filename.to_owned() },
            filename_given: !filename.is_empty() && filename != "Dockerfile",
            dockerfile_key: non_empty(&options, "dockerfilekey", "dockerfile"),
            dockerfile_key_given: !get(&options, "dockerfilekey").is_empty(),
            remote: remote_context(&options, &inputs),
            subdir: get(&options, "contextsubdir").to_owned(),
            session: session_id,
            contexts: named_contexts(&options)?,
            local_sessions: prefixed(&options, "local-sessionid:"),
            platforms: platforms.collect(),
            multi_platform,
            inputs,
            options,
        })
    }

    /// The session that shares a directory.
    pub(super) fn session_of(&self, local: &str) -> String {
        self.local_sessions.get(local).cloned().unwrap_or_else(|| self.session.clone())
    }
}

fn get<'a>(options: &'a Options, name: &str) -> &'a str {
    options.get(name).map_or("", String::as_str)
}

fn non_empty(options: &Options, name: &str, default: &str) -> String {
    match get(options, name) {
        "" => default.to_owned(),
        value => value.to_owned(),
    }
}

fn prefixed(options: &Options, prefix: &str) -> Options {
    let found = options.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
    found.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

fn check_caps(options: &Options) -> Result<(), BuildError> {
    for cap in get(options, "frontend.caps").split(',').filter(|cap| !cap.is_empty()) {
        // `+forward` and the like say how it is meant.
        let name = cap.split('+').next().unwrap_or(cap);
        if !CAPS.contains(&name) {
            let message = format!("unsupported frontend capability {name}");
            return Err(unsupported(message, Detail::FrontendCap(name.to_owned())));
        }
    }
    Ok(())
}

fn check_devices(options: &Options) -> Result<(), BuildError> {
    if !get(options, "device").is_empty() {
        let refused = BuildError::unimplemented("the option `device` is not supported by rbuild yet");
        return Err(refused.fault(Fault::Device));
    }
    Ok(())
}

/// The remote context. `contextkey` names another option that holds it.
fn remote_context(options: &Options, inputs: &BTreeMap<String, Definition>) -> String {
    let name = non_empty(options, "contextkey", "context");
    match inputs.contains_key(&name) {
        true => String::new(),
        false => get(options, &name).to_owned(),
    }
}

fn target_platform(text: &str) -> Result<Platform, BuildError> {
    Platform::parse(text.trim())
        .map_err(|error| BuildError::invalid(format!("failed to parse target platform {text}: {error}")))
}

fn multi_requested(options: &Options) -> Result<bool, BuildError> {
    let names = ["build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"];
    let given = names.iter().map(|name| get(options, name)).find(|value| !value.is_empty());
    let Some(value) = given else { return Ok(false) };
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err(BuildError::invalid(format!("invalid boolean value for multi-platform: {value}"))),
    }
}

fn compile_options(options: &Options, daemon: &[Platform]) -> Result<CompileOptions, BuildError> {
    let native = daemon.first().cloned().unwrap_or_else(Platform::host);
    let build_args = prefixed(options, "build-arg:");
    let hostname = match build_args.get("BUILDKIT_SANDBOX_HOSTNAME") {
        Some(name) => name.clone(),
        None => get(options, "hostname").to_owned(),
    };
    let epoch = build_args.get("SOURCE_DATE_EPOCH").map(String::as_str).filter(|value| !value.is_empty());
    let source_date_epoch = match epoch {
        // "context" asks for a git context's commit time; there is none.
        None | Some("context") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            BuildError::invalid(format!("invalid SOURCE_DATE_EPOCH: {text}: expected seconds since 1970"))
        })?),
    };
    Ok(CompileOptions {
        labels: prefixed(options, "label:"),
        target: get(options, "target").to_owned(),
        target_platform: native.clone(),
        platform_given: false,
        build_platform: native,
        show_platforms: false,
        cache_namespace: build_args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default(),
        cgroup_parent: get(options, "cgroup-parent").to_owned(),
        extra_hosts: extra_hosts(get(options, "add-hosts"))?,
        hostname,
        resolve_mode: resolve_mode(get(options, "image-resolve-mode"))?,
        network: network(get(options, "force-network-mode"))?,
        shm_size: shm_size(get(options, "shm-size"))?,
        ulimits: ulimits(get(options, "ulimit"))?,
        linux_resources: linux_resources(options)?,
        no_cache: no_cache(options),
        source_date_epoch,
        scans: options.contains_key("attest:sbom"),
        build_args,
    })
}

fn no_cache(options: &Options) -> NoCache {
    match options.get("no-cache").map(String::as_str) {
        None => NoCache::Never,
        Some("") => NoCache::Always,
        Some(list) => {
            let names: BTreeSet<String> = list.split(',').map(|name| name.trim().to_lowercase()).collect();
            NoCache::Stages(names)
        }
    }
}

fn resolve_mode(text: &str) -> Result<ResolveMode, BuildError> {
    match text {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::ForcePull),
        "local" => Ok(ResolveMode::PreferLocal),
        other => Err(BuildError::invalid(format!("invalid image-resolve-mode: {other}"))),
    }
}

fn network(text: &str) -> Result<NetMode, BuildError> {
    match text {
        "" | "sandbox" | "default" => Ok(NetMode::Sandbox),
        "host" => Ok(NetMode::Host),
        "none" => Ok(NetMode::None),
        other => Err(BuildError::invalid(format!("invalid netmode {other}"))),
    }
}

fn shm_size(text: &str) -> Result<i64, BuildError> {
    if text.is_empty() {
        return Ok(0);
    }
    let size = text.parse().map_err(|_| {
        let shown = crate::text::quote(text);
        BuildError::invalid(format!(
            "failed to parse shm size: strconv.ParseInt: parsing {shown}: invalid syntax"
        ))
    })?;
    if size < 0 {
        return Err(BuildError::invalid(format!("failed to parse shm size: {size} is negative")));
    }
    Ok(size)
}

/// `host=ip,…`.
fn extra_hosts(text: &str) -> Result<Vec<HostIp>, BuildError> {
    let entries = text.split(',').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let invalid =
                |what: String| BuildError::invalid(format!("failed to parse additional hosts: {what}"));
            let (host, ip) =
                entry.split_once('=').ok_or_else(|| invalid(format!("invalid key-value pair {entry}")))?;
            let bare = ip.trim_start_matches('[').trim_end_matches(']');
            if bare.parse::<std::net::IpAddr>().is_err() {
                return Err(invalid(format!("failed to parse IP {ip}")));
            }
            Ok(HostIp { host: host.to_lowercase(), ip: bare.to_owned() })
        })
        .collect()
}

/// `name=soft[:hard],…`.
fn ulimits(text: &str) -> Result<Vec<Ulimit>, BuildError> {
    let entries = text.split(',').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let invalid =
                || BuildError::invalid(format!("failed to parse ulimit: invalid ulimit argument: {entry}"));
            let (name, values) = entry.split_once('=').ok_or_else(invalid)?;
            let (soft, hard) = values.split_once(':').map_or((values, None), |(soft, hard)| (soft, Some(hard)));
            let soft: i64 = soft.parse().map_err(|_| invalid())?;
            let hard = hard.map_or(Ok(soft), |hard| hard.parse().map_err(|_| invalid()))?;
            if hard != -1 && (soft == -1 || soft > hard) {
                return Err(BuildError::invalid(format!(
                    "failed to parse ulimit: ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
                )));
            }
            Ok(Ulimit { name: name.to_owned(), soft, hard })
        })
        .collect()
}

fn linux_resources(options: &Options) -> Result<Option<LinuxResources>, BuildError> {
    fn number<T: std::str::FromStr + Default>(options: &Options, name: &str) -> Result<T, BuildError> {
        match get(options, name) {
            "" => Ok(T::default()),
            text => {
                text.parse().map_err(|_| BuildError::invalid(format!("failed to parse {name}: `{text}`")))
            }
        }
    }
    let resources = LinuxResources {
        memory: number(options, "memory")?,
        memory_swap: number(options, "memswap")?,
        cpu_shares: number(options, "cpushares")?,
        cpu_period: number(options, "cpuperiod")?,
        cpu_quota: number(options, "cpuquota")?,
        cpuset_cpus: get(options, "cpusetcpus").to_owned(),
        cpuset_mems: get(options, "cpusetmems").to_owned(),
    };
    Ok((resources != LinuxResources::default()).then_some(resources))
}

fn named_contexts(options: &Options) -> Result<Vec<NamedContext>, BuildError> {
    let contexts = prefixed(options, "context:");
    contexts
        .into_iter()
        .map(|(key, value)| {
            let (name, platform) = match key.split_once("::") {
                Some((name, platform)) => (name.to_owned(), Some(target_platform(platform)?)),
                None => (key, None),
            };
            Ok(NamedContext { name, platform, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<BuildRequest, BuildError> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        BuildRequest::parse(FrontendRequest { options, ..FrontendRequest::default() }, &[])
    }

    #[test]
    fn options_are_read_or_refused_by_name() {
        let build = parse(&[
            ("add-hosts", "a=1.2.3.4,b=[::1]"),
            ("ulimit", "nofile=10:20,nproc=5"),
            ("no-cache", "A,b"),
            ("platform", "linux/arm64,linux/amd64,linux/arm64"),
            ("context:alpine::linux/arm64", "local:x"),
        ])
        .unwrap();
        let options = &build.platforms[0];
        assert_eq!(options.extra_hosts[1].ip, "::1");
        assert_eq!((options.ulimits[1].soft, options.ulimits[1].hard), (5, 5));
        assert!(options.ignores_cache("B") && !options.ignores_cache("c"));
        assert_eq!(build.platforms.len(), 2);
        assert_eq!(build.contexts[0].name, "alpine");
        let refused = [
            ("ulimit", "foo"),
            ("add-hosts", "x"),
            ("shm-size", "x"),
            ("shm-size", "-1"),
            ("platform", "foo"),
            ("image-resolve-mode", "x"),
            ("force-network-mode", "x"),
            ("frontend.caps", "foo"),
            ("build-arg:SOURCE_DATE_EPOCH", "x"),
        ];
        for (name, value) in refused {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.message.contains(value), "{name}: {}", error.message);
        }
    }
}
