//! Cache between daemons: what one has built, another that never saw it does not build again.

use rbuild_tests::{TestDaemon, TestOutput, TestRegistry, TestSpace, registry};

const STEPS: [&str; 6] =
    ["WORKDIR /w", "COPY x.txt", "RUN cat x.txt", "COPY src", "RUN --mount=type=bind", "RUN echo one"];
/// In the build's result itself: its cache is that of the last stage.
const LAST: [&str; 2] = ["RUN echo one", "COPY --from=build"];

fn project() -> TestSpace {
    let space = TestSpace::new();
    space.write("x.txt", "x").write("src/a", "a").write("src/sub/b", "b");
    space.write(
        "Dockerfile",
        "FROM busybox AS build\nWORKDIR /w\nCOPY x.txt /w/\nRUN cat x.txt > y && echo $RANDOM > random\n\
         COPY src /w/src\nRUN --mount=type=bind,source=src,target=/mnt ls /mnt > list\n\
         FROM busybox AS last\nRUN echo one > /one\nCOPY --from=build /w/y /w/list /w/random /out/\n",
    );
    space
}

/// Builds into a directory on a daemon that has nothing, importing `cache`.
fn cold(space: &TestSpace, cache: &str, more: &[&str]) -> (TestOutput, String) {
    let daemon = TestDaemon::start();
    let out = TestSpace::new();
    let dest = format!("type=local,dest={}", out.at("o").display());
    let mut args = vec!["--cache-from", cache, "-o", &dest];
    args.extend(more);
    let built = daemon.build(space.path(), &args).success();
    (built, out.read("o/out/random"))
}

fn all_cached(built: &TestOutput, steps: &[&str]) {
    for step in steps {
        assert!(built.cached(step), "{step} ran: {}", built.all());
    }
}

fn warm(space: &TestSpace, cache: &str) -> String {
    let daemon = TestDaemon::start();
    let out = TestSpace::new();
    let dest = format!("type=local,dest={}", out.at("o").display());
    daemon.build(space.path(), &["--cache-to", cache, "-o", &dest]).success();
    out.read("o/out/random")
}

#[test]
fn a_cold_daemon_with_a_warm_registry_cache_runs_nothing() {
    let space = project();
    let name = format!("{}/c6/all:cache", registry().host);
    let random = warm(&space, &format!("type=registry,ref={name},mode=max"));
    let (built, found) = cold(&space, &format!("type=registry,ref={name}"), &[]);
    all_cached(&built, &STEPS);
    all_cached(&built, &LAST);
    assert_eq!(found, random, "the result is the first daemon's, not another like it");
    assert!(built.all().contains(&format!("importing cache manifest from {name}")), "{}", built.all());
}

#[test]
fn a_cache_in_a_directory_goes_through_the_client() {
    let space = project();
    let dir = TestSpace::new();
    let at = dir.at("cache").display().to_string();
    for shape in ["image-manifest=true", "image-manifest=false,tag=other", "oci-mediatypes=false,reset=true"]
    {
        let random = warm(&space, &format!("type=local,dest={at},mode=max,{shape}"));
        let tag = if shape.contains("tag=") { ",tag=other" } else { "" };
        let (built, found) = cold(&space, &format!("type=local,src={at}{tag}"), &[]);
        all_cached(&built, &STEPS);
        assert_eq!(found, random, "{shape}");
    }
}

#[test]
fn a_cache_in_the_image_covers_the_layers_of_the_image() {
    let space = project();
    let name = format!("{}/c6/inline:1", registry().host);
    let daemon = TestDaemon::start();
    let output = format!("type=registry,name={name}");
    daemon.build(space.path(), &["--cache-to", "type=inline", "-o", &output]).success();
    let (built, _) = cold(&space, &name, &[]);
    all_cached(&built, &LAST);
    all_cached(&built, &STEPS);
    // Once the last stage has to run, its first stage's files are needed, and they are in no layer of the image.
    let (built, _) = cold(&space, &name, &["--no-cache-filter", "last"]);
    assert!(!built.cached("RUN cat x.txt"), "{}", built.all());
}

#[test]
fn a_build_that_found_everything_elsewhere_exports_it_all_the_same() {
    let space = project();
    let (first, second) =
        (format!("{}/c6/hand:1", registry().host), format!("{}/c6/hand:2", registry().host));
    let random = warm(&space, &format!("type=registry,ref={first},mode=max"));
    let to = format!("type=registry,ref={second},mode=max");
    let (built, _) = cold(&space, &first, &["--cache-to", &to]);
    all_cached(&built, &STEPS);
    // Another last step: the steps before it must be found one by one.
    space.write("Dockerfile", format!("{}RUN echo new\n", space.read("Dockerfile")));
    let (built, found) = cold(&space, &second, &[]);
    all_cached(&built, &STEPS);
    all_cached(&built, &LAST);
    assert!(!built.cached("RUN echo new"));
    assert_eq!(found, random);
}

