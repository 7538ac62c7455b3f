//! What a client that drives a build solves, reads, resolves and returns.

use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::sourcepolicy::{self, PolicyAction};
use rbuild_api::moby::buildkit::v1::{SolveRequest, StatusRequest, StatusResponse};
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_llb::{Constraints, FileActions, ImageOptions, MarshalOptions, MkfileAction, State};
use rbuild_tests::{TestDaemon, TestSpace, registry};
use tonic::Code;

use crate::gateway::{Driven, busybox, shell};
use crate::wire::{block_on, channel};

#[test]
fn files_of_results_are_read_and_results_are_returned() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let pong = build.bridge.ping(build.call(wire::PingRequest {})).await.unwrap().into_inner();
        for wanted in ["gateway.exec", "gateway.exec.signals", "readfile", "returnmap"] {
            assert!(pong.frontend_api_caps.iter().any(|cap| cap.id == wanted && cap.enabled), "{wanted}");
        }
        let made = busybox().run(shell("mkdir /d; echo one > /d/f; ln -s f /d/l")).root();
        let root = build.solve(&made).await.unwrap();
        let read =
            wire::ReadFileRequest { r#ref: root.clone(), file_path: "/d/l".into(), ..Default::default() };
        let read = build.call(read);
        assert_eq!(build.bridge.read_file(read).await.unwrap().into_inner().data, b"one\n");
        let list = wire::ReadDirRequest { r#ref: root.clone(), dir_path: "/d".into(), ..Default::default() };
        let list = build.call(list);
        let entries = build.bridge.read_dir(list).await.unwrap().into_inner().entries;
        assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["f", "l"]);
        let stat = build.call(wire::StatFileRequest { r#ref: root, path: "/d/l".into(), mount_index: 0 });
        // What the link leads to, as upstream answers.
        let stat = build.bridge.stat_file(stat).await.unwrap().into_inner().stat.unwrap();
        assert_eq!((stat.path.as_str(), stat.linkname.as_str(), stat.size), ("f", "", 4));
        build.finish().await.unwrap();
    });
}

fn text_file(path: &str, text: &str) -> State {
    let file = MkfileAction {
        path: path.into(),
        mode: 0o644,
        data: text.as_bytes().to_vec().into(),
        owner: None,
        timestamp_ns: None,
    };
    State::scratch().file(FileActions::new().mkfile(file), Constraints::default())
}

#[test]
fn ranges_links_and_lists_are_read_and_mistakes_are_told() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox().run(shell("mkdir /d; seq 9 > /d/f; touch /d/g.txt")).root()).await;
        let root = root.unwrap();
        let file = |path: &str, range: Option<(i64, i64)>| wire::ReadFileRequest {
            r#ref: root.clone(),
            file_path: path.into(),
            range: range.map(|(offset, length)| wire::FileRange { offset, length }),
            ..Default::default()
        };
        let read = build.call(file("/d/f", Some((2, 4))));
        assert_eq!(build.bridge.read_file(read).await.unwrap().into_inner().data, b"2\n3\n");
        for (path, range, code) in [
            ("/d/none", None, Code::NotFound),
            ("/d/f", Some((-1, 4)), Code::InvalidArgument),
            ("/../../../etc/none", None, Code::NotFound),
        ] {
            let read = build.call(file(path, range));
            assert_eq!(build.bridge.read_file(read).await.unwrap_err().code(), code, "{path}");
        }
        let list = build.call(wire::ReadDirRequest {
            r#ref: root.clone(),
            dir_path: "/d".into(),
            include_pattern: "*.txt".into(),
            ..Default::default()
        });
        let entries = build.bridge.read_dir(list).await.unwrap().into_inner().entries;
        assert_eq!(entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["g.txt"]);
        for id in ["", "made up"] {
            let stat =
                build.call(wire::StatFileRequest { r#ref: id.into(), path: "/".into(), mount_index: 0 });
            assert_eq!(build.bridge.stat_file(stat).await.unwrap_err().code(), Code::NotFound, "{id:?}");
        }
        build.finish().await.unwrap();
    });
}

