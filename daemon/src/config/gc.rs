//! What is kept when no rule is configured.

use std::time::Duration;

use super::GcPolicyFile;
use super::size::{Size, Span};

/// What a client or a step can make again easily is not kept for long …
const CHEAP_AGE: Duration = Duration::from_secs(48 * 60 * 60);
/// … beyond this much of it.
const CHEAP_BYTES: i64 = 512_000_000;
/// What nobody has used for so long goes first.
const OLD_AGE: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// Rules from the cheapest loss to the dearest, each with the limits of `limits`. Source: upstream's documented defaults.
pub(super) fn default_policies(limits: &GcPolicyFile) -> Vec<GcPolicyFile> {
    let cheap = ["type==source.local", "type==exec.cachemount", "type==source.git.checkout"];
    vec![
        GcPolicyFile {
            filters: cheap.map(str::to_owned).to_vec(),
            keep_duration: Some(Span(CHEAP_AGE)),
            max_used_space: Some(Size::Bytes(CHEAP_BYTES)),
            ..GcPolicyFile::default()
        },
        GcPolicyFile { keep_duration: Some(Span(OLD_AGE)), ..limits.clone() },
        limits.clone(),
        GcPolicyFile { all: true, ..limits.clone() },
    ]
}
