use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rbuild_tests::{GitServerOptions, TestDaemon, TestGit, TestRepo, TestSpace};

/// Files, links, a tag, a branch, a pull request; what `COPY .` makes of it tells which commit it was.
pub(crate) fn sample() -> (TestRepo, String, String) {
    let repo = TestRepo::new();
    repo.space.write("Dockerfile", "FROM scratch\nCOPY . /\n").write("who", "one").write("d/e/f", "x");
    repo.space.write("d/Dockerfile", "FROM scratch\nCOPY e /in-d\n");
    symlink("d", repo.space.at("link")).unwrap();
    repo.space.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(repo.space.at("run.sh"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let first = repo.commit("one");
    repo.git(&["tag", "light"]);
    repo.git(&["tag", "-a", "-m", "t", "annotated"]);
    repo.git(&["update-ref", "refs/pull/42/head", &first]);
    repo.space.write("who", "two");
    let second = repo.commit("two");
    (repo, first, second)
}

pub(crate) fn build(
    daemon: &TestDaemon,
    context: &str,
    args: &[&str],
) -> (rbuild_tests::TestOutput, TestSpace) {
    let (output, out) = try_build(daemon, context, args);
    (output.success(), out)
}

pub(crate) fn try_build(
    daemon: &TestDaemon,
    context: &str,
    args: &[&str],
) -> (rbuild_tests::TestOutput, TestSpace) {
    let out = TestSpace::new();
    let here = TestSpace::new();
    let dest = format!("type=local,dest={}", out.path().display());
    let mut all = vec!["build", "--progress=plain", "-o", &dest];
    all.extend(args);
    all.push(context);
    (daemon.ctl(here.path(), &all), out)
}

#[test]
fn every_way_to_name_a_commit_leads_to_it() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, first, second) = sample();
    server.publish(&repo, "r.git");
    let url = server.url("r.git");
    for (rest, who) in [
        ("", "two"),
        ("#main", "two"),
        ("#refs/heads/main", "two"),
        ("#light", "one"),
        ("#annotated", "one"),
        ("#pull/42/head", "one"),
        (&format!("#{first}"), "one"),
        (&format!("?branch=main&checksum={second}"), "two"),
        ("?tag=light", "one"),
    ] {
        let (output, out) = build(&daemon, &format!("{url}{rest}"), &[]);
        assert_eq!(out.read("who"), who, "{rest}");
        output.has(&format!("[internal] load git source {url}{rest}"));
        assert!(!out.at(".git").exists());
    }
    let (_, out) = build(&daemon, &format!("{url}#:d"), &[]);
    assert_eq!(out.read("in-d/f"), "x");
    assert_eq!(std::fs::metadata(out.at("in-d/f")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn a_checkout_looks_as_it_does_everywhere() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, _, second) = sample();
    server.publish(&repo, "r.git");
    let url = server.url("r.git");
    let (_, out) = build(&daemon, &url, &[]);
    let mode = |name: &str| std::fs::symlink_metadata(out.at(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("run.sh"), mode("who"), mode("d")), (0o755, 0o644, 0o755));
    assert_eq!(std::fs::read_link(out.at("link")).unwrap().to_str(), Some("d"));
    // Another commit: files of the same content would be those of the build before, as times do not count.
    let (_, out) = build(&daemon, &format!("{url}?ref=light&mtime=commit"), &[]);
    assert_eq!(std::fs::metadata(out.at("d/e/f")).unwrap().mtime(), 1_577_934_245);
    let (_, out) = build(&daemon, &url, &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]);
    let dir = out.path().to_str().unwrap();
    let git = |args: &[&str]| {
        let mut all = vec!["-c", "safe.directory=*", "-C", dir];
        all.extend(args);
        rbuild_tests::run("git", &all).success().stdout.trim().to_owned()
    };
    assert_eq!(git(&["rev-parse", "HEAD"]), second);
    assert_eq!(git(&["remote", "get-url", "origin"]), url);
    assert_eq!(git(&["rev-list", "--count", "HEAD"]), "1");
}

