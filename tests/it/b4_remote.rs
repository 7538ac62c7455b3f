use std::process::Stdio;

use rbuild_tests::{DaemonOptions, Page, TestDaemon, TestHttp, TestOutput, TestSpace, run_in};

fn packed(flags: &str) -> Vec<u8> {
    let space = TestSpace::new();
    space
        .write("Dockerfile", "FROM scratch\nCOPY data sub/ /\n")
        .write("data", "payload")
        .write("sub/x", "x");
    space.write("other", "FROM scratch\nCOPY sub /\n");
    run_in(space.path(), "tar", &[flags, "out", "Dockerfile", "other", "data", "sub"]).success();
    std::fs::read(space.at("out")).unwrap()
}

fn build(daemon: &TestDaemon, args: &[&str]) -> (TestOutput, TestSpace) {
    let (out, elsewhere) = (TestSpace::new(), TestSpace::new());
    let output = format!("type=local,dest={}", out.path().display());
    let mut all = vec!["build", "--progress=plain", "-o", &output];
    all.extend(args);
    (daemon.ctl(elsewhere.path(), &all), out)
}

#[test]
fn remote_archives_are_contexts_and_are_asked_for_once() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    for flags in ["-cf", "-czf", "-cjf", "-cJf"] {
        let url = web.put(&format!("context{flags}"), Page::Plain(packed(flags)));
        let (output, out) = build(&daemon, &[&url]);
        output.success().has("[internal] load remote build context");
        assert_eq!((out.read("data"), out.read("x")), ("payload".to_owned(), "x".to_owned()));
        let before = web.asked().len();
        let (output, _) = build(&daemon, &[&url]);
        assert!(output.success().cached("COPY data"));
        let asked = web.asked()[before..].join("\n");
        assert!(asked.contains("if-none-match") && !asked.contains("range"), "{asked}");
    }
    let url = web.put("context-cf", Page::Plain(packed("-cf")));
    let (output, out) = build(&daemon, &["-f", "other", &url]);
    output.success();
    assert_eq!(out.read("x"), "x");
}

#[test]
fn a_remote_text_is_the_dockerfile() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url =
        web.put("Dockerfile", Page::Plain(b"FROM busybox\nRUN echo made > /made\nCOPY context /\n".to_vec()));
    let (output, out) = build(&daemon, &[&url]);
    output.success();
    assert_eq!(out.read("made"), "made\n");
}

#[test]
fn the_dockerfile_of_a_remote_context_may_come_from_here() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url = web.put("c.tar.gz", Page::Plain(packed("-czf")));
    let space = TestSpace::new();
    space.write("Own", "FROM scratch\nCOPY data /own\n");
    let out = TestSpace::new();
    let output = format!("type=local,dest={}", out.path().display());
    let stdin = std::fs::File::open(space.at("Own")).unwrap();
    let args = ["build", "--progress=plain", "-o", &output, "-f-", &url];
    daemon.ctl_with(space.path(), &args, stdin).success();
    assert_eq!(out.read("own"), "payload");
    let own = space.at("Own").to_string_lossy().into_owned();
    build(&daemon, &["-f", &own, &url]).0.success().has("load build definition from Own");
}

#[test]
fn redirects_are_followed_and_files_that_break_off_are_resumed() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let bytes = packed("-cf");
    let half = bytes.len() / 2;
    let target = web.put("real.tar", Page::BreaksOff(bytes, half));
    let url = web.put("moved.tar", Page::Redirect(target));
    let (output, out) = build(&daemon, &[&url]);
    output.success();
    assert_eq!(out.read("data"), "payload");
    let asked = web.asked().join("\n");
    assert!(asked.contains(&format!("range: bytes={half}-")), "{asked}");
}