#[test]
fn images_and_sources_are_resolved() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let image = |name: &str, mode: &str| wire::ResolveImageConfigRequest {
            r#ref: name.into(),
            resolve_mode: mode.into(),
            ..Default::default()
        };
        let busybox = "docker.io/library/busybox:latest";
        let ask = build.call(image(busybox, "default"));
        let config = build.bridge.resolve_image_config(ask).await.unwrap().into_inner();
        assert!(config.digest.starts_with("sha256:") && config.config.starts_with(b"{"));
        let source = |identifier: &str| wire::ResolveSourceMetaRequest {
            source: Some(pb::SourceOp { identifier: identifier.into(), attrs: Default::default() }),
            ..Default::default()
        };
        let ask = build.call(source(&format!("docker-image://{busybox}")));
        let meta = build.bridge.resolve_source_meta(ask).await.unwrap().into_inner();
        assert_eq!(meta.image.unwrap().digest, config.digest);
        let ask = build.call(image(busybox, "sometimes"));
        assert_eq!(build.bridge.resolve_image_config(ask).await.unwrap_err().code(), Code::InvalidArgument);
        let ask = build.call(image("docker.io/library/nosuch:1", "default"));
        assert_eq!(build.bridge.resolve_image_config(ask).await.unwrap_err().code(), Code::NotFound);
        let ask = build.call(wire::ResolveSourceMetaRequest::default());
        assert_eq!(build.bridge.resolve_source_meta(ask).await.unwrap_err().code(), Code::InvalidArgument);
        build.finish().await.unwrap();
    });
}