#[test]
fn layers_are_sent_once_and_pulled_only_if_the_output_needs_them() {
    let space = project();
    let registry = TestRegistry::start();
    let name = format!("{}/c6/lazy:1", registry.host);
    let first = TestDaemon::start();
    let to = format!("type=registry,ref={name},mode=max");
    first.build(space.path(), &["--cache-to", &to]).success();
    let second = TestDaemon::start();
    let out = TestSpace::new();
    let dest = format!("type=local,dest={}", out.at("o").display());
    second.build(space.path(), &["--cache-from", &name, "-o", &dest]).success();
    let blobs = std::fs::read_dir(second.root().join("content/blobs/sha256")).unwrap().count();
    // The base, `echo one` and the last COPY of eight layers; the base image's manifest and config.
    assert!(blobs <= 6, "{blobs} blobs were fetched");
}

#[test]
fn what_changed_runs_and_what_did_not_is_found_by_content() {
    let space = project();
    let name = format!("{}/c6/part:1", registry().host);
    warm(&space, &format!("type=registry,ref={name},mode=max"));
    space.write("src/a", "changed").write("unrelated", "new");
    let (built, _) = cold(&space, &name, &[]);
    all_cached(&built, &["WORKDIR /w", "COPY x.txt", "RUN cat x.txt", "RUN echo one"]);
    assert!(!built.cached("COPY src"), "{}", built.all());
}

#[test]
fn blobs_that_vanished_and_damaged_documents_cost_a_step_and_never_the_build() {
    let space = project();
    let dir = TestSpace::new();
    let at = dir.at("cache");
    warm(&space, &format!("type=local,dest={},mode=max", at.display()));
    let from = format!("type=local,src={}", at.display());
    let blobs: Vec<_> =
        std::fs::read_dir(at.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let text = |path: &std::path::Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let document = blobs.iter().find(|path| text(path).starts_with("{\"layers\"")).unwrap();
    let manifest = blobs.iter().find(|path| text(path).contains("schemaVersion")).unwrap();
    for blob in blobs.iter().filter(|path| *path != document && *path != manifest) {
        std::fs::remove_file(blob).unwrap();
    }
    let (built, _) = cold(&space, &from, &[]);
    assert!(!built.cached("RUN cat x.txt"), "{}", built.all());
    std::fs::write(document, "{\"layers\":[").unwrap();
    let (built, _) = cold(&space, &from, &[]);
    assert!(
        !built.cached("RUN cat x.txt") && built.all().contains("failed to import cache"),
        "{}",
        built.all()
    );
}

#[test]
fn a_cache_that_is_not_there_is_a_warning_and_nothing_is_waited_for() {
    let space = project();
    let daemon = TestDaemon::start();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Takes connections and never answers.
    let silent = format!("{}/c6/silent:1", nowhere.local_addr().unwrap());
    let missing = format!("{}/c6/missing:1", registry().host);
    let args = ["--cache-from", "127.0.0.1:1/none", "--cache-from", &silent, "--cache-from", &missing];
    let built = daemon.build(space.path(), &args).success();
    assert_eq!(built.all().matches("failed to import cache").count(), 3, "{}", built.all());
    assert!(!built.cached("RUN cat x.txt"));
    let again = daemon.build(space.path(), &args).success();
    all_cached(&again, &STEPS);
}

#[test]
fn exports_that_make_no_sense_are_refused_before_anything_runs() {
    let space = project();
    let daemon = TestDaemon::start();
    for (spec, word) in [
        ("type=registry", "ref"),
        ("type=registry,ref=127.0.0.1:1/x,mode=mid", "mode"),
        ("type=registry,ref=127.0.0.1:1/x,what=1", "what"),
        ("type=registry,ref=127.0.0.1:1/x,image-manifest=true,oci-mediatypes=false", "image-manifest"),
    ] {
        let refused = daemon.build(space.path(), &["--cache-to", spec]).failure();
        assert!(refused.all().contains(word) && !refused.all().contains("RUN"), "{}", refused.all());
    }
    let to = "type=registry,ref=127.0.0.1:1/x";
    daemon.build(space.path(), &["--cache-to", &format!("{to},ignore-error=true")]).success();
    daemon.build(space.path(), &["--cache-to", to]).failure();
}
