//! `rbuildctl build`: the flags of `docker buildx build` as a request to the Dockerfile frontend.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_api::moby::buildkit::v1::SolveRequest;
use rbuild_digest::random_id;
use rbuild_progress::render::Mode;

use crate::cache::Caches;
use crate::call::{self, Call};
use crate::cli::{BuildArgs, ConnectionArgs};
use crate::container::{self, Invoke};
use crate::context::Context;
use crate::errors::CommandError;
use crate::gateway::{self, Gateway};
use crate::load::{self, Loader};
use crate::run::{self, Drive, Finished, Look, Offer};
use crate::spec::{self, Destination, Output};
use crate::{attest, connect, history, named, policy, signals, ui};

/// What Dockerfiles are made of.
const FRONTEND: &str = "dockerfile.v0";
/// Proxy settings that builds take over from the environment as predefined build arguments.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Builds.
pub(crate) async fn build(connection: &ConnectionArgs, args: BuildArgs) -> Result<(), CommandError> {
    args.refused.check()?;
    let mode = mode(&args)?;
    let call = question(&args)?;
    let mut frontend_attrs = options(&args, call.as_ref())?;
    // The answer to a question is text: there is nothing to write anywhere else.
    let invoke = args.invoke.as_deref().map(Invoke::parse).transpose()?;
    let is_looked_at = invoke.as_ref().is_some_and(Invoke::is_before_a_step);
    let outputs = if call.is_some() || is_looked_at { Vec::new() } else { outputs(&args)? };
    let loader = loader(&args, &outputs).await?;
    let caches = Caches::parse(&args.cache_from, &args.cache_to)?;
    let args = Arc::new(args);
    let context = find_context(args.clone()).await?;
    frontend_attrs.extend(context.attrs.iter().cloned());
    frontend_attrs.extend(caches.frontend_attribute());
    let id = random_id();
    let offer = Offer {
        dirs: context.dirs.clone(),
        uploads: context.uploads.clone(),
        stores: context.stores.clone(),
        caches,
        secrets: args.secret.clone(),
        ssh: args.ssh.clone(),
        outputs,
        loader,
        log_file: args.log_file.clone(),
        shared_key: context.shared_key.clone(),
    };
    let mut request = request(&args, &id, call.is_some())?;
    let connected = connect::connect(connection, true).await?;
    let drive = if call.is_none() && invoke.is_none() {
        request.frontend = FRONTEND.into();
        request.frontend_attrs = frontend_attrs;
        None
    } else {
        let gateway = Gateway::new(connected.channel.clone(), &request.r#ref);
        let drive: Drive<'_> = match &invoke {
            Some(invoke) => Box::pin(invoke.drive(gateway, FRONTEND.into(), frontend_attrs)),
            None => Box::pin(gateway::ask(gateway, FRONTEND.into(), frontend_attrs)),
        };
        Some(drive)
    };
    let look =
        Look { mode, details: args.debug, hint: Some("use --debug to expand"), totals: call.is_none() };
    let finished = run::run_driven(&connected, &offer, look, request, drive).await;
    let mut outcome = match (finished, &call) {
        (Err(error), _) => Err(error),
        (Ok(finished), Some(call)) => answer(&args, call, &finished),
        (Ok(finished), None) => report(&args, &finished, offer.loader.as_ref()),
    };
    if args.explain && call.is_none() {
        // A build that was refused or broken off has no explanation, but an error that says why.
        outcome = outcome.and(history::explain_build(connected.channel.clone(), &id).await);
    }
    connected.close().await;
    outcome
}

fn question(args: &BuildArgs) -> Result<Option<Call>, CommandError> {
    let call = Call::of(args)?;
    match call.is_some() && args.invoke.is_some() {
        true => Err(CommandError::usage("--invoke and --call exclude each other")),
        false => Ok(call),
    }
}

fn mode(args: &BuildArgs) -> Result<Mode, CommandError> {
    Ok(match (args.quiet, run::mode(&args.progress)?) {
        (true, _) => Mode::Quiet,
        // A live view and a process cannot share a terminal.
        (false, Mode::Auto | Mode::Tty) if args.invoke.is_some() => Mode::Plain,
        (false, mode) => mode,
    })
}

/// `internal`: as buildx has it, questions are not builds.
fn request(args: &BuildArgs, id: &str, internal: bool) -> Result<SolveRequest, CommandError> {
    Ok(SolveRequest {
        r#ref: id.to_owned(),
        entitlements: args.allow.clone(),
        source_policy: args.source_policy_file.as_deref().map(policy::read).transpose()?,
        internal,
        ..Default::default()
    })
}

