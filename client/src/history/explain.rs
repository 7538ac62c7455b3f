use rbuild_api::rbuild::v1::builds_client::BuildsClient;
use rbuild_api::rbuild::v1::cause::Kind;
use rbuild_api::rbuild::v1::{Cause, ExplainRequest, ExplainedStep};
use serde_json::json;
use tonic::transport::Channel;

use super::timeline::Timeline;
use crate::errors::CommandError;
use crate::ui;

/// Paths in one line.
const SHOWN_PATHS: usize = 3;

/// Which steps are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Those that ran for a reason of their own.
    Roots,
    /// Those that ran because a step before them did, too.
    All,
}

/// Asks the daemon why the steps of a build ran.
pub(super) async fn ask(channel: Channel, id: &str) -> Result<Vec<ExplainedStep>, CommandError> {
    let mut client = BuildsClient::new(channel).max_decoding_message_size(crate::MAX_MESSAGE);
    let answer = client.explain(ExplainRequest { r#ref: id.to_owned() }).await;
    let answer = answer.map_err(|status| {
        let error = CommandError::from_status(&status);
        match status.code() {
            tonic::Code::Unimplemented => error.hint("this daemon is no rbuildd: it cannot explain builds"),
            _ => error,
        }
    });
    Ok(answer?.into_inner().steps)
}

/// A line per step, with the numbers that progress gave the steps.
pub(super) fn lines(steps: &[ExplainedStep], timeline: &Timeline, depth: Depth) -> Vec<String> {
    let mut numbered: Vec<_> = steps
        .iter()
        .filter(|step| depth == Depth::All || step.causes.iter().any(|cause| cause.kind() != Kind::Before))
        .map(|step| (timeline.number(&step.vertex).unwrap_or(usize::MAX), step))
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    let line = |(number, step): (usize, &ExplainedStep)| {
        let number = if number == usize::MAX { String::new() } else { format!("#{number} ") };
        let causes = step.causes.iter().filter(|cause| depth == Depth::All || cause.kind() != Kind::Before);
        let causes: Vec<String> = causes.map(text).collect();
        format!("{number}{}: {}", step.name, causes.join("; "))
    };
    numbered.into_iter().map(line).collect()
}

pub(super) fn print_json(steps: &[ExplainedStep], timeline: &Timeline) {
    for step in steps {
        let causes: Vec<_> = step.causes.iter().map(cause_json).collect();
        let number = timeline.number(&step.vertex);
        let json = json!({ "step": number, "name": step.name, "vertex": step.vertex, "causes": causes });
        ui::print(&json.to_string());
    }
}

fn cause_json(cause: &Cause) -> serde_json::Value {
    json!({
        "kind": cause.kind().as_str_name(), "subject": cause.subject, "before": cause.before,
        "after": cause.after, "added": cause.added, "removed": cause.removed, "changed": cause.changed,
        "total": cause.total, "text": text(cause),
    })
}

fn text(cause: &Cause) -> String {
    match cause.kind() {
        Kind::First => "no earlier run of it is known".to_owned(),
        Kind::BuildArg => format!("build arg {} {}", cause.subject, change(cause)),
        Kind::Field => format!("{} {}", cause.subject, change(cause)),
        Kind::Files => files(cause),
        Kind::Before => format!("follows {}", cause.subject),
        Kind::Input => format!("{} is another one than last time", cause.subject),
        Kind::CacheSkipped => "the cache was skipped".to_owned(),
        Kind::NotKept => {
            "nothing differs; its result was not in the cache (pruned, or the last run failed)".to_owned()
        }
        Kind::Unknown => "for a reason that this client does not know".to_owned(),
    }
}

fn change(cause: &Cause) -> String {
    match (&cause.before, &cause.after) {
        (Some(before), Some(after)) => format!("was `{before}`, is `{after}`"),
        (None, Some(after)) => format!("is new: `{after}`"),
        (Some(before), None) => format!("is gone, was `{before}`"),
        (None, None) => "differs".to_owned(),
    }
}

fn files(cause: &Cause) -> String {
    let of = |paths: &[String], what: &str| -> Vec<String> {
        paths.iter().map(|path| format!("{path} {what}")).collect()
    };
    let mut all = of(&cause.changed, "changed");
    all.extend(of(&cause.added, "added"));
    all.extend(of(&cause.removed, "removed"));
    if all.is_empty() {
        return "files that it reads differ".to_owned();
    }
    all.truncate(SHOWN_PATHS);
    let more = usize::try_from(cause.total).unwrap_or(usize::MAX).saturating_sub(all.len());
    if more > 0 { format!("{} and {more} more", all.join(", ")) } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(kind: Kind, subject: &str) -> Cause {
        Cause { kind: kind.into(), subject: subject.into(), ..Cause::default() }
    }

    #[test]
    fn causes_read_as_sentences() {
        let files = Cause {
            changed: vec!["src/main.c".into()],
            added: vec!["a".into(), "b".into(), "c".into()],
            total: 70,
            ..cause(Kind::Files, "")
        };
        let arg = Cause { before: Some("1".into()), after: Some("2".into()), ..cause(Kind::BuildArg, "V") };
        let env = Cause { after: Some("x".into()), ..cause(Kind::Field, "env A") };
        for (cause, expected) in [
            (files, "src/main.c changed, a added, b added and 67 more"),
            (arg, "build arg V was `1`, is `2`"),
            (env, "env A is new: `x`"),
            (cause(Kind::Files, ""), "files that it reads differ"),
        ] {
            assert_eq!(text(&cause), expected);
        }
    }

    #[test]
    fn steps_that_only_follow_are_no_root_causes() {
        let step =
            |name: &str, causes: Vec<Cause>| ExplainedStep { vertex: name.into(), name: name.into(), causes };
        let steps = [step("a", vec![cause(Kind::First, "")]), step("b", vec![cause(Kind::Before, "a")])];
        let timeline = Timeline::default();
        assert_eq!(lines(&steps, &timeline, Depth::Roots), ["a: no earlier run of it is known"]);
        assert_eq!(lines(&steps, &timeline, Depth::All).len(), 2);
    }
}