#[test]
fn servers_and_addresses_that_are_of_no_use_are_named() {
    let (mut daemon, web) = (TestDaemon::start(), TestHttp::new());
    build(&daemon, &[&web.url("missing.tar?token=hidden")])
        .0
        .failure()
        .has("missing.tar: invalid response status 404")
        .lacks("hidden");
    for closed in ["http://169.254.169.254/latest", "http://[::ffff:169.254.169.254]/"] {
        build(&daemon, &[closed]).0.failure().has("link-local addresses are closed");
    }
    let url = web.put("meta", Page::Redirect("http://169.254.169.254/latest".into()));
    build(&daemon, &[&url]).0.failure().has("not allowed");
    let loops = web.put("loop", Page::Redirect(web.url("loop")));
    build(&daemon, &[&loops]).0.failure().has("redirect");
    build(&daemon, &["ftp://example.com/x"])
        .0
        .failure()
        .has("contexts are fetched by http, https, git and ssh");
    assert!(daemon.alive());
    assert!(!daemon.log().contains("hidden"), "a query is in the log");
}

#[test]
fn a_stalled_download_ends_with_its_build() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url = web.put("slow.tar", Page::Stalls);
    let space = TestSpace::new();
    let mut command = daemon.client(space.path(), &["build", "--progress=plain", &url]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    while web.asked().is_empty() {
        std::thread::yield_now();
    }
    run_in(space.path(), "kill", &["-INT", &child.id().to_string()]).success();
    let status = child.wait().unwrap();
    assert!(!status.success());
    // Nothing of it holds up the next build.
    let plain = web.put("c.tar", Page::Plain(packed("-cf")));
    build(&daemon, &[&plain]).0.success();
}

#[test]
fn an_archive_of_nothing_is_refused() {
    let options = DaemonOptions {
        config: "[worker.oci]\nmax-unpacked-size = \"1MB\"\n".into(),
        ..DaemonOptions::default()
    };
    let (daemon, web) = (TestDaemon::start_with(options), TestHttp::new());
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY zeros /\n").write("zeros", vec![0; 40_000_000]);
    run_in(space.path(), "tar", &["-cJf", "bomb", "Dockerfile", "zeros"]).success();
    let bomb = std::fs::read(space.at("bomb")).unwrap();
    assert!(bomb.len() < 20_000, "{}", bomb.len());
    let url = web.put("bomb", Page::Plain(bomb));
    build(&daemon, &[&url]).0.failure().has("max-unpacked-size").has(&format!("archive `{url}`"));
    let fine = web.put("c.tar", Page::Plain(packed("-cf")));
    build(&daemon, &[&fine]).0.success();
}

#[test]
fn a_damaged_archive_is_named_by_its_own_url_without_secrets() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let mut cut = packed("-cf");
    cut.truncate(cut.len() / 4);
    // The same bytes from two places: each build hears of its own.
    for name in ["one.tar", "two.tar"] {
        let url = web.put(name, Page::Plain(cut.clone()));
        let secret = format!("{}?token=hidden", url.replacen("://", "://user:hidden@", 1));
        build(&daemon, &[&secret])
            .0
            .failure()
            .has(&format!("archive `{url}`"))
            .lacks("archive `/context`")
            .lacks("hidden");
        let space = TestSpace::new();
        space.write("Dockerfile", format!("FROM scratch\nADD --unpack {url} /\n"));
        daemon.build(space.path(), &[]).failure().has(&format!("archive `{url}`"));
    }
    assert!(!daemon.log().contains("hidden"), "a login or a query is in the log");
}

#[test]
fn an_archive_that_add_fetches_is_unpacked_when_asked() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url = web.put("a.tar.gz", Page::Plain(packed("-czf")));
    let text = web.put("text", Page::Plain(b"no archive".to_vec()));
    let space = TestSpace::new();
    let lines = ["--unpack", "--unpack=false", ""].map(|flag| format!("ADD {flag} {url} /{}/\n", flag.len()));
    space.write("Dockerfile", format!("FROM scratch\n{}ADD --unpack {text} /t/\n", lines.concat()));
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!((out.read("8/data"), out.read("8/sub/x")), ("payload".to_owned(), "x".to_owned()));
    for plain in ["14/a.tar.gz", "0/a.tar.gz"] {
        assert_eq!(std::fs::read(out.at(plain)).unwrap()[..2], [0x1f, 0x8b], "{plain}");
    }
    assert_eq!(out.read("t/text"), "no archive");
}
