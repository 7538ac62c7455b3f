//! Where the files of the build context come from.

use std::collections::BTreeSet;

use rbuild_llb::{Constraints, LocalOptions, State};

/// The build context.
#[derive(Debug, Clone)]
pub(crate) enum BuildContext {
    /// A directory of the client.
    Local(LocalContext),
    /// A state that a client or another frontend made.
    State(State),
}

/// A directory of the client.
#[derive(Debug, Clone)]
pub(crate) struct LocalContext {
    /// The name under which the client shares it.
    pub(crate) name: String,
    /// The session that shares it.
    pub(crate) session: String,
    /// Which earlier copy to compare with.
    pub(crate) shared_key_hint: String,
    /// The name of the step.
    pub(crate) step: String,
    /// What `.dockerignore` says.
    pub(crate) excludes: Vec<String>,
}

impl BuildContext {
    /// Stands for the context until the paths are known.
    pub(crate) fn placeholder(&self) -> State {
        self.state(&BTreeSet::new())
    }

    /// Whether its state depends on which paths are used.
    pub(crate) fn depends_on_paths(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// The context, reduced to these paths (`/` is all).
    pub(crate) fn state(&self, used: &BTreeSet<String>) -> State {
        match self {
            Self::State(state) => state.clone(),
            Self::Local(local) => {
                let all = used.contains("/");
                let paths = used.iter().map(|path| path.trim_start_matches('/').to_owned());
                local.state(if all { Vec::new() } else { paths.collect() })
            }
        }
    }
}

impl LocalContext {
    pub(crate) fn state(&self, follow_paths: Vec<String>) -> State {
        let constraints = Constraints::default().custom_name(self.step.clone());
        State::local(
            &self.name,
            LocalOptions {
                session_id: self.session.clone(),
                exclude_patterns: self.excludes.clone(),
                follow_paths,
                shared_key_hint: self.shared_key_hint.clone(),
                constraints,
                ..LocalOptions::default()
            },
        )
    }
}
