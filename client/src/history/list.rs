use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::BuildHistoryRecord;
use serde_json::json;

use super::now;
use super::timeline::{Step, Timeline};
use super::usage::{self, Usages};
use crate::ui;

const SECOND: i128 = 1_000_000_000;

/// Nanoseconds since 1970; 0 if it is missing.
pub(super) fn nanos(time: Option<&Timestamp>) -> i128 {
    time.map_or(0, |time| i128::from(time.seconds) * SECOND + i128::from(time.nanos))
}

/// The list of builds.
pub(super) fn show(records: &[BuildHistoryRecord], quiet: bool, format: &str) {
    if quiet {
        records.iter().for_each(|record| ui::print(&record.r#ref));
        return;
    }
    if format == "json" {
        records.iter().for_each(|record| ui::print(&record_json(record).to_string()));
        return;
    }
    let mut rows =
        vec![["REF", "NAME", "STATUS", "CREATED", "DURATION", "STEPS", "CACHED"].map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(|record| {
        vec![
            format!("{}{}", record.r#ref, if record.pinned { "*" } else { "" }),
            name(record),
            status(record).to_owned(),
            format!("{} ago", span(now() - nanos(record.created_at.as_ref()))),
            span(duration(record)),
            record.num_total_steps.to_string(),
            record.num_cached_steps.to_string(),
        ]
    }));
    ui::table(&rows);
}

/// How a build stands.
fn status(record: &BuildHistoryRecord) -> &'static str {
    match &record.error {
        Some(error) if error.code == tonic::Code::Cancelled as i32 => "canceled",
        Some(_) => "error",
        None if record.completed_at.is_none() => "running",
        None => "completed",
    }
}

/// What was built, as far as the request tells.
fn name(record: &BuildHistoryRecord) -> String {
    let option = |name: &str| record.frontend_attrs.get(name).filter(|value| !value.is_empty());
    let place = option("vcs:source").or_else(|| option("context")).or_else(|| option("filename"));
    match (place, option("target")) {
        (Some(place), Some(target)) => format!("{place} ({target})"),
        (Some(place), None) => place.clone(),
        (None, _) => "-".to_owned(),
    }
}

fn duration(record: &BuildHistoryRecord) -> i128 {
    let end = record.completed_at.as_ref().map_or_else(now, |time| nanos(Some(time)));
    end - nanos(record.created_at.as_ref())
}

/// A time span in its two largest units.
fn span(nanos: i128) -> String {
    let nanos = nanos.max(0);
    let seconds = nanos / SECOND;
    match seconds {
        0..60 => format!("{}.{}s", seconds, nanos % SECOND / (SECOND / 10)),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn record_json(record: &BuildHistoryRecord) -> serde_json::Value {
    let time = |time: &Option<Timestamp>| time.map(|time| time.to_string());
    json!({
        "ref": record.r#ref, "name": name(record), "status": status(record), "frontend": record.frontend,
        "createdAt": time(&record.created_at), "completedAt": time(&record.completed_at),
        "totalSteps": record.num_total_steps, "completedSteps": record.num_completed_steps,
        "cachedSteps": record.num_cached_steps, "warnings": record.num_warnings, "pinned": record.pinned,
        "error": record.error.as_ref().map(|error| error.message.clone()),
        "options": record.frontend_attrs, "response": record.exporter_response,
    })
}

/// All about one build.
pub(super) fn inspect(record: &BuildHistoryRecord, timeline: &Timeline, usages: &Usages, format: &str) {
    let path = timeline.critical_path();
    if format == "json" {
        let mut object = record_json(record);
        let steps = timeline.steps().iter().enumerate().map(|(place, step)| {
            let mut json = step_json(record, place, step);
            if let Some(usage) = usages.get(&step.vertex) {
                json["resourceUsage"] = usage.clone();
            }
            json
        });
        object["steps"] = steps.collect();
        object["criticalPath"] = path.iter().map(|place| place + 1).collect();
        return ui::print(&object.to_string());
    }
    head(record);
    let mut rows =
        vec![["", "STEP", "BEGAN", "TOOK", "CPU", "MEMORY", "STATE", "NAME"].map(str::to_owned).to_vec()];
    rows.extend(timeline.steps().iter().enumerate().map(|(place, step)| {
        let [cpu, memory] = usage::shown(usages.get(&step.vertex));
        vec![
            if path.contains(&place) { "*" } else { "" }.to_owned(),
            format!("#{}", place + 1),
            format!("+{}", span(step.started - nanos(record.created_at.as_ref()))),
            step.completed.map_or_else(|| "-".to_owned(), |end| span(end - step.started)),
            cpu,
            memory,
            state(step).to_owned(),
            step.name.clone(),
        ]
    }));
    ui::print("");
    ui::table(&rows);
    if !path.is_empty() {
        let took = |place: &usize| {
            let step = &timeline.steps()[*place];
            step.completed.map_or(0, |end| end - step.started)
        };
        let total: i128 = path.iter().map(took).sum();
        ui::print(&format!("\n* critical path: {} of {}", span(total), span(duration(record))));
    }
}

fn head(record: &BuildHistoryRecord) {
    let line = |name: &str, value: &str| ui::print(&format!("{name:<11}{value}"));
    line("Ref:", &record.r#ref);
    line("Name:", &name(record));
    line("Status:", status(record));
    if let Some(error) = &record.error {
        line("Error:", error.message.trim_end());
    }
    line("Created:", &record.created_at.map_or_else(String::new, |time| time.to_string()));
    line("Duration:", &span(duration(record)));
    line("Steps:", &format!("{} ({} cached)", record.num_total_steps, record.num_cached_steps));
    if record.num_warnings > 0 {
        line("Warnings:", &record.num_warnings.to_string());
    }
    for (option, value) in &record.frontend_attrs {
        line("Option:", &format!("{option}={value}"));
    }
    for key in ["image.name", "containerimage.digest"] {
        if let Some(value) = record.exporter_response.get(key) {
            line("Result:", value);
        }
    }
}

fn state(step: &Step) -> &'static str {
    match step.completed {
        _ if !step.error.is_empty() => "failed",
        _ if step.cached => "cached",
        Some(_) => "done",
        None => "unfinished",
    }
}

fn step_json(record: &BuildHistoryRecord, place: usize, step: &Step) -> serde_json::Value {
    #[allow(clippy::cast_precision_loss, reason = "spans of a build are far below the 52 bits")]
    let seconds = |nanos: i128| nanos as f64 / SECOND as f64;
    json!({
        "step": place + 1, "name": step.name, "state": state(step), "error": step.error,
        "beganSeconds": seconds(step.started - nanos(record.created_at.as_ref())),
        "tookSeconds": step.completed.map(|end| seconds(end - step.started)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_two_units() {
        for (nanos, text) in [
            (-5, "0.0s"),
            (1_260_000_000, "1.2s"),
            (61 * SECOND, "1m01s"),
            (7_300 * SECOND, "2h01m"),
            (90_000 * SECOND, "1d01h"),
        ] {
            assert_eq!(span(nanos), text);
        }
    }
}
