//! `debug workers|info|dump-llb|compile`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::types::WorkerRecord;
use rbuild_api::moby::buildkit::v1::{InfoRequest, ListWorkersRequest};
use rbuild_llb::{Definition, definition_to_dot, definition_to_json_lines};
use rbuild_progress::render::bytes;

use crate::cli::{ConnectionArgs, DebugCommand};
use crate::errors::CommandError;
use crate::{build, connect, spec, ui};

/// Runs a debug command.
pub(crate) async fn debug(connection: &ConnectionArgs, command: DebugCommand) -> Result<(), CommandError> {
    match command {
        DebugCommand::Build(mut args) => {
            args.invoke.get_or_insert_with(|| "on-error".to_owned());
            build::build(connection, *args).await
        }
        DebugCommand::DumpLlb { dot, file } => dump(dot, file.as_deref()),
        DebugCommand::Compile { files, json, target, build_arg } => {
            let args = build_arg.iter().map(|text| spec::pair("--build-arg", text));
            let args: BTreeMap<String, String> = args
                .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())))
                .collect::<Result<_, _>>()?;
            files.iter().try_for_each(|file| compile(file, json, target.as_deref(), &args))
        }
        DebugCommand::Workers { filter, verbose } => {
            let connected = connect::connect(connection, false).await?;
            let mut client = ControlClient::new(connected.channel.clone());
            let workers = client.list_workers(ListWorkersRequest { filter }).await?.into_inner().record;
            show_workers(&workers, verbose);
            connected.close().await;
            Ok(())
        }
        DebugCommand::Info => {
            let connected = connect::connect(connection, false).await?;
            let mut client = ControlClient::new(connected.channel.clone());
            let version =
                client.info(InfoRequest {}).await?.into_inner().buildkit_version.unwrap_or_default();
            ui::print(&format!("BuildKit: {} {} {}", version.package, version.version, version.revision));
            connected.close().await;
            Ok(())
        }
    }
}

fn platform_text(platform: &rbuild_api::pb::Platform) -> String {
    let base = format!("{}/{}", platform.os, platform.architecture);
    if platform.variant.is_empty() { base } else { format!("{base}/{}", platform.variant) }
}

fn show_workers(workers: &[WorkerRecord], verbose: bool) {
    if !verbose {
        let mut rows = vec![vec!["ID".to_owned(), "PLATFORMS".to_owned()]];
        rows.extend(workers.iter().map(|worker| {
            let platforms: Vec<_> = worker.platforms.iter().map(platform_text).collect();
            vec![worker.id.clone(), platforms.join(",")]
        }));
        return ui::table(&rows);
    }
    for worker in workers {
        let platforms: Vec<_> = worker.platforms.iter().map(platform_text).collect();
        ui::print(&format!("ID:\t\t{}", worker.id));
        ui::print(&format!("Platforms:\t{}", platforms.join(",")));
        if let Some(version) = &worker.buildkit_version {
            ui::print(&format!("BuildKit:\t{} {} {}", version.package, version.version, version.revision));
        }
        ui::print("Labels:");
        for (name, value) in &worker.labels {
            ui::print(&format!("\t{name}:\t{value}"));
        }
        for (index, policy) in worker.gc_policy.iter().enumerate() {
            ui::print(&format!("GC Policy rule#{index}:"));
            ui::print(&format!("\tAll:\t{}", policy.all));
            for (name, size) in [
                ("Reserved Space", policy.reserved_space),
                ("Max Used Space", policy.max_used_space),
                ("Min Free Space", policy.min_free_space),
            ] {
                if size > 0 {
                    ui::print(&format!("\t{name}:\t{}", bytes(size)));
                }
            }
        }
        ui::print("");
    }
}

fn dump(dot: bool, file: Option<&Path>) -> Result<(), CommandError> {
    let mut bytes = Vec::new();
    match file {
        Some(path) => {
            bytes = std::fs::read(path)
                .map_err(|error| CommandError::new(format!("{}: {error}", path.display())))?;
        }
        None => {
            std::io::stdin().read_to_end(&mut bytes)?;
        }
    }
    let definition = Definition::decode(&bytes)
        .map_err(|error| CommandError::new(format!("invalid definition: {error}")))?;
    let text = if dot { definition_to_dot(&definition) } else { definition_to_json_lines(&definition) };
    let text = text.map_err(|error| CommandError::new(error.to_string()))?;
    ui::print_raw(text.as_bytes());
    Ok(())
}

fn compile(
    file: &Path,
    json: bool,
    target: Option<&str>,
    build_args: &BTreeMap<String, String>,
) -> Result<(), CommandError> {
    let name = file.to_string_lossy();
    let bytes = std::fs::read(file).map_err(|error| CommandError::new(format!("{name}: {error}")))?;
    let mut options: BTreeMap<String, String> =
        build_args.iter().map(|(name, value)| (format!("build-arg:{name}"), value.clone())).collect();
    options.extend(target.map(|target| ("target".to_owned(), target.to_owned())));
    let lowered = rbuild_dockerfile::compile_offline(&name, &bytes, &options)
        .map_err(|error| CommandError::from_status(&tonic::Status::unknown(format!("{name}: {error}"))))?;
    if !json {
        ui::print(&format!("{name}: {} ops", lowered.definition.ops.len().saturating_sub(1)));
        return Ok(());
    }
    let text = definition_to_json_lines(&lowered.definition)
        .map_err(|error| CommandError::new(error.to_string()))?;
    ui::print_raw(text.as_bytes());
    ui::print_raw(&lowered.config);
    ui::print_raw(b"\n");
    Ok(())
}
