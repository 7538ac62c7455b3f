use std::collections::BTreeMap;
use std::sync::Arc;

use crate::provenance::RecordedAttestation;
use rbuild_frontend::Frontend;
use rbuild_llb::{Definition, SourcePolicy};
use rbuild_trace::TraceContext;
use serde::{Deserialize, Serialize};

/// One build, as a client asks for it.
#[derive(Debug)]
pub struct BuildRequest {
    /// The client's name for it; unique among running builds.
    pub id: String,
    /// The session that started it; empty if there is none.
    pub session: String,
    /// Rules on what sources may be used.
    pub policy: Option<SourcePolicy>,
    /// The session whose policy is asked about every source; empty if there is none.
    pub policy_session: String,
    /// The client asks something for itself: not shown among builds.
    pub internal: bool,
    /// The client's trace that it is part of.
    pub trace: Option<TraceContext>,
    /// What is built.
    pub what: What,
    /// Where the result goes; empty: it is computed and kept in the cache.
    pub exporters: Vec<ExporterSpec>,
    /// What the client allows beyond the sandbox (`network.host`…).
    pub entitlements: Vec<String>,
    /// Cache exports as (type, attributes).
    pub cache_exports: Vec<(String, BTreeMap<String, String>)>,
    /// Cache imports as (type, attributes).
    pub cache_imports: Vec<(String, BTreeMap<String, String>)>,
}

/// What a build computes.
#[derive(Debug)]
pub enum What {
    /// A definition, as it is.
    Definition(Definition),
    /// What a frontend of the daemon makes of options and inputs.
    Frontend {
        /// `dockerfile.v0`.
        name: String,
        /// Its options.
        options: BTreeMap<String, String>,
        /// Named inputs.
        inputs: BTreeMap<String, Definition>,
    },
    /// What a frontend outside the daemon returns.
    Client {
        /// Waits for that frontend.
        frontend: Arc<dyn Frontend>,
        /// Options of the request.
        options: BTreeMap<String, String>,
        /// Named inputs of the request.
        inputs: BTreeMap<String, Definition>,
    },
}

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExporterSpec {
    /// `local`, `tar`, `oci`, `docker`, `image`.
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
}

/// What a finished build tells its client.
#[derive(Debug, Default)]
pub struct BuildOutcome {
    /// `containerimage.digest` and its kin.
    pub exporter_response: BTreeMap<String, String>,
    /// How the results came about, for the history.
    pub attestations: Vec<RecordedAttestation>,
}

impl What {
    /// Options of the request, if a frontend is given some.
    pub(crate) fn options(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Definition(_) => None,
            Self::Frontend { options, .. } | Self::Client { options, .. } => Some(options),
        }
    }
}