/// Finds the engine for the outputs that are for one.
async fn loader(args: &BuildArgs, outputs: &[Output]) -> Result<Option<Loader>, CommandError> {
    match outputs.iter().any(|output| output.destination == Destination::Engine) {
        true => Loader::find(load::engine(args.load.as_deref())?).await.map(Some),
        false => Ok(None),
    }
}

/// Finds the context and what is named besides. Reads of standard input cannot be interrupted; Ctrl-C leaves them behind.
async fn find_context(args: Arc<BuildArgs>) -> Result<Context, CommandError> {
    let find = tokio::task::spawn_blocking(move || {
        let mut context = Context::find(&args)?;
        for text in &args.build_context {
            named::add(text, &mut context)?;
        }
        Ok(context)
    });
    tokio::select! {
        found = find => found.map_err(|error| CommandError::new(format!("finding the context: {error}")))?,
        () = signals::stop() => Err(CommandError::from_status(&tonic::Status::cancelled("interrupted"))),
    }
}

/// The options of the request: a question's own, else what is to be said of the result.
fn options(args: &BuildArgs, call: Option<&Call>) -> Result<BTreeMap<String, String>, CommandError> {
    let mut options = attributes(args)?;
    match call {
        Some(call) => options.extend(call.attributes()),
        None => options.extend(attest::attributes(args)?),
    }
    Ok(options)
}

fn attributes(args: &BuildArgs) -> Result<BTreeMap<String, String>, CommandError> {
    let mut attrs = BTreeMap::new();
    let mut put = |name: String, value: &str| {
        attrs.insert(name, value.to_owned());
    };
    for name in PROXIES {
        for variable in [name.to_lowercase(), name.to_owned()] {
            if let Ok(value) = std::env::var(&variable).map(|value| value.trim().to_owned())
                && !value.is_empty()
            {
                put(format!("build-arg:{variable}"), &value);
            }
        }
    }
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => put(format!("build-arg:{name}"), value),
            Some(_) => return Err(CommandError::usage(format!("--build-arg {text}: expected NAME=VALUE"))),
            // As upstream: a name alone takes the environment's value, if there is one.
            None => {
                if let Ok(value) = std::env::var(text) {
                    put(format!("build-arg:{text}"), &value);
                }
            }
        }
    }
    for text in &args.label {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        put(format!("label:{name}"), value);
    }
    if args.no_cache && !args.no_cache_filter.is_empty() {
        return Err(CommandError::usage("--no-cache and --no-cache-filter exclude each other"));
    }
    if args.no_cache {
        put("no-cache".into(), "");
    }
    if !args.no_cache_filter.is_empty() {
        put("no-cache".into(), &args.no_cache_filter.join(","));
    }
    for (name, value) in [
        ("target", args.target.clone()),
        ("platform", (!args.platform.is_empty()).then(|| args.platform.join(","))),
        ("add-hosts", add_hosts(&args.add_host)?),
        ("force-network-mode", network(args.network.as_deref())?),
        ("image-resolve-mode", args.pull.then(|| "pull".to_owned())),
        ("cgroup-parent", args.cgroup_parent.clone()),
        ("shm-size", shm_size(args.shm_size.as_deref())?),
        ("ulimit", (!args.ulimit.is_empty()).then(|| args.ulimit.join(","))),
    ] {
        if let Some(value) = value {
            put(name.into(), &value);
        }
    }
    Ok(attrs)
}

fn add_hosts(hosts: &[String]) -> Result<Option<String>, CommandError> {
    let mut out = Vec::new();
    for text in hosts {
        // HOST=IP is taken too: an IPv6 address has colons of its own.
        let parts = text.split_once('=').or_else(|| text.split_once(':'));
        let Some((name, address)) = parts else {
            return Err(CommandError::usage(format!("--add-host {text}: expected HOST:IP")));
        };
        let plain = address.trim_matches(['[', ']']);
        if plain.parse::<std::net::IpAddr>().is_err() {
            return Err(CommandError::usage(format!("--add-host {text}: `{address}` is not an address")));
        }
        out.push(format!("{name}={plain}"));
    }
    Ok((!out.is_empty()).then(|| out.join(",")))
}