#[test]
fn submodules_come_along_unless_they_are_not_wanted() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let inner = TestRepo::new();
    inner.space.write("inner", "deep");
    let commit = inner.commit("inner");
    server.publish(&inner, "inner.git");
    let repo = TestRepo::new();
    repo.space.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    repo.space.write(".gitmodules", "[submodule \"m\"]\n\tpath = a/m\n\turl = ../inner.git\n");
    repo.git(&["add", "-A"]);
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},a/m")]);
    repo.git(&["commit", "-q", "-m", "outer"]);
    server.publish(&repo, "outer.git");
    let url = server.url("outer.git");
    let (_, out) = build(&daemon, &url, &[]);
    assert_eq!(out.read("a/m/inner"), "deep");
    let (_, out) = build(&daemon, &format!("{url}?submodules=false"), &[]);
    assert!(out.at("a/m").is_dir() && !out.at("a/m/inner").exists());
}

#[test]
fn secrets_open_private_repositories_and_go_nowhere_else() {
    let token = "t0ken-canary";
    // x-access-token:t0ken-canary
    let authorization = "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4tY2FuYXJ5".to_owned();
    let daemon = TestDaemon::start();
    let other = TestGit::start();
    let server = TestGit::start_with(GitServerOptions {
        authorization: Some(authorization.clone()),
        ..GitServerOptions::default()
    });
    let (repo, ..) = sample();
    server.publish(&repo, "r.git");
    let url = server.url("r.git");
    let (output, _) = try_build(&daemon, &url, &[]);
    output.failure().has("GIT_AUTH_TOKEN");
    let space = TestSpace::new();
    space.write("token", token);
    let secret = |id: &str| format!("--secret=id={id},src={}", space.at("token").display());
    let (output, out) = build(&daemon, &url, &[&secret("GIT_AUTH_TOKEN")]);
    assert_eq!(out.read("who"), "two");
    output.lacks(token).lacks(&authorization[6..]);
    let (_, out) = build(&daemon, &format!("{url}#light"), &[&secret("GIT_AUTH_TOKEN.127.0.0.1")]);
    assert_eq!(out.read("who"), "one");
    assert!(!daemon.log().contains(token) && !daemon.log().contains(&authorization[6..]));

    // A submodule at another host, and a redirect there: neither gets the secret.
    other.publish(&repo, "r.git");
    let outer = TestRepo::new();
    outer.space.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    let elsewhere = other.url("r.git");
    outer.space.write(".gitmodules", format!("[submodule \"m\"]\n\tpath = m\n\turl = {elsewhere}\n"));
    outer.git(&["add", "-A"]);
    let head = repo.git(&["rev-parse", "HEAD"]);
    outer.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},m")]);
    outer.git(&["commit", "-q", "-m", "outer"]);
    server.publish(&outer, "outer.git");
    let (_, out) = build(&daemon, &server.url("outer.git"), &[&secret("GIT_AUTH_TOKEN")]);
    assert_eq!(out.read("m/who"), "two");
    let moved = TestGit::start_with(GitServerOptions {
        redirect: Some(other.host.clone()),
        ..GitServerOptions::default()
    });
    let (output, _) = try_build(&daemon, &moved.url("r.git"), &[&secret("GIT_AUTH_TOKEN")]);
    output.failure();
    assert!(moved.requests().iter().any(|request| request.authorization.is_some()));
    assert!(other.requests().iter().all(|request| request.authorization.is_none()));
    assert!(other.requests().iter().any(|request| request.target.contains("git-upload-pack")));
}

#[test]
fn pointers_and_filters_are_files_like_others() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let repo = TestRepo::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    repo.commit_tree(&[
        ("100644", "Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("100644", ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n"),
        ("100644", "a.bin", pointer),
    ]);
    server.publish(&repo, "lfs.git");
    let (_, out) = build(&daemon, &server.url("lfs.git"), &[]);
    assert_eq!(out.read("a.bin"), pointer);
}

#[test]
fn what_is_not_there_is_named() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, first, _) = sample();
    server.publish(&repo, "r.git");
    let url = server.url("r.git");
    let wrong = format!("?ref=main&checksum={first}");
    let nowhere = format!("#{}", "a".repeat(40));
    for (rest, message) in [
        ("#nope", "repository does not contain ref nope"),
        (wrong.as_str(), "expected checksum to match"),
        ("?foo=bar", "unexpected query"),
        (nowhere.as_str(), "aaaaaaaa"),
        ("#main:../x", "subdir"),
        ("#-x", "invalid git ref"),
    ] {
        let (output, _) = try_build(&daemon, &format!("{url}{rest}"), &[]);
        output.failure().has(message);
    }
}

