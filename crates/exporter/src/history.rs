//! History of an image config: one entry for every layer, each with a time.

use jiff::Timestamp;
use rbuild_oci::{History, format_time};

/// Mark of entries that the exporter added, as upstream's has it.
const COMMENT: &str = "buildkit.exporter.image.v0";
/// Said of a layer about which nothing is known.
const NO_DESCRIPTION: &str = "created by buildkit";

/// What history tells about a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerFacts {
    pub(crate) created: Option<String>,
    pub(crate) description: String,
}

impl LayerFacts {
    /// Made `created_ms` milliseconds after 1970.
    pub(crate) fn new(created_ms: i64, description: &str) -> Self {
        let nanos = u32::try_from(created_ms.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
        let description = if description.is_empty() { NO_DESCRIPTION } else { description };
        Self { created: format_time(created_ms.div_euclid(1000), nanos), description: description.to_owned() }
    }
}

/// Makes history and layers agree.
///
/// Entries beyond the layers there are become empty ones; layers without an entry get one; entries without a time get
/// their layer's, or else that of the entry before (at the beginning: of the first layer that is new).
pub(crate) fn complete(history: &[History], layers: &[LayerFacts]) -> Vec<History> {
    let mut history = history.to_vec();
    let mut counted = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if counted == layers.len() {
            entry.empty_layer = true;
        } else {
            counted += 1;
        }
    }
    for layer in &layers[counted..] {
        history.push(History {
            created: layer.created.clone(),
            created_by: layer.description.clone(),
            comment: COMMENT.into(),
            ..History::default()
        });
    }
    for (entry, layer) in history.iter_mut().filter(|entry| !entry.empty_layer).zip(layers) {
        if entry.created.is_none() {
            entry.created.clone_from(&layer.created);
        }
    }
    fill_times(&mut history);
    history
}

/// Sets times later than the epoch, and missing ones, to it. Entries of the base image keep theirs: they are its facts.
pub(crate) fn cut_times(history: &mut [History], base: &[History], epoch: i64) {
    let Some(text) = format_time(epoch, 0) else { return };
    let inherited = history.iter().zip(base).take_while(|(own, base)| own == base).count();
    for entry in &mut history[inherited..] {
        if entry.created.as_deref().is_none_or(|time| is_later(time, epoch)) {
            entry.created = Some(text.clone());
        }
    }
}

/// A time that cannot be read counts as later, so that it goes.
pub(crate) fn is_later(time: &str, epoch: i64) -> bool {
    match (time.parse::<Timestamp>(), Timestamp::from_second(epoch)) {
        (Ok(time), Ok(epoch)) => time > epoch,
        _ => true,
    }
}

fn fill_times(history: &mut [History]) {
    // Entries of a base image come first and have times. The first gap is an instruction of this build, and so is the
    // first time after it.
    let gap = history.iter().position(|entry| entry.created.is_none()).unwrap_or(history.len());
    let after_gap = history[gap..].iter().find_map(|entry| entry.created.clone());
    let before_gap = history[..gap].iter().rev().find_map(|entry| entry.created.clone());
    let mut time = after_gap.or(before_gap);
    for entry in &mut history[gap..] {
        match &entry.created {
            Some(own) => time = Some(own.clone()),
            None => entry.created.clone_from(&time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(by: &str, empty: bool, created: Option<&str>) -> History {
        History {
            created: created.map(str::to_owned),
            created_by: by.into(),
            empty_layer: empty,
            ..History::default()
        }
    }

    fn layers(times: &[&str]) -> Vec<LayerFacts> {
        let fact =
            |time: &&str| LayerFacts { created: Some((*time).into()), description: format!("made {time}") };
        times.iter().map(fact).collect()
    }

    fn shown(history: &[History]) -> Vec<String> {
        let line = |entry: &History| {
            let empty = if entry.empty_layer { " empty" } else { "" };
            format!("{} {}{empty}", entry.created_by, entry.created.as_deref().unwrap_or("-"))
        };
        history.iter().map(line).collect()
    }

    #[test]
    fn instructions_get_times_of_their_layers_or_neighbours() {
        let history = [
            entry("base", false, Some("t1")),
            entry("ENV", true, None),
            entry("RUN", false, None),
            entry("CMD", true, None),
        ];
        let complete = complete(&history, &layers(&["t0", "t5"]));
        assert_eq!(shown(&complete), ["base t1", "ENV t5 empty", "RUN t5", "CMD t5 empty"]);
    }

    #[test]
    fn an_image_without_new_layers_takes_the_bases_time() {
        let history = [entry("base", false, Some("t1")), entry("ENV", true, None)];
        assert_eq!(shown(&complete(&history, &layers(&["t0"]))), ["base t1", "ENV t1 empty"]);
    }

    #[test]
    fn layers_without_entries_are_told() {
        let complete = complete(&[], &layers(&["t1", "t2"]));
        assert_eq!(shown(&complete), ["made t1 t1", "made t2 t2"]);
        assert!(complete.iter().all(|entry| entry.comment == COMMENT));
    }

    #[test]
    fn entries_of_layers_that_do_not_exist_become_empty() {
        let history = [entry("a", false, Some("t1")), entry("b", false, None)];
        assert_eq!(shown(&complete(&history, &layers(&["t0"]))), ["a t1", "b t1 empty"]);
    }

    #[test]
    fn an_epoch_cuts_new_times_and_keeps_those_of_the_base() {
        let base = [entry("base", false, Some("2023-01-01T00:00:00.5Z"))];
        let mut history = vec![
            base[0].clone(),
            entry("old", true, Some("1960-01-01T00:00:00Z")),
            entry("RUN", false, Some("2024-01-01T02:00:00+02:00")),
        ];
        cut_times(&mut history, &base, 1);
        let expected =
            ["base 2023-01-01T00:00:00.5Z", "old 1960-01-01T00:00:00Z empty", "RUN 1970-01-01T00:00:01Z"];
        assert_eq!(shown(&history), expected);
    }

    #[test]
    fn without_layers_there_are_no_times() {
        assert_eq!(shown(&complete(&[entry("ENV", true, None)], &[])), ["ENV - empty"]);
    }
}
