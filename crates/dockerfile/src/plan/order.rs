use std::collections::HashMap;

use super::{Base, From, Plan, Stage, StageId};
use crate::CompileError;
use crate::source::Lines;

impl Stage {
    /// The stages that it needs, each with the lines that say so.
    fn needs(&self) -> Vec<(StageId, Option<Lines>)> {
        let base = match self.base {
            Base::Stage(id) => Some((id, self.lines)),
            _ => None,
        };
        let steps = self.steps.iter().flat_map(|step| {
            step.from.iter().filter_map(|from| match from {
                From::Stage(id) => Some((*id, Some(step.instruction.lines))),
                _ => None,
            })
        });
        // The last instruction that needs a stage is the one that an error shows.
        let mut needs: Vec<(StageId, Option<Lines>)> = Vec::new();
        let mut places = HashMap::new();
        for (id, lines) in base.into_iter().chain(steps) {
            let at = *places.entry(id).or_insert(needs.len());
            match needs.get_mut(at) {
                Some(known) => known.1 = lines,
                None => needs.push((id, lines)),
            }
        }
        needs
    }
}

impl Plan {
    /// The stages that the target needs, each after those it needs itself. Errors: a cycle.
    pub(crate) fn order(&self) -> Result<Vec<StageId>, CompileError> {
        if self.whole {
            let all: Vec<StageId> = (0..self.stages.len()).collect();
            return self.walk(&all);
        }
        self.walk(&[self.target])
    }

    /// Looks at all stages, whatever the target needs.
    pub(crate) fn look_at_all(&mut self) {
        self.whole = true;
    }

    /// The stages that a stage needs: its base first, then those that its steps read from.
    pub(crate) fn needed_by(&self, stage: StageId) -> Vec<StageId> {
        self.stages[stage].needs().into_iter().map(|(id, _)| id).collect()
    }

    /// Refuses cycles, also among stages that the target does not need.
    pub(super) fn check_cycles(&self) -> Result<(), CompileError> {
        let all: Vec<StageId> = (0..self.stages.len()).collect();
        self.walk(&all).map(drop)
    }

    fn walk(&self, roots: &[StageId]) -> Result<Vec<StageId>, CompileError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.stages.len()];
        let mut order = Vec::new();
        for root in roots.iter().copied() {
            if marks[root] != Mark::New {
                continue;
            }
            let mut stack = vec![(root, self.stages[root].needs(), 0_usize)];
            marks[root] = Mark::Open;
            while let Some((id, needs, next)) = stack.pop() {
                let Some((need, lines)) = needs.get(next).copied() else {
                    marks[id] = Mark::Done;
                    order.push(id);
                    continue;
                };
                stack.push((id, needs, next + 1));
                match marks[need] {
                    Mark::Done => {}
                    Mark::Open => return Err(self.cycle(need, lines.unwrap_or(Lines::one(1)))),
                    Mark::New => {
                        marks[need] = Mark::Open;
                        stack.push((need, self.stages[need].needs(), 0));
                    }
                }
            }
        }
        Ok(order)
    }
}
