//! A client's policy on sources: asked before a build uses any.

use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1::frontend::{
    ResolveSourceGitResponse, ResolveSourceHttpResponse, ResolveSourceImageResponse,
    ResolveSourceMetaResponse,
};
use rbuild_api::moby::buildkit::v1::sourcepolicy::PolicyAction;
use rbuild_api::moby::buildkit::v1::sourcepolicy::policysession as wire;
use rbuild_api::moby::buildkit::v1::sourcepolicy::policysession::check_policy_response::Result as Answer;
use rbuild_api::moby::buildkit::v1::sourcepolicy::policysession::policy_verifier_client::PolicyVerifierClient;
use rbuild_api::pb;

use crate::{Result, Session, SessionError, names};

/// What is asked about: a source of a build.
#[derive(Debug, Clone, Copy)]
pub struct PolicyQuestion<'a> {
    /// Its identifier.
    pub identifier: &'a str,
    /// Its attributes.
    pub attrs: &'a BTreeMap<String, String>,
    /// Operating system, architecture and variant that it is for.
    pub platform: Option<(&'a str, &'a str, &'a str)>,
    /// What is known of it so far.
    pub facts: &'a SourceFacts,
}

/// What a source is right now, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct SourceFacts {
    /// Of an image: digest and config.
    pub image: Option<(String, Vec<u8>)>,
    /// Of a repository: what the ref names (a commit or an annotated tag), the commit, the full ref.
    pub git: Option<(String, String, String)>,
    /// Of a file: digest, name, when it was changed in unix seconds.
    pub http: Option<(String, String, Option<i64>)>,
}

/// What a client's policy says of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyDecision {
    /// It may be used as it is.
    Allow,
    /// It may not be used, for these reasons.
    Deny(Vec<String>),
    /// Another source is to be used in its place.
    Convert {
        /// Its identifier.
        identifier: String,
        /// Its attributes.
        attrs: BTreeMap<String, String>,
    },
    /// The policy wants to know more of it first.
    AskedForMetadata {
        /// Also who signed it and what is attested of it.
        attestations: bool,
    },
}

impl SourceFacts {
    fn to_wire(&self, source: pb::SourceOp) -> ResolveSourceMetaResponse {
        ResolveSourceMetaResponse {
            source: Some(source),
            image: self.image.clone().map(|(digest, config)| ResolveSourceImageResponse {
                digest,
                config,
                attestation_chain: None,
            }),
            git: self.git.clone().map(|(checksum, commit_checksum, name)| ResolveSourceGitResponse {
                checksum,
                commit_checksum,
                r#ref: name,
                ..Default::default()
            }),
            http: self.http.clone().map(|(checksum, filename, modified)| ResolveSourceHttpResponse {
                checksum,
                filename,
                last_modified: modified.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
                checksum_response: None,
            }),
        }
    }
}

impl Session {
    /// Asks the client's policy. Errors: `is_unsupported()` if it has none.
    pub async fn check_policy(&self, question: PolicyQuestion<'_>) -> Result<PolicyDecision> {
        self.require(names::POLICY_CHECK)?;
        let platform = question.platform.map(|(os, architecture, variant)| pb::Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..pb::Platform::default()
        });
        let source = pb::SourceOp {
            identifier: question.identifier.to_owned(),
            attrs: question.attrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        let source = question.facts.to_wire(source);
        let request = wire::CheckPolicyRequest { platform, source: Some(source), ..Default::default() };
        let ask = async {
            let answer = PolicyVerifierClient::new(self.channel()).check_policy(request).await;
            let failed = |status| SessionError::call("asking the client's source policy", status);
            Ok(answer.map_err(failed)?.into_inner())
        };
        let answer = self.until_closed(ask).await?.result;
        let unclear = || SessionError::Invalid { what: "the client's source policy decided nothing".into() };
        match answer.ok_or_else(unclear)? {
            Answer::Request(asked) => Ok(PolicyDecision::AskedForMetadata {
                attestations: asked
                    .image
                    .is_some_and(|image| image.attestation_chain || !image.resolve_attestations.is_empty()),
            }),
            Answer::Decision(decision) => match PolicyAction::try_from(decision.action) {
                Ok(PolicyAction::Allow) => Ok(PolicyDecision::Allow),
                Ok(PolicyAction::Convert) => {
                    let update = decision.update.filter(|update| !update.identifier.is_empty());
                    let update = update.ok_or_else(unclear)?;
                    Ok(PolicyDecision::Convert { identifier: update.identifier, attrs: update.attrs })
                }
                Ok(PolicyAction::Deny) => {
                    let reasons = decision.deny_messages.into_iter().map(|deny| deny.message);
                    Ok(PolicyDecision::Deny(reasons.collect()))
                }
                Err(_) => Err(unclear()),
            },
        }
    }
}
