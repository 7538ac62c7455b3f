use std::collections::BTreeMap;

use rbuild_api::moby::buildkit::v1::sourcepolicy::policysession as wire;
use rbuild_api::moby::buildkit::v1::sourcepolicy::policysession::check_policy_response::Result as Answer;
use rbuild_api::moby::buildkit::v1::sourcepolicy::policysession::policy_verifier_server as server;
use tonic::{Request, Response, Status};

use super::*;
use crate::{PolicyDecision, PolicyQuestion, SourceFacts, names};
use rbuild_api::pb;

/// Decides by the identifier.
struct Verifier;

#[tonic::async_trait]
impl server::PolicyVerifier for Verifier {
    async fn check_policy(
        &self,
        request: Request<wire::CheckPolicyRequest>,
    ) -> std::result::Result<Response<wire::CheckPolicyResponse>, Status> {
        let source = request.into_inner().source.unwrap().source.unwrap();
        let decision = |action: i32| {
            let deny_messages = vec![wire::DenyMessage { message: "because".into() }];
            let update = pb::SourceOp { identifier: "other".into(), attrs: BTreeMap::new() };
            let update = (&*source.identifier == "convert").then_some(update);
            Some(Answer::Decision(wire::DecisionResponse { action, deny_messages, update }))
        };
        let result = match &*source.identifier {
            "allow" => decision(0),
            "deny" => decision(1),
            "convert" | "convert to nothing" => decision(2),
            "odd" => decision(77),
            "ask" => Some(Answer::Request(Default::default())),
            _ => None,
        };
        Ok(Response::new(wire::CheckPolicyResponse { result }))
    }
}

async fn ask(session: &Session, identifier: &str) -> crate::Result<PolicyDecision> {
    let attrs = BTreeMap::new();
    session
        .check_policy(PolicyQuestion {
            identifier,
            attrs: &attrs,
            platform: None,
            facts: &SourceFacts::default(),
        })
        .await
}

#[tokio::test]
async fn only_a_clear_yes_allows_a_source() {
    let service = server::PolicyVerifierServer::new(Verifier);
    let client =
        ClientSession::builder().build_with(&[names::POLICY_CHECK], |routes| routes.add_service(service));
    let mut world = World::new();
    let session = world.session(client).await;
    assert_eq!(ask(&session, "allow").await.unwrap(), PolicyDecision::Allow);
    assert_eq!(ask(&session, "deny").await.unwrap(), PolicyDecision::Deny(vec!["because".into()]));
    assert_eq!(
        ask(&session, "convert").await.unwrap(),
        PolicyDecision::Convert { identifier: "other".into(), attrs: BTreeMap::new() }
    );
    assert_eq!(ask(&session, "ask").await.unwrap(), PolicyDecision::AskedForMetadata { attestations: false });
    for unclear in ["odd", "nothing", "convert to nothing"] {
        assert!(ask(&session, unclear).await.is_err(), "{unclear}");
    }
    let mut world = World::new();
    let without = world.session(ClientSession::builder().build()).await;
    assert!(ask(&without, "allow").await.unwrap_err().is_unsupported());
}
