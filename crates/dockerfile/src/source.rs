use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_llb::{Range, SourceInfo, SourceLocation};

/// Lines of a Dockerfile, counted from 1, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lines {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl Lines {
    pub(crate) fn one(line: u32) -> Self {
        Self { first: line, last: line }
    }

    /// One range per line, as upstream marks them.
    pub(crate) fn ranges(self) -> Vec<Range> {
        let line = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        // A heredoc may have millions of lines; what is shown is a screen at most.
        let last = self.last.min(self.first.saturating_add(MAX_RANGES));
        (self.first..=last).map(|n| Range::lines(line(n), line(n))).collect()
    }
}

/// Most lines that are marked for one instruction.
const MAX_RANGES: u32 = 100_000;

/// The text that is compiled.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) info: Arc<SourceInfo>,
}

impl Source {
    pub(crate) fn new(info: SourceInfo) -> Self {
        Self { info: Arc::new(info) }
    }

    /// The vertex that reads it.
    pub(crate) fn vertex(&self) -> Option<Digest> {
        let definition = self.info.definition.as_ref()?;
        // A definition that has no head was refused before.
        definition.head().ok().flatten().map(|(digest, _)| digest)
    }

    pub(crate) fn location(&self, lines: Lines) -> SourceLocation {
        SourceLocation { info: self.info.clone(), ranges: lines.ranges() }
    }
}
