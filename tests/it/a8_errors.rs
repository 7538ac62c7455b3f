use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn parse_errors_name_line_and_suggestion() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    for (dockerfile, wanted) in [
        ("FORM busybox\n", &["line 1", "unknown instruction: FORM", "did you mean FROM"][..]),
        ("FROM busybox\nRUM echo\n", &["line 2", "RUM", "did you mean RUN", "Dockerfile:2"]),
        ("FROM busybox\nCOPY --form=x a b\n", &["form", "did you mean", "from"]),
        ("RUN true\n", &["no build stage"]),
        ("FROM busybox\nCOPY --from=nothere:9 /a /b\n", &["nothere"]),
        ("FROM ${BASE}\n", &["base name", "Dockerfile:1"]),
        ("", &["empty"]),
    ] {
        space.write("Dockerfile", dockerfile);
        let output = daemon.build(space.path(), &[]).failure();
        for text in wanted {
            assert!(
                output.all().to_lowercase().contains(&text.to_lowercase()),
                "`{text}` is missing for {dockerfile:?}:\n{}",
                output.all()
            );
        }
    }
}

#[test]
fn a_failing_script_of_any_size_is_told_with_its_exit_code() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let script = "echo a line of a long script > /dev/null\n".repeat(2_000);
    space.write("Dockerfile", format!("FROM busybox\nRUN <<EOF\n{script}exit 42\nEOF\n"));
    let output = daemon.build(space.path(), &[]).failure();
    output.has("did not complete").has("exit code: 42");
}

#[test]
fn a_failing_step_shows_excerpt_code_and_log_and_leaves_no_tag() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\n\nRUN echo about to fail && exit 42\n");
    let output = daemon.build(space.path(), &["-t", "test:broken"]).failure();
    let output = output.has("Dockerfile:3").has("exit code: 42").has("about to fail").has(">>> RUN echo");
    assert_eq!(output.code, Some(1));
    let images = daemon.ctl(space.path(), &["images"]).success();
    assert!(!images.all().contains("test"), "{}", images.all());
}

#[test]
fn a_required_argument_that_is_not_set_says_so() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nARG V\nENV W=\"${V:?set the version}\"\n");
    daemon.build(space.path(), &[]).failure().has("V: set the version");
}

#[test]
fn a_missing_file_in_the_context_is_named() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY nosuch /\n");
    let output = daemon.build(space.path(), &[]).failure().has("/nosuch").has("not found");
    let step = output.step("[1/1] COPY nosuch /");
    assert!(step.iter().any(|line| line.contains("ERROR")), "{}", output.all());
}

/// Each file of `golden/errors` is a Dockerfile, a rule, and what the client must print.
#[test]
fn every_error_reads_as_recorded() {
    let daemon = TestDaemon::start();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/errors");
    let mut cases: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 30, "{cases:?}");
    let mut wrong = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(&case).unwrap();
        let (dockerfile, expected) = text.split_once("=====\n").unwrap();
        let space = TestSpace::new();
        space.write("Dockerfile", dockerfile);
        let output = daemon.build(space.path(), &["-q"]).failure();
        assert_eq!(output.stdout, "", "{}", case.display());
        // The end of a step's log stands before the error; its times differ.
        let start = output.stderr.find("error[").unwrap_or(0);
        let found = output.stderr[start..].replace(&rbuild_tests::registry().host, "REGISTRY");
        if found != expected {
            wrong.push(format!("{}\nfound\n{found}expected\n{expected}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_failing_step_ends_with_its_log_in_quiet_mode_too() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo what went wrong; exit 3\n");
    let output = daemon.build(space.path(), &["-q"]).failure();
    output.has("what went wrong\n------\nerror[S001]").has("exit code: 3");
}

#[test]
fn signals_have_names() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN sh -c 'kill -SEGV $$'; exit $?\n");
    daemon.build(space.path(), &[]).failure().has("error[S004]").has("exit code 139 is signal SIGSEGV");
}

#[test]
fn a_target_that_no_stage_has_is_compared_with_those_that_there_are() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox AS build\nFROM busybox AS test\n");
    let output = daemon.build(space.path(), &["--target", "biuld"]).failure();
    output.has("error[D007]").has("did you mean build?").has("stages of this file are build, test");
}

#[test]
fn an_error_late_in_a_long_dockerfile_has_its_excerpt() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let filler =
        "# a comment that makes the file longer than what fits into a header of an answer\n".repeat(1_000);
    space.write("Dockerfile", format!("FROM busybox\n{filler}COPY --form=x a b\n"));
    daemon
        .build(space.path(), &[])
        .failure()
        .has("--> Dockerfile:1002:6")
        .has("1002 | >>> COPY --form=x a b");
}

/// A server that answers every request with these bytes.
fn answering(response: &'static str) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    #[allow(clippy::disallowed_methods, reason = "it lives as long as the test process")]
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 4096];
            // A client that hangs up early is none of its business.
            let _answered = stream.read(&mut buffer).is_ok() && stream.write_all(response.as_bytes()).is_ok();
        }
    });
    host
}

#[test]
fn registries_and_servers_that_refuse_have_codes_and_hints() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let unauthorized = answering(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let forbidden = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let shared = &rbuild_tests::registry().host;
    for (dockerfile, code, hint) in [
        (format!("FROM {shared}/no/such:1\n"), "R001", "is the name right?".to_owned()),
        (format!("FROM {unauthorized}/a:1\n"), "R002", format!("docker login {unauthorized}")),
        (format!("FROM {forbidden}/a:1\n"), "R003", "do not allow this".to_owned()),
        ("FROM 127.0.0.1:9/a:1\n".to_owned(), "R005", "nothing listens there".to_owned()),
        (format!("FROM scratch\nADD http://{forbidden}/x /\n"), "R012", "credentials".to_owned()),
    ] {
        space.write("Dockerfile", &dockerfile);
        let output = daemon.build(space.path(), &[]).failure();
        output.has(&format!("error[{code}]")).has("--> Dockerfile:").has("hint: ").has(&hint);
    }
}

#[test]
fn what_the_client_lacks_is_told_before_anything_is_built() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\n");
    for (args, code, text) in [
        (&["build", "nosuch"][..], "U005", "nosuch does not exist"),
        (&["build", "Dockerfile"], "U005", "Dockerfile is not a directory"),
        (&["build", "-f", "x/nosuch", "."], "D019", "x/nosuch"),
        (&["build", "-f", "nosuch", "."], "D019", "looked for `nosuch`"),
        (&["build", "--secret", "id=a,src=nosuch", "."], "U007", "nosuch"),
        (&["build", "-o", "type=image,name=a,nope=1", "."], "B003", "unknown attribute `nope`"),
        (&["build", "--cache-to", "type=registry,ref=a,mode=most", "."], "B005", "`mode=most`"),
        (&["solve", "--frontend", "nosuch"], "B001", "frontend `nosuch` not found"),
    ] {
        let output = daemon.ctl(space.path(), args).failure();
        assert_eq!(output.code, Some(1), "{args:?}");
        output.has(&format!("error[{code}]: ")).has(text);
    }
    let output = daemon.ctl(space.path(), &["build", "-o", "type=oci", "."]).failure();
    assert_eq!(output.code, Some(2));
    output.has("error[U001]: ").has("hint: dest=PATH");
    let nobody = space.at("nobody.sock").display().to_string();
    let output = rbuild_tests::run(
        &rbuild_tests::binary("rbuildctl").to_string_lossy(),
        &["--addr", &format!("unix://{nobody}"), "images"],
    );
    output.failure().has("error[U002]: ").has(&nobody).has("hint: is rbuildd running");
}