fn network(mode: Option<&str>) -> Result<Option<String>, CommandError> {
    match mode {
        None | Some("" | "default") => Ok(None),
        Some(mode @ ("host" | "none")) => Ok(Some(mode.to_owned())),
        Some(other) => Err(CommandError::usage(format!("--network {other} is not supported"))
            .hint("steps have the daemon's network (default), none, or with --allow network.host host")),
    }
}

fn shm_size(text: Option<&str>) -> Result<Option<String>, CommandError> {
    let Some(text) = text else { return Ok(None) };
    let bytes = spec::size(text)
        .ok_or_else(|| CommandError::usage(format!("--shm-size {text}: expected a size such as 64m")))?;
    Ok(Some(bytes.to_string()))
}

/// The outputs that were asked for; without any, the image is kept in the daemon's store under its names.
fn outputs(args: &BuildArgs) -> Result<Vec<Output>, CommandError> {
    let parse = |text: &String| Output::parse_or_load(text);
    let mut outputs = args.output.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if args.push {
        let image = outputs.iter_mut().find(|output| output.kind == "image");
        if let Some(output) = image {
            output.attrs.insert("push".into(), "true".into());
        } else if outputs.is_empty() {
            outputs.push(Output::parse("type=registry")?);
        } else {
            return Err(CommandError::usage("--push needs an image output beside the others")
                .hint("add -o type=image"));
        }
    }
    let is_loaded = outputs.iter().any(|output| output.destination == Destination::Engine);
    if load::is_asked(args.load.as_deref()) && !is_loaded {
        outputs.push(Output::parse_or_load("type=docker")?);
    }
    if outputs.is_empty() {
        outputs.push(Output::parse("type=image")?);
    }
    let annotations = annotations(&args.annotation)?;
    let names = args.tag.join(",");
    for output in &mut outputs {
        let named = matches!(output.kind.as_str(), "image" | "oci" | "docker");
        if named && !names.is_empty() && !output.attrs.contains_key("name") {
            output.attrs.insert("name".into(), names.clone());
        }
        if named {
            output.attrs.extend(annotations.clone());
        } else if !annotations.is_empty() && output.kind != "cacheonly" {
            return Err(CommandError::usage(format!(
                "--annotation: the {} output makes no image",
                output.kind
            )));
        }
    }
    Ok(outputs)
}

/// `--annotation` as exporter attributes: `annotation-index.KEY=VALUE`, a manifest's own without a type.
fn annotations(texts: &[String]) -> Result<Vec<(String, String)>, CommandError> {
    let mut attrs = Vec::new();
    for text in texts {
        let (key, value) = spec::pair("--annotation", text)?;
        let (types, key) = key.split_once(':').unwrap_or(("manifest", key));
        for kind in types.split(',') {
            let prefix = match kind {
                "manifest" => "annotation".to_owned(),
                "index" | "manifest-descriptor" | "index-descriptor" => format!("annotation-{kind}"),
                other => {
                    return Err(CommandError::usage(format!("--annotation {text}: unknown type `{other}`"))
                        .hint("types are manifest, index, manifest-descriptor, index-descriptor"));
                }
            };
            attrs.push((format!("{prefix}.{key}"), value.to_owned()));
        }
    }
    Ok(attrs)
}

fn answer(args: &BuildArgs, call: &Call, finished: &Finished) -> Result<(), CommandError> {
    if let Some(path) = &args.metadata_file {
        run::write_metadata(path, finished)?;
    }
    call.print(&finished.response, call::dockerfile_path(args).as_deref())
}

fn report(args: &BuildArgs, finished: &Finished, loader: Option<&Loader>) -> Result<(), CommandError> {
    if let (Some(loader), false) = (loader, args.quiet) {
        loader.said().lines().for_each(ui::note);
    }
    let digest = |name: &str| finished.response.get(name).cloned();
    let id = digest("containerimage.config.digest").or_else(|| digest("containerimage.digest"));
    if let Some(path) = &args.metadata_file {
        run::write_metadata(path, finished)?;
    }
    if let Some(path) = &args.iidfile {
        let id = id.clone().ok_or_else(|| {
            CommandError::new("--iidfile: this build made no image")
                .hint("add an image, oci or docker output")
        })?;
        run::write_file(path, id.as_bytes())?;
    }
    if args.quiet {
        let to_stdout = args.output.iter().any(|text| text == "-" || text.contains("dest=-"));
        if let (Some(id), false) = (id, to_stdout) {
            ui::print(&id);
        }
    }
    container::ended(&finished.response)
}
