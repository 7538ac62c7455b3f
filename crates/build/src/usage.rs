//! What the steps of a build used: kept while it runs, told in its history and in provenance that asks for it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use rbuild_digest::Digest;
use rbuild_exec::StepUsage;

/// Bytes of samples of one build, as JSON: some hundred for each step, a few thousand for one that takes long. What goes
/// beyond is not told.
const MAX_BYTES: usize = 8 << 20;

/// What steps used, as JSON by vertex.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usages {
    steps: BTreeMap<Digest, String>,
    bytes: usize,
}

impl Usages {
    pub(crate) fn add(&mut self, vertex: Digest, usage: &StepUsage) {
        let Ok(json) = serde_json::to_string(usage) else {
            tracing::debug!(%vertex, "what a step used cannot be told");
            return;
        };
        if self.bytes + json.len() > MAX_BYTES {
            tracing::debug!(%vertex, "there is no more room for what steps use");
            return;
        }
        self.bytes += json.len();
        self.steps.insert(vertex, json);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What one step used.
    pub(crate) fn of(&self, vertex: &Digest) -> Option<&str> {
        self.steps.get(vertex).map(String::as_str)
    }

    /// A JSON object on a line for each step.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (vertex, usage) in &self.steps {
            writeln!(out, "{{\"vertex\":\"{vertex}\",\"resourceUsage\":{usage}}}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_steps_use_is_bounded() {
        let mut usages = Usages::default();
        let usage = StepUsage { samples: vec![Default::default(); 1000], machine: None };
        for number in 0..10_000u32 {
            usages.add(Digest::of(number.to_le_bytes()), &usage);
        }
        let mut out = Vec::new();
        usages.write(&mut out).unwrap();
        assert!(!usages.is_empty() && out.len() < MAX_BYTES + MAX_BYTES / 8, "{}", out.len());
        let first = out.split(|byte| *byte == b'\n').next().unwrap();
        let first: serde_json::Value = serde_json::from_slice(first).unwrap();
        assert_eq!(first["resourceUsage"]["samples"].as_array().unwrap().len(), 1000);
    }
}