#[test]
fn a_repository_is_fetched_once_and_listed() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, ..) = sample();
    server.publish(&repo, "r.git");
    let url = server.url("r.git");
    let packs =
        || server.requests().iter().filter(|request| request.target == "/r.git/git-upload-pack").count();
    build(&daemon, &url, &[]);
    let before = packs();
    let (output, _) = build(&daemon, &url, &[]);
    assert!(output.cached("COPY . /"), "{}", output.all());
    // Only the list of refs is asked for again.
    assert_eq!(packs(), before + 1);
    let here = TestSpace::new();
    daemon
        .ctl(here.path(), &["du", "--verbose"])
        .success()
        .has("shared git repo for")
        .has("source.git.checkout");
    daemon.ctl(here.path(), &["prune", "--all"]).success();
    daemon.ctl(here.path(), &["du", "--verbose"]).success().lacks("shared git repo for");
    build(&daemon, &url, &[]);
}

/// Files of the name below `dir`: inode and number of names.
fn inodes(dir: &std::path::Path, name: &str, found: &mut Vec<(u64, u64)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            inodes(&entry.path(), name, found);
        } else if entry.file_name() == name {
            found.push((meta.ino(), meta.nlink()));
        }
    }
}

#[test]
fn what_copy_takes_unchanged_of_a_checkout_is_not_written_again() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let repo = TestRepo::new();
    repo.space.write("Dockerfile", "FROM scratch\nCOPY kept /\nCOPY --chown=7 changed /\n");
    repo.space.write("kept/rbuild-kept", "x").write("changed/rbuild-changed", "y");
    repo.commit("one");
    server.publish(&repo, "r.git");
    let (_, out) = build(&daemon, &server.url("r.git"), &[]);
    assert_eq!((out.read("rbuild-kept"), out.read("rbuild-changed")), ("x".into(), "y".into()));
    let mut kept = Vec::new();
    inodes(&daemon.root(), "rbuild-kept", &mut kept);
    assert_eq!(kept.len(), 2, "in the checkout and in the step's layer: {kept:?}");
    assert!(kept[0] == kept[1] && kept[0].1 == 2, "{kept:?}");
    let mut changed = Vec::new();
    inodes(&daemon.root(), "rbuild-changed", &mut changed);
    assert!(changed.len() == 2 && changed.iter().all(|(_, names)| *names == 1), "{changed:?}");
}

#[test]
fn a_cancelled_build_ends_its_git() {
    let mut daemon = TestDaemon::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/r.git", listener.local_addr().unwrap());
    let here = TestSpace::new();
    let mut client = daemon.client(here.path(), &["build", "--progress=plain", &url]).spawn().unwrap();
    // Git is there, and waits for an answer that never comes.
    let (mut stream, _) = listener.accept().unwrap();
    let mut first = [0; 3];
    stream.read_exact(&mut first).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    client.wait().unwrap();
    // The end of the connection is the end of the process that held it.
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    stream.read_to_end(&mut rest).unwrap();
    assert!(daemon.alive());
}

#[test]
fn a_ref_that_is_not_there_is_named() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, ..) = sample();
    server.publish(&repo, "r.git");
    for name in ["nowhere", "refs/heads/nowhere", "0123456789012345678901234567890123456789"] {
        let (output, _) = try_build(&daemon, &format!("{}#{name}", server.url("r.git")), &[]);
        output.failure().has("error[R014]: ").has(name).lacks("Dockerfile");
    }
}

#[test]
fn add_of_a_repository_takes_the_commit_that_was_promised() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, first, second) = sample();
    let tag = repo.git(&["rev-parse", "annotated"]);
    server.publish(&repo, "r.git");
    let url = server.url("r.git");
    let space = TestSpace::new();
    // A tag is as good as its commit, and the beginning of an id as good as all of it.
    for (sum, name, who) in [
        (second.as_str(), "main", "two"),
        (&first, "annotated", "one"),
        (&tag, "annotated", "one"),
        (&second[..10], "main", "two"),
    ] {
        space.write("Dockerfile", format!("FROM scratch\nADD --checksum={sum} {url}#{name} /r/\n"));
        let (_, out) = daemon.build_to_dir(space.path(), &[]);
        assert_eq!(out.read("r/who"), who, "{sum} {name}");
    }
    space.write("Dockerfile", format!("FROM scratch\nADD --checksum={first} {url}#main /r/\n"));
    daemon.build(space.path(), &[]).failure().has("expected checksum to match");
}
