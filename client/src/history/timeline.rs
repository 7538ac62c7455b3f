use std::collections::HashMap;

use rbuild_api::moby::buildkit::v1::Vertex;

use super::list::nanos;

/// The steps of a build with their times, from its events.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    steps: Vec<Step>,
    /// Places in `steps`. A vertex without a time is known and no more.
    places: HashMap<String, usize>,
}

/// One step.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Digest of its vertex.
    pub(super) vertex: String,
    pub(super) name: String,
    inputs: Vec<String>,
    /// Nanoseconds since 1970.
    pub(super) started: i128,
    /// The same; `None` if it never ended.
    pub(super) completed: Option<i128>,
    pub(super) cached: bool,
    pub(super) error: String,
}

impl Timeline {
    /// Takes in what an event says of a vertex. Steps are numbered as clients do: in the order in which they began.
    pub(super) fn add(&mut self, vertex: &Vertex) {
        let Some(started) = vertex.started.as_ref() else { return };
        let started = nanos(Some(started));
        let place = *self.places.entry(vertex.digest.clone()).or_insert_with(|| {
            self.steps.push(Step { vertex: vertex.digest.clone(), started, ..Step::default() });
            self.steps.len() - 1
        });
        let step = &mut self.steps[place];
        step.name.clone_from(&vertex.name);
        step.inputs.clone_from(&vertex.inputs);
        step.started = step.started.min(started);
        step.completed = vertex.completed.as_ref().map(|time| nanos(Some(time)));
        step.cached = vertex.cached;
        step.error.clone_from(&vertex.error);
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The number of a vertex, from 1.
    pub(super) fn number(&self, digest: &str) -> Option<usize> {
        self.places.get(digest).map(|place| place + 1)
    }

    /// The chain of steps that the end of the build waited for, as places in [`Timeline::steps`], the first one first.
    ///
    /// From the step that ended last it goes to what that step waited for: the input that ended last, or without
    /// inputs the step that ended last before it began.
    pub(super) fn critical_path(&self) -> Vec<usize> {
        let ended = |place: &usize| self.steps[*place].completed;
        let mut path = Vec::new();
        let mut next = (0..self.steps.len()).filter(|place| ended(place).is_some()).max_by_key(ended);
        while let Some(place) = next {
            path.push(place);
            let step = &self.steps[place];
            let is_before = |other: &usize| {
                !path.contains(other) && ended(other).is_some_and(|end| end <= step.completed.unwrap_or(end))
            };
            let inputs = step.inputs.iter().filter_map(|digest| self.places.get(digest).copied());
            next = inputs.filter(is_before).max_by_key(ended).or_else(|| {
                let earlier = (0..self.steps.len())
                    .filter(|other| is_before(other) && ended(other).is_some_and(|end| end <= step.started));
                earlier.max_by_key(ended)
            });
        }
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(name: &str, inputs: &[&str], started: i64, completed: i64) -> Vertex {
        let time = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        Vertex {
            digest: name.to_owned(),
            name: name.to_owned(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            started: Some(time(started)),
            completed: Some(time(completed)),
            ..Vertex::default()
        }
    }

    #[test]
    fn the_critical_path_is_what_the_end_waited_for() {
        let mut timeline = Timeline::default();
        for vertex in [
            vertex("load", &[], 0, 1),
            vertex("base", &[], 1, 2),
            vertex("quick", &["base"], 2, 3),
            vertex("slow", &["base"], 2, 9),
            vertex("copy", &["quick", "slow"], 9, 10),
            vertex("export", &[], 10, 11),
        ] {
            timeline.add(&vertex);
        }
        let names: Vec<_> =
            timeline.critical_path().into_iter().map(|place| timeline.steps()[place].name.as_str()).collect();
        assert_eq!(names, ["load", "base", "slow", "copy", "export"]);
        assert_eq!(timeline.number("slow"), Some(4));
        assert!(Timeline::default().critical_path().is_empty());
    }

    #[test]
    fn steps_that_end_at_the_same_time_do_not_go_in_circles() {
        let mut timeline = Timeline::default();
        timeline.add(&vertex("a", &["b"], 0, 0));
        timeline.add(&vertex("b", &["a"], 0, 0));
        assert_eq!(timeline.critical_path().len(), 2);
    }
}