#[test]
fn frontends_run_with_inputs_and_their_results_are_refs() {
    let daemon = TestDaemon::start();
    block_on(async {
        let wired = |state: &State| state.marshal(&MarshalOptions::default()).unwrap().to_wire();
        let inputs = [("mine".to_owned(), wired(&text_file("/x", "of mine")))];
        let request = SolveRequest { frontend_inputs: inputs.clone().into(), ..SolveRequest::default() };
        let mut build = Driven::start_with(&daemon, request).await;
        let ask = build.call(wire::InputsRequest {});
        let told = build.bridge.inputs(ask).await.unwrap().into_inner().definitions;
        assert_eq!(told["mine"].def, inputs[0].1.def);
        let dockerfile = text_file("/Dockerfile", "FROM busybox\nCOPY x /y\nRUN cat /y > /z\n");
        let solve = wire::SolveRequest {
            frontend: "dockerfile.v0".into(),
            frontend_inputs: [
                ("dockerfile".to_owned(), wired(&dockerfile)),
                ("context".to_owned(), told["mine"].clone()),
            ]
            .into(),
            allow_result_return: true,
            ..Default::default()
        };
        let ask = build.call(solve.clone());
        let result = build.bridge.solve(ask).await.unwrap().into_inner().result.unwrap();
        // Who does not ask for definitions gets ids alone.
        let Some(wire::result::Result::RefDeprecated(id)) = result.result else { panic!("{result:?}") };
        assert!(result.metadata.contains_key("containerimage.config"));
        let read = wire::ReadFileRequest { r#ref: id, file_path: "/z".into(), ..Default::default() };
        let read = build.call(read);
        assert_eq!(build.bridge.read_file(read).await.unwrap().into_inner().data, b"of mine");
        let both = wire::SolveRequest { definition: Some(wired(&busybox())), ..solve.clone() };
        let ask = build.call(both);
        assert_eq!(build.bridge.solve(ask).await.unwrap_err().code(), Code::InvalidArgument);
        let ask = build.call(wire::SolveRequest { frontend: "nosuch.v0".into(), ..solve });
        let error = build.bridge.solve(ask).await.unwrap_err();
        assert!(error.message().contains("frontend `nosuch.v0` not found"), "{error}");
        build.finish().await.unwrap();
    });
}

#[test]
fn a_solve_may_name_caches_to_look_into() {
    let (first, second) = (TestDaemon::start(), TestDaemon::start());
    let text = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n";
    let space = TestSpace::new();
    space.write("Dockerfile", text);
    let cache = format!("{}/gateway-cache:{}", registry().host, random_id());
    let export = format!("type=registry,ref={cache},mode=max");
    let args = ["build", "--cache-to", &export, "-o", "made", "."];
    first.ctl(space.path(), &args).success();
    block_on(async {
        let mut build = Driven::start(&second).await;
        let events = ControlClient::new(channel(&second).await)
            .status(StatusRequest { r#ref: build.id.clone() })
            .await
            .unwrap()
            .into_inner();
        let import = wire::CacheOptionsEntry {
            r#type: "registry".into(),
            attrs: [("ref".to_owned(), cache.clone())].into(),
        };
        let wired = |state: &State| state.marshal(&MarshalOptions::default()).unwrap().to_wire();
        let ask = build.call(wire::SolveRequest {
            frontend: "dockerfile.v0".into(),
            frontend_inputs: [
                ("dockerfile".to_owned(), wired(&text_file("/Dockerfile", text))),
                ("context".to_owned(), wired(&text_file("/none", ""))),
            ]
            .into(),
            // Twice is once.
            cache_imports: vec![import.clone(), import],
            allow_result_return: true,
            evaluate: true,
            ..Default::default()
        });
        let result = build.bridge.solve(ask).await.unwrap().into_inner().result.unwrap();
        let Some(wire::result::Result::RefDeprecated(id)) = result.result else { panic!("{result:?}") };
        let read = wire::ReadFileRequest { r#ref: id, file_path: "/id".into(), ..Default::default() };
        let read = build.call(read);
        let read = build.bridge.read_file(read).await.unwrap().into_inner().data;
        assert_eq!(String::from_utf8(read).unwrap(), space.read("made/id"), "the step has run again");
        build.finish().await.unwrap();
        let imports = vertices(events).await.into_iter().filter(|name| name.contains("importing cache"));
        assert_eq!(imports.count(), 1);
    });
}

/// The names of a build's vertices.
async fn vertices(mut events: tonic::Streaming<StatusResponse>) -> std::collections::BTreeSet<String> {
    let mut seen = std::collections::BTreeMap::new();
    while let Some(event) = events.message().await.unwrap() {
        seen.extend(event.vertexes.into_iter().map(|vertex| (vertex.digest, vertex.name)));
    }
    seen.into_values().collect()
}

#[test]
fn a_solve_may_bring_rules_on_its_sources() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let rule = |action: PolicyAction, to: Option<&str>| sourcepolicy::Policy {
            version: 1,
            rules: vec![sourcepolicy::Rule {
                action: action.into(),
                selector: Some(sourcepolicy::Selector {
                    identifier: "docker-image://docker.io/library/*".into(),
                    ..Default::default()
                }),
                updates: to
                    .map(|to| sourcepolicy::Update { identifier: to.into(), attrs: Default::default() }),
            }],
        };
        let state = |name: &str| State::image(name, ImageOptions::default()).unwrap();
        let solve = |name: &str, policy: sourcepolicy::Policy| wire::SolveRequest {
            definition: Some(state(name).marshal(&MarshalOptions::default()).unwrap().to_wire()),
            source_policies: vec![policy],
            evaluate: true,
            ..Default::default()
        };
        let ask = build.call(solve("busybox", rule(PolicyAction::Deny, None)));
        let error = build.bridge.solve(ask).await.unwrap_err();
        assert!(error.message().contains("rule 1 (DENY"), "{error}");
        let to = "docker-image://docker.io/library/busybox:latest";
        let ask = build.call(solve("nosuch", rule(PolicyAction::Convert, Some(to))));
        build.bridge.solve(ask).await.unwrap();
        let ask = build.call(wire::ResolveImageConfigRequest {
            r#ref: "busybox".into(),
            source_policies: vec![rule(PolicyAction::Deny, None)],
            ..Default::default()
        });
        let error = build.bridge.resolve_image_config(ask).await.unwrap_err();
        assert!(error.message().contains("rule 1 (DENY"), "{error}");
        // They were of those requests only.
        build.solve(&busybox()).await.unwrap();
        build.finish().await.unwrap();
    });
}

#[test]
fn warnings_are_shown_and_a_build_returns_once() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let mut events = ControlClient::new(channel(&daemon).await)
            .status(StatusRequest { r#ref: build.id.clone() })
            .await
            .unwrap()
            .into_inner();
        let ask = build.call(wire::WarnRequest { digest: "nonsense".into(), ..Default::default() });
        assert_eq!(build.bridge.warn(ask).await.unwrap_err().code(), Code::InvalidArgument);
        let digest = rbuild_digest::Digest::of("vertex").to_string();
        let short = b"mind the gap".to_vec();
        let ask = build.call(wire::WarnRequest { digest, short, level: 1, ..Default::default() });
        build.bridge.warn(ask).await.unwrap();
        let returning = || wire::ReturnRequest { result: Some(wire::Result::default()), error: None };
        let (mut again, first, second) =
            (build.bridge.clone(), build.call(returning()), build.call(returning()));
        build.bridge.r#return(first).await.unwrap();
        // By now the build may be gone altogether.
        let code = again.r#return(second).await.unwrap_err().code();
        assert!(matches!(code, Code::InvalidArgument | Code::NotFound), "{code:?}");
        build.solve.await.unwrap().unwrap();
        let mut shown = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            shown.extend(event.warnings.into_iter().map(|warning| warning.short));
        }
        assert_eq!(shown, [b"mind the gap"]);
    });
}

#[test]
fn an_error_that_is_returned_is_the_builds() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let error =
            rbuild_api::google::rpc::Status { code: 2, message: "as I say".into(), details: Vec::new() };
        let request = build.call(wire::ReturnRequest { result: None, error: Some(error) });
        build.bridge.r#return(request).await.unwrap();
        assert_eq!(build.solve.await.unwrap().unwrap_err().message(), "as I say");
    });
}
