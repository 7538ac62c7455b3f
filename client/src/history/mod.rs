//! `history`: the builds that ran on the daemon, from its records and logs.

mod explain;
mod list;
mod timeline;
mod trace;
mod usage;

use std::time::SystemTime;

use futures::StreamExt as _;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::{
    BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, StatusRequest, StatusResponse,
    UpdateBuildHistoryRequest,
};
use rbuild_progress::render::{Mode, RenderOptions, Renderer};
use tonic::transport::Channel;

use crate::cli::{BuildName, HistoryCommand};
use crate::errors::CommandError;
use crate::{MAX_MESSAGE, ui};
use explain::Depth;
use timeline::Timeline;

type Control = ControlClient<Channel>;

/// Runs a command on the history.
pub(crate) async fn history(channel: Channel, command: HistoryCommand) -> Result<(), CommandError> {
    let mut control = ControlClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    match command {
        HistoryCommand::Ls { filter, limit, quiet, format } => {
            let request = BuildHistoryRequest { filter, limit: limit.into(), ..Default::default() };
            let records = records(&mut control, request).await?;
            list::show(&records, quiet, &format);
            Ok(())
        }
        HistoryCommand::Logs { build, progress, raw, step } => {
            let record = find(&mut control, &build).await?;
            let events = events(&mut control, &record.r#ref).await?;
            match raw {
                true => print_raw(events, step).await,
                false => print_log(events, &progress).await,
            }
        }
        HistoryCommand::Inspect { build, format } => {
            let record = find(&mut control, &build).await?;
            let timeline = timeline_of(&mut control, &record.r#ref).await?;
            let usages = usage::ask(channel, &record.r#ref).await?;
            list::inspect(&record, &timeline, &usages, &format);
            Ok(())
        }
        HistoryCommand::Explain { build, json } => {
            let id = find(&mut control, &build).await?.r#ref;
            let steps = explain::ask(channel, &id).await?;
            let timeline = timeline_of(&mut control, &id).await?;
            if json {
                explain::print_json(&steps, &timeline);
            } else if steps.is_empty() {
                ui::print("every step was in the cache");
            } else {
                explain::lines(&steps, &timeline, Depth::All).iter().for_each(|line| ui::print(line));
            }
            Ok(())
        }
        HistoryCommand::Trace { build } => {
            let id = find(&mut control, &build).await?.r#ref;
            trace::print(channel, &mut control, &id).await
        }
        HistoryCommand::Rm { builds, all } => remove(&mut control, builds, all).await,
        HistoryCommand::Pin { build } => pin(&mut control, &build, true).await,
        HistoryCommand::Unpin { build } => pin(&mut control, &build, false).await,
    }
}

/// What the daemon has kept, the newest first.
async fn records(
    control: &mut Control,
    request: BuildHistoryRequest,
) -> Result<Vec<BuildHistoryRecord>, CommandError> {
    let request = BuildHistoryRequest { early_exit: true, ..request };
    let mut stream = control.listen_build_history(request).await?.into_inner();
    let mut records = Vec::new();
    while let Some(event) = stream.message().await? {
        if event.r#type() != BuildHistoryEventType::Deleted {
            records.extend(event.record);
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse(list::nanos(record.created_at.as_ref())));
    Ok(records)
}

/// The one build that is meant.
async fn find(control: &mut Control, name: &BuildName) -> Result<BuildHistoryRecord, CommandError> {
    let records = records(control, BuildHistoryRequest::default()).await?;
    let name = name.build.as_deref().unwrap_or("^0");
    if let Some(back) = name.strip_prefix('^') {
        let back: usize = back
            .parse()
            .map_err(|_| CommandError::usage(format!("`{name}`: expected ^ and a number, such as ^1")))?;
        let count = records.len();
        let found = records.into_iter().nth(back);
        return found.ok_or_else(|| {
            CommandError::new(format!("no build `{name}`: the daemon has kept {count} builds"))
        });
    }
    let mut matches: Vec<_> = records.into_iter().filter(|record| record.r#ref.starts_with(name)).collect();
    if let Some(exact) = matches.iter().position(|record| record.r#ref == name) {
        return Ok(matches.swap_remove(exact));
    }
    match (matches.pop(), matches.len()) {
        (Some(found), 0) => Ok(found),
        (Some(_), others) => Err(CommandError::new(format!("{} builds begin with `{name}`", others + 1))
            .hint("give more of the reference")),
        (None, _) => Err(CommandError::new(format!("no build `{name}` in the history"))
            .hint("rbuildctl history ls shows what the daemon has kept")),
    }
}

async fn events(control: &mut Control, id: &str) -> Result<tonic::Streaming<StatusResponse>, CommandError> {
    Ok(control.status(StatusRequest { r#ref: id.to_owned() }).await?.into_inner())
}

async fn timeline_of(control: &mut Control, id: &str) -> Result<Timeline, CommandError> {
    let mut timeline = Timeline::default();
    let mut events = events(control, id).await?;
    while let Some(event) = events.message().await? {
        event.vertexes.iter().for_each(|vertex| timeline.add(vertex));
    }
    Ok(timeline)
}

/// After a build: the root causes of the steps that ran, one line each.
pub(crate) async fn explain_build(channel: Channel, id: &str) -> Result<(), CommandError> {
    let steps = explain::ask(channel.clone(), id).await?;
    let mut control = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let timeline = timeline_of(&mut control, id).await?;
    if steps.is_empty() {
        ui::note("every step was in the cache");
    }
    explain::lines(&steps, &timeline, Depth::Roots).iter().for_each(|line| ui::note(line));
    Ok(())
}

async fn print_log(events: tonic::Streaming<StatusResponse>, progress: &str) -> Result<(), CommandError> {
    let mode: Mode = progress.parse().map_err(|error| CommandError::usage(format!("{error}")))?;
    let options = RenderOptions { summary: false, ..RenderOptions::default() };
    let renderer = Renderer::new(mode, Box::new(std::io::stdout()), options);
    let mut failed = None;
    let good = events.scan((), |(), event| {
        std::future::ready(match event {
            Ok(event) => Some(event),
            Err(status) => {
                failed = Some(status);
                None
            }
        })
    });
    renderer.run(Box::pin(good)).await;
    failed.map_or(Ok(()), |status| Err(status.into()))
}

async fn print_raw(
    mut events: tonic::Streaming<StatusResponse>,
    step: Option<usize>,
) -> Result<(), CommandError> {
    let mut timeline = Timeline::default();
    while let Some(event) = events.message().await? {
        event.vertexes.iter().for_each(|vertex| timeline.add(vertex));
        for log in &event.logs {
            if step.is_none_or(|step| timeline.number(&log.vertex) == Some(step)) {
                ui::print_raw(&log.msg);
            }
        }
    }
    match step {
        Some(step) if step == 0 || step > timeline.steps().len() => {
            Err(CommandError::new(format!("the build has no step {step}"))
                .hint("rbuildctl history inspect shows the steps"))
        }
        _ => Ok(()),
    }
}

async fn remove(control: &mut Control, builds: Vec<String>, all: bool) -> Result<(), CommandError> {
    let found = if all {
        let ended = records(control, BuildHistoryRequest::default()).await?;
        ended.into_iter().filter(|record| record.completed_at.is_some()).collect()
    } else {
        let mut found = Vec::new();
        for build in builds {
            found.push(find(control, &BuildName { build: Some(build) }).await?);
        }
        found
    };
    for record in found {
        let id = record.r#ref;
        let request = UpdateBuildHistoryRequest { r#ref: id.clone(), delete: true, ..Default::default() };
        control.update_build_history(request).await?;
        ui::print(&format!("removed {id}"));
    }
    Ok(())
}

async fn pin(control: &mut Control, name: &BuildName, pinned: bool) -> Result<(), CommandError> {
    let id = find(control, name).await?.r#ref;
    let request = UpdateBuildHistoryRequest { r#ref: id.clone(), pinned, ..Default::default() };
    control.update_build_history(request).await?;
    ui::print(&format!("{} {id}", if pinned { "pinned" } else { "unpinned" }));
    Ok(())
}

/// Nanoseconds since 1970.
fn now() -> i128 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
}
