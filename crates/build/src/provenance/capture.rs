use std::collections::{BTreeMap, HashMap, HashSet};

use parking_lot::Mutex;
use rbuild_digest::Digest;
use rbuild_frontend::{FrontendResult, ResultRefs, ScanTarget, SharedRef};
use rbuild_llb::Definition;

/// What a build's frontends did, as far as provenance tells it: which of them ran, and what they read on the way.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ran: Vec<FrontendRun>,
    /// By [`head_of`].
    read: HashMap<Digest, Definition>,
}

/// A frontend that another frontend (or the client) ran.
#[derive(Debug, Clone)]
pub(crate) struct FrontendRun {
    pub(crate) frontend: String,
    pub(crate) options: BTreeMap<String, String>,
    results: HashSet<Digest>,
    /// What lists of packages tell of besides, by result.
    scans: HashMap<Digest, Vec<ScanTarget>>,
}

impl FrontendRun {
    /// What lists of packages tell of besides the result of that definition.
    pub(crate) fn scans(&self, head: &Digest) -> Vec<ScanTarget> {
        self.scans.get(head).cloned().unwrap_or_default()
    }
}

/// What tells definitions apart; `None` for scratch. The terminal names all that the definition yields.
pub(crate) fn head_of(definition: &Definition) -> Option<Digest> {
    definition.ops.last().map(Digest::of)
}

/// The references of a result.
pub(crate) fn refs_of(result: &FrontendResult) -> Vec<&SharedRef> {
    match &result.refs {
        ResultRefs::Single(reference) => reference.iter().collect(),
        ResultRefs::Named(refs) => refs.values().flatten().collect(),
    }
}

impl Capture {
    /// Something was read from what the definition yields.
    pub(crate) fn was_read(&self, definition: &Definition) {
        if let Some(head) = head_of(definition) {
            self.state.lock().read.entry(head).or_insert_with(|| definition.clone());
        }
    }

    /// A frontend ran for a client's frontend.
    pub(crate) fn ran(&self, frontend: &str, options: &BTreeMap<String, String>, result: &FrontendResult) {
        let results =
            refs_of(result).into_iter().filter_map(|reference| head_of(&reference.definition())).collect();
        let scans = result.scans.iter().filter_map(|(name, scans)| {
            let reference = match &result.refs {
                ResultRefs::Single(reference) => reference.as_ref(),
                ResultRefs::Named(refs) => refs.get(name).and_then(Option::as_ref),
            };
            Some((head_of(&reference?.definition())?, scans.clone()))
        });
        let (frontend, options, scans) = (frontend.to_owned(), options.clone(), scans.collect());
        let run = FrontendRun { frontend, options, results, scans };
        self.state.lock().ran.push(run);
    }

    /// The frontend whose result this was; of several the last.
    pub(crate) fn run_of(&self, head: &Digest) -> Option<FrontendRun> {
        self.state.lock().ran.iter().rev().find(|run| run.results.contains(head)).cloned()
    }

    /// What was read that is none of the results.
    pub(crate) fn read_besides(&self, results: &HashSet<Digest>) -> Vec<Definition> {
        let state = self.state.lock();
        let mut read: Vec<_> = state.read.iter().filter(|(head, _)| !results.contains(*head)).collect();
        read.sort_by_key(|(head, _)| **head);
        read.into_iter().map(|(_, definition)| definition.clone()).collect()
    }
}
