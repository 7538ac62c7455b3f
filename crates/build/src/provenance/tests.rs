use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn facts(options: &BTreeMap<String, String>) -> Facts {
    let mut request = Request::new("dockerfile.v0".into(), args(options));
    request.secrets = vec![inputs::Asked { id: "token".into(), optional: true }];
    Facts {
        config: config_source(options, &[]),
        request,
        is_request_complete: true,
        materials: Vec::new(),
        is_complete: true,
        is_hermetic: false,
        vcs: BTreeMap::new(),
        steps: Some(raw("{}".into()).unwrap()),
        measured: Some(raw(r#"{"used":1}"#.into()).unwrap()),
        machine: Vec::new(),
        source: None,
        outputs: Vec::new(),
        builder_platform: "linux/amd64".into(),
        invocation: "id".into(),
        started_ms: 1500,
    }
}

fn render(facts: &Facts, options: &ProvenanceOptions) -> serde_json::Value {
    serde_json::from_slice(&facts.render(options, None).unwrap()).unwrap()
}

#[test]
fn arguments_are_the_options_that_say_what_is_built() {
    let options = map(&[
        ("attest:provenance", "mode=max"),
        ("filename", "Dockerfile"),
        ("platform", "linux/arm64"),
        ("target", "base"),
        ("vcs:source", "https://u:p@g/r"),
        ("build-arg:URL", "https://u:p@host/"),
        ("context", "https://u:p@host/r.git#main:dir"),
    ]);
    let expected = map(&[("target", "base"), ("build-arg:URL", "https://xxxxx:xxxxx@host/")]);
    assert_eq!(args(&options), expected);
    assert_eq!(client_args(&options)["vcs:source"], "https://xxxxx:xxxxx@g/r");
    let material = inputs::Material {
        uri: "https://xxxxx:xxxxx@host/r.git#main".into(),
        digest: map(&[("sha1", "ab")]),
    };
    let source = config_source(&options, &[material]);
    assert_eq!(source.uri, "https://xxxxx:xxxxx@host/r.git#main:dir");
    assert_eq!((source.digest, source.path.as_str()), (map(&[("sha1", "ab")]), "Dockerfile"));
}

#[test]
fn the_short_form_leaves_out_what_may_be_confidential_and_says_so() {
    let full = facts(&map(&[("build-arg:A", "1"), ("label:l", "x"), ("target", "t")]));
    let max = render(&full, &ProvenanceOptions::default());
    let request = &max["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:A"], "1");
    assert_eq!(request["secrets"][0]["id"], "token");
    assert!(max["buildDefinition"]["internalParameters"]["buildConfig"].is_object());
    let min = render(&full.reduced(), &ProvenanceOptions::default());
    let request = &min["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"], serde_json::json!({"target": "t"}));
    assert!(request["secrets"].is_null());
    assert!(min["buildDefinition"]["internalParameters"]["buildConfig"].is_null());
    assert_eq!(min["runDetails"]["metadata"]["buildkit_completeness"]["request"], false);
    assert_eq!(min["runDetails"]["metadata"]["startedOn"], "1970-01-01T00:00:01.5Z");
    // Nothing left out, nothing to say.
    let plain = render(&facts(&map(&[("target", "t")])).reduced(), &ProvenanceOptions::default());
    assert_eq!(plain["runDetails"]["metadata"]["buildkit_completeness"]["request"], true);
}

#[test]
fn both_versions_tell_the_same() {
    let facts = facts(&map(&[("filename", "f")]));
    let options = ProvenanceOptions {
        version: options::Version::V02,
        reproducible: true,
        ..ProvenanceOptions::default()
    };
    let old = render(&facts, &options);
    assert_eq!(old["buildType"], "https://mobyproject.org/buildkit@v1");
    assert_eq!(old["invocation"]["configSource"]["entryPoint"], "f");
    assert_eq!(old["metadata"]["reproducible"], true);
    assert_eq!(old["metadata"]["completeness"]["materials"], true);
    let new = render(&facts, &ProvenanceOptions { version: options::Version::V1, ..options });
    assert_eq!(new["buildDefinition"]["externalParameters"]["configSource"]["path"], "f");
    assert_eq!(new["runDetails"]["metadata"]["buildkit_reproducible"], true);
}

#[test]
fn what_steps_used_is_told_to_those_who_ask_for_it() {
    let facts = facts(&map(&[]));
    let config = |usage, facts: &Facts| {
        let options = ProvenanceOptions { usage, ..ProvenanceOptions::default() };
        render(facts, &options)["buildDefinition"]["internalParameters"]["buildConfig"].clone()
    };
    assert_eq!(config(false, &facts), serde_json::json!({}));
    assert_eq!(config(true, &facts), serde_json::json!({"used": 1}));
    assert!(config(true, &facts.reduced()).is_null());
}
