//! Sources with their attributes: files over http, images, blobs of registries.

use std::os::unix::fs::MetadataExt as _;

use rbuild_digest::Digest;
use rbuild_llb::{Constraints, HttpOptions, ImageOptions, ImageResolveMode, LocalOptions, SourceOp, State};
use rbuild_tests::{Page, TestDaemon, TestHttp, TestSpace, registry, run};

#[test]
fn root_a_file_over_http_looks_as_asked() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url = web.put("file", Page::Plain(b"remote".to_vec()));
    let options = HttpOptions {
        checksum: Some(Digest::of("remote")),
        filename: "named".into(),
        mode: 0o640,
        uid: 3,
        gid: 4,
        ..HttpOptions::default()
    };
    let dir = daemon.solve_to_dir(&State::http(&url, options.clone()), &[]);
    assert_eq!(dir.read("named"), "remote");
    let meta = dir.at("named").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 3, 4));
    let wrong = HttpOptions { checksum: Some(Digest::of("other")), ..options.clone() };
    daemon.solve(&State::http(&url, wrong), &[]).failure().has("digest mismatch");
    let missing = State::http(&web.url("missing"), HttpOptions::default());
    daemon.solve(&missing, &[]).failure().has("404");
    let headers = [("x-custom".to_owned(), "1".to_owned())].into();
    let custom = HttpOptions { headers, ..HttpOptions::default() };
    daemon.solve(&State::http(&url, custom), &[]).failure().has("header `x-custom` cannot be set");
}

#[test]
fn root_a_secret_of_the_client_opens_a_server() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url = web.put("file", Page::Plain(b"remote".to_vec()));
    let space = TestSpace::new();
    space.write("token", "Bearer hunter2\n");
    let headers = [("accept".to_owned(), "text/x-wanted".to_owned())].into();
    let options = HttpOptions { auth_header_secret: "token".into(), headers, ..HttpOptions::default() };
    let secret = format!("--secret=id=token,src={}", space.at("token").display());
    let state = State::http(&url, options);
    let dir = daemon.solve_to_dir(&state, &[&secret]);
    assert_eq!(dir.read("file"), "remote");
    assert!(web.asked().iter().any(|asked| asked.contains("Bearer hunter2")), "{:?}", web.asked());
    assert!(!daemon.log().contains("hunter2"), "a secret is in the log");
    daemon.solve(&state, &[]).failure().has("token");
}

#[test]
fn root_an_image_is_what_its_attributes_say() {
    let daemon = TestDaemon::start();
    let host = &registry().host;
    let raw = run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &format!("docker://{host}/library/busybox:latest")],
    );
    let digest = Digest::of(raw.success().stdout.as_bytes());
    let image = |options| State::image("busybox", options).unwrap();
    let pulled = ImageOptions {
        resolve_mode: ImageResolveMode::ForcePull,
        record_type: "internal".into(),
        checksum: Some(digest),
        ..ImageOptions::default()
    };
    assert!(daemon.solve_to_dir(&image(pulled), &[]).at("bin/busybox").exists());
    let limited = |limit| image(ImageOptions { layer_limit: Some(limit), ..ImageOptions::default() });
    assert!(daemon.solve_to_dir(&limited(1), &[]).at("bin/busybox").exists());
    daemon.solve(&limited(0), &[]).failure().has("invalid layer limit 0");
    daemon.solve(&limited(9), &[]).failure().has("greater than the number of layers in the image");
    let wrong = ImageOptions { checksum: Some(Digest::of("other")), ..ImageOptions::default() };
    daemon.solve(&image(wrong), &[]).failure().has("digest mismatch");
    let missing = State::image("no-such-image", ImageOptions::default()).unwrap();
    daemon.solve(&missing, &[]).failure().has("not found");
}

/// A blob as a file.
fn blob(name: &str, attrs: &[(&str, &str)]) -> State {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    State::source(SourceOp::new(format!("docker-image+blob://{name}"), attrs), Constraints::default())
}

#[test]
fn root_a_blob_of_a_registry_is_a_file() {
    let daemon = TestDaemon::start();
    let host = &registry().host;
    let reference = format!("docker://{host}/library/busybox:latest");
    let inspected = run("skopeo", &["inspect", "--tls-verify=false", &reference]).success().stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let layer = inspected["Layers"][0].as_str().unwrap().to_owned();
    let dir = daemon.solve_to_dir(&blob(&format!("busybox@{layer}"), &[]), &[]);
    let hex = layer.trim_start_matches("sha256:");
    let meta = dir.at(hex).metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o600, 0, 0));
    assert_eq!(Digest::of(std::fs::read(dir.at(hex)).unwrap()).to_string(), layer);
    let form = [("http.filename", "named"), ("http.perm", "0640"), ("http.uid", "3"), ("http.gid", "4")];
    let dir = daemon.solve_to_dir(&blob(&format!("busybox@{layer}"), &form), &[]);
    let meta = dir.at("named").metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 3, 4));
    let refused = |state: &State, text: &str| {
        daemon.solve(state, &[]).failure().has(text);
    };
    refused(&blob("busybox:latest", &[]), "a blob is named by its digest");
    refused(&blob(&format!("busybox@{}", Digest::of("none")), &[]), "not found");
    refused(&blob(&format!("busybox@{layer}"), &[("http.filename", "../x")]), "is not a file name");
}

#[test]
fn root_a_directory_of_the_client_is_sent_as_asked() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("a/keep", "1").write("a/drop", "2").write("b/keep", "3").write("target", "4");
    std::os::unix::fs::symlink("../target", space.at("b/link")).unwrap();
    let local = format!("--local=files={}", space.path().display());
    let send = |options: LocalOptions| {
        let dir = daemon.solve_to_dir(&State::local("files", options), &[&local]);
        let mut names: Vec<_> = rbuild_tests::llb::listing(dir.path())
            .iter()
            .map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned())
            .collect();
        names.retain(|name| !name.ends_with('/'));
        names
    };
    let patterns = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let include_patterns = patterns(&["a"]);
    let exclude_patterns = patterns(&["**/drop"]);
    assert_eq!(
        send(LocalOptions { include_patterns, exclude_patterns, ..LocalOptions::default() }),
        ["a/keep 1"]
    );
    let follow_paths = patterns(&["b/link"]);
    assert_eq!(
        send(LocalOptions { follow_paths, ..LocalOptions::default() }),
        ["b/link -> ../target", "target 4"]
    );
    let unknown = State::local("other", LocalOptions::default());
    daemon.solve(&unknown, &[&local]).failure().has("other");
    let scheme = SourceOp::new("gopher://x", [].into());
    daemon.solve(&State::source(scheme, Constraints::default()), &[]).failure().has("`gopher://`");
}
