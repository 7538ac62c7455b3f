//! Checks of a Dockerfile: what works but should not be written so. Parsing and planning report what the text alone
//! tells, lowering what only the values of variables tell; the order of findings is that in which a compilation
//! meets them, as with upstream.

mod bases;
mod config;
mod lookups;
mod rules;
mod steps;
mod syntax;

use std::sync::{Arc, Mutex, PoisonError};

use rbuild_frontend::Warning;

pub(crate) use bases::{check_default_bases, check_image_platform, check_platform_flag, check_undeclared};
pub(crate) use config::LintConfig;
pub(crate) use lookups::Lookups;
pub(crate) use rules::Rule;
pub(crate) use steps::{StageLint, Undefined};
pub(crate) use syntax::{
    check_as_casing, check_casing, check_continuation, check_description, check_maintainer, check_stage_name,
    check_stage_names, describes,
};

use crate::CompileError;
use crate::source::{Lines, Source};

/// Findings beyond these are counted but not told: nobody reads them, and each carries its lines.
const MAX_FINDINGS: usize = 1_000;
/// Texts of findings beyond these bytes are not told: they quote values, which may be large.
const MAX_TEXT: usize = 4 << 20;
/// Lines that all findings together mark; one after that marks only its first line.
const MAX_MARKED: u32 = 200_000;

/// Something that should not be written so.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) rule: &'static Rule,
    pub(crate) message: String,
    pub(crate) lines: Lines,
}

impl Finding {
    /// In one line: rule, message, and where.
    pub(crate) fn short(&self) -> String {
        format!("{}: {} (line {})", self.rule.id, self.message, self.lines.first)
    }

    /// As a warning of the build.
    pub(crate) fn into_warning(self, source: &Source) -> Warning {
        Warning {
            vertex: source.vertex(),
            level: 1,
            short: self.short(),
            detail: vec![self.rule.description.to_owned()],
            url: self.rule.url(),
            location: Some(source.location(self.lines)),
        }
    }
}

/// Collects the findings of a compilation; clones collect together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Linter(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    config: LintConfig,
    off: bool,
    // A mutex because the passes run on other threads; they report one after the other.
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    new: Vec<Finding>,
    count: usize,
    text: usize,
    marked: u32,
    /// The rules that found something, in the order of their first findings.
    rules: Vec<&'static str>,
}

impl Linter {
    pub(crate) fn new(config: LintConfig) -> Self {
        Self(Arc::new(Inner { config, ..Inner::default() }))
    }

    /// One that hears nothing: for what is compiled a second time, or for another platform.
    pub(crate) fn off() -> Self {
        Self(Arc::new(Inner { off: true, ..Inner::default() }))
    }

    /// Whether this rule's findings are wanted; saves making their texts.
    pub(crate) fn wants(&self, rule: &Rule) -> bool {
        !self.0.off && self.0.config.wants(rule)
    }

    /// Tells of a finding.
    pub(crate) fn report(&self, rule: &'static Rule, lines: Lines, message: impl FnOnce() -> String) {
        if !self.wants(rule) {
            return;
        }
        let mut found = self.found();
        if !found.rules.contains(&rule.id) {
            found.rules.push(rule.id);
        }
        if found.count >= MAX_FINDINGS || found.text >= MAX_TEXT {
            return;
        }
        let message = message();
        found.count += 1;
        found.text += message.len();
        let marks = (lines.last - lines.first).saturating_add(1);
        let lines = match found.marked.checked_add(marks).filter(|all| *all <= MAX_MARKED) {
            Some(all) => {
                found.marked = all;
                lines
            }
            None => Lines::one(lines.first),
        };
        found.new.push(Finding { rule, message, lines });
    }

    /// The findings since the last call.
    pub(crate) fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut self.found().new)
    }

    /// The error that findings are, if the file or the request wants it so.
    pub(crate) fn violation(&self) -> Option<CompileError> {
        let found = self.found();
        (self.0.config.error && !found.rules.is_empty())
            .then(|| CompileError::new(format!("lint violation found for rules: {}", found.rules.join(", "))))
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        // A panic elsewhere leaves the list as good as it was.
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
