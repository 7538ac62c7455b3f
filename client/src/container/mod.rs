//! Processes at the daemon with this terminal in front of them: `rbuildctl run` in an image, `build --invoke` in a step
//! that failed, before a step, or in the result.

mod invoke;
mod mounts;
mod ports;
mod process;
mod step;
mod terminal;

use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::{ListWorkersRequest, SolveRequest};
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_oci::{ImageConfig, ImageRef};
use tonic::Status;

use crate::cli::{ConnectionArgs, RunArgs};
use crate::connect;
use crate::errors::CommandError;
use crate::gateway::Gateway;
use crate::run::{self, Drive, Look, Offer};
use mounts::Volumes;

pub(crate) use invoke::Invoke;

/// The key under which the exit code comes with the response.
const EXIT: &str = "rbuildctl.exit";
/// A worker's network.
const NETWORK_LABEL: &str = "org.mobyproject.buildkit.worker.network";

/// Runs a process; its exit code is the command's.
pub(crate) async fn run(connection: &ConnectionArgs, args: RunArgs) -> Result<(), CommandError> {
    let mode = run::mode(&args.progress)?;
    let volumes = Volumes::parse(&args.volume)?;
    let ports = ports::parse(&args.publish)?;
    let reference = ImageRef::parse(&args.image)
        .map_err(|error| CommandError::usage(format!("image `{}`: {error}", args.image)))?;
    let network = network(args.network.as_deref())?;
    if args.tty && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(CommandError::usage("--tty: standard input is no terminal"));
    }
    if !ports.is_empty() && network == pb::NetMode::None {
        return Err(CommandError::usage("--publish: a process without network has no ports"));
    }
    let connected = connect::connect(connection, true).await?;
    if connected.is_far && !ports.is_empty() {
        connected.close().await;
        return Err(CommandError::usage("--publish: the daemon is on another machine")
            .hint("ports of processes are reached where the daemon runs; forward them with ssh -L"));
    }
    if !ports.is_empty()
        && network != pb::NetMode::Host
        && let Some(other) = other_network(&connected.channel).await?
    {
        connected.close().await;
        return Err(CommandError::usage(format!("--publish: the network of processes is `{other}` there"))
            .hint("ports are reached where processes share the daemon's network: --network host --allow network.host"));
    }
    let serving = ports::serve(ports);
    let session = random_id();
    let offer = Offer { dirs: volumes.dirs(), shared_key: session, ..Offer::default() };
    let request =
        SolveRequest { r#ref: random_id(), entitlements: args.allow.clone(), ..SolveRequest::default() };
    let gateway = Gateway::new(connected.channel.clone(), &request.r#ref);
    let drive: Drive<'_> = Box::pin(drive(gateway, &args, reference.tag_or_latest(), &volumes, network));
    let look = Look { totals: false, ..Look::of(mode) };
    let finished = tokio::select! {
        finished = run::run_driven(&connected, &offer, look, request, Some(drive)) => finished,
        failed = serving => Err(failed),
    };
    connected.close().await;
    ended(&finished?.response)
}

/// Ends the command as the process ended that the build's driver ran, if it ran one.
pub(crate) fn ended(response: &BTreeMap<String, String>) -> Result<(), CommandError> {
    match response.get(EXIT).map(|code| code.parse::<u8>().unwrap_or(u8::MAX)) {
        None | Some(0) => Ok(()),
        Some(code) => Err(CommandError::exit(code)),
    }
}

/// What the network of processes is that ask for none, if it is not that of the daemon's machine.
async fn other_network(channel: &tonic::transport::Channel) -> Result<Option<String>, CommandError> {
    let mut client = ControlClient::new(channel.clone());
    let workers = client.list_workers(ListWorkersRequest::default()).await?.into_inner().record;
    let label = workers.iter().find_map(|worker| worker.labels.get(NETWORK_LABEL));
    Ok(label.filter(|network| network.as_str() != "host").cloned())
}

fn network(mode: Option<&str>) -> Result<pb::NetMode, CommandError> {
    match mode {
        None | Some("" | "default") => Ok(pb::NetMode::Unset),
        Some("none") => Ok(pb::NetMode::None),
        Some("host") => Ok(pb::NetMode::Host),
        Some(other) => Err(CommandError::usage(format!("--network {other} is not supported"))
            .hint("a process has the daemon's network (default), none, or with --allow network.host host")),
    }
}

async fn drive(
    mut gateway: Gateway,
    args: &RunArgs,
    image: ImageRef,
    volumes: &Volumes,
    network: pb::NetMode,
) -> Result<BTreeMap<String, String>, Status> {
    let ran = in_container(&mut gateway, args, image, volumes, network).await;
    gateway.finish(ran.clone().map(|_| wire::Result::default())).await?;
    ran.map(|code| [(EXIT.to_owned(), code.to_string())].into())
}

async fn in_container(
    gateway: &mut Gateway,
    args: &RunArgs,
    image: ImageRef,
    volumes: &Volumes,
    network: pb::NetMode,
) -> Result<u32, Status> {
    let name = image.to_string();
    let mode = if args.pull { "pull" } else { "local" };
    let (digest, config) = gateway.image(&name, mode).await?;
    let config = ImageConfig::parse(&config).map_err(|error| Status::unknown(format!("{name}: {error}")))?;
    let digest =
        digest.parse().map_err(|_| Status::unknown(format!("{name}: the daemon names no digest")))?;
    let root = mounts::image(&image.with_digest(digest), mode).map_err(unknown)?;
    let root = gateway.solve(root).await?;
    let mut list = vec![pb::Mount {
        dest: "/".into(),
        readonly: args.read_only,
        result_id: root,
        ..pb::Mount::default()
    }];
    list.extend(volumes.mounts(gateway).await?);
    let container = wire::NewContainerRequest {
        container_id: random_id(),
        mounts: list,
        network: network.into(),
        platform: None,
        constraints: None,
        extra_hosts: hosts(&args.add_host)?,
        hostname: args.hostname.clone().unwrap_or_default(),
    };
    let id = container.container_id.clone();
    gateway.new_container(container).await?;
    let init = wire::InitMessage {
        container_id: id.clone(),
        meta: Some(meta(args, &config)?),
        fds: if args.interactive || args.tty { vec![0, 1, 2] } else { vec![1, 2] },
        tty: args.tty,
        security: if args.allow.iter().any(|name| name == "security.insecure") { 1 } else { 0 },
        secretenv: Vec::new(),
    };
    let ran = process::run(gateway, init, args.interactive || args.tty).await;
    gateway.release_container(&id).await?;
    ran
}

fn unknown(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

fn hosts(texts: &[String]) -> Result<Vec<pb::HostIp>, Status> {
    let one = |text: &String| {
        let (host, ip) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or_else(|| Status::invalid_argument(format!("--add-host {text}: expected HOST:IP")))?;
        Ok(pb::HostIp { host: host.to_owned(), ip: ip.trim_matches(['[', ']']).to_owned() })
    };
    texts.iter().map(one).collect()
}

/// What runs: the image's entry point and command unless the command line says otherwise.
fn meta(args: &RunArgs, config: &ImageConfig) -> Result<pb::Meta, Status> {
    let image = &config.config;
    let entrypoint = match &args.entrypoint {
        Some(program) => vec![program.clone()],
        None => image.entrypoint.clone(),
    };
    // Another entry point has no use for the image's arguments.
    let command = match (args.command.is_empty(), &args.entrypoint) {
        (true, None) => image.cmd.clone(),
        _ => args.command.clone(),
    };
    let argv: Vec<String> = entrypoint.into_iter().chain(command).collect();
    if argv.is_empty() {
        return Err(Status::invalid_argument(format!("image {} has no command: give one", args.image)));
    }
    let mut env = image.env.clone();
    for text in &args.env {
        match (text.contains('='), std::env::var(text)) {
            (true, _) => env.push(text.clone()),
            (false, Ok(value)) => env.push(format!("{text}={value}")),
            // As docker has it: a name that is not set here is not set there.
            (false, Err(_)) => {}
        }
    }
    if args.tty
        && let Ok(term) = std::env::var("TERM")
        && !env.iter().any(|entry| entry.starts_with("TERM="))
    {
        env.push(format!("TERM={term}"));
    }
    let workdir = args.workdir.as_ref().map(|path| path.to_string_lossy().into_owned());
    Ok(pb::Meta {
        args: argv,
        env,
        cwd: workdir.unwrap_or_else(|| image.working_dir.clone()),
        user: args.user.clone().unwrap_or_else(|| image.user.clone()),
        ..pb::Meta::default()
    })
}
