//! Repositories that mean harm: the rows G of the list of threats.
use rbuild_tests::{DaemonOptions, TestDaemon, TestGit, TestRepo};

use crate::b3_git::{build, sample, try_build};

/// Mode, name and content of a file of a tree.
type Entry = (&'static str, &'static str, String);

#[test]
fn hostile_repositories_reach_nothing_outside() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let dockerfile = ("100644", "Dockerfile", "FROM scratch\nCOPY . /\n");
    let module = |url: &str| {
        format!("[submodule \"m\"]\n\tpath = m\n\turl = {url}\n\tupdate = !touch /rbuild-canary\n")
    };
    let link = ("120000", "out", "/etc");
    let cases: [(&str, Vec<Entry>, &str, &str); 6] = [
        ("symlinked subdirectory", vec![(link.0, link.1, link.2.into())], "#main:out", "non-directory"),
        ("missing subdirectory", vec![], "#main:none", "no such file or directory"),
        (".git as a file", vec![("100644", ".git", "gitdir: /x".into())], "", "git"),
        (
            "command as a submodule",
            vec![("100644", ".gitmodules", module("ext::sh -c touch% /rbuild-canary"))],
            "",
            "it is not the address of a repository",
        ),
        (
            "local file as a submodule",
            vec![("100644", ".gitmodules", module("file:///etc"))],
            "",
            "expected http, https, ssh or git",
        ),
        (
            "option as a submodule",
            vec![("100644", ".gitmodules", module("-u./x"))],
            "",
            "it is not the address of a repository",
        ),
    ];
    for (number, (name, entries, rest, message)) in cases.iter().enumerate() {
        let repo = TestRepo::new();
        let mut tree = vec![dockerfile];
        tree.extend(entries.iter().map(|(mode, name, content)| (*mode, *name, content.as_str())));
        repo.commit_tree(&tree);
        if name.ends_with("submodule") {
            let commit = repo.git(&["rev-parse", "HEAD"]);
            repo.git(&["read-tree", "HEAD"]);
            repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},m")]);
            let tree = repo.git(&["write-tree"]);
            let commit = repo.git(&["commit-tree", "-m", "x", &tree]);
            repo.git(&["update-ref", "refs/heads/main", &commit]);
        }
        let file = format!("{number}.git");
        server.publish(&repo, &file);
        let (output, _) = try_build(&daemon, &format!("{}{rest}", server.url(&file)), &[]);
        assert!(output.all().contains(message), "{name}: {}", output.all());
        output.failure();
    }
    assert!(!std::path::Path::new("/rbuild-canary").exists());
    // The server's own word for its default branch is not believed.
    let (repo, ..) = sample();
    server.publish(&repo, "head.git");
    let evil = server.path("head.git/refs/heads/--upload-pack=x");
    std::fs::write(&evil, repo.git(&["rev-parse", "HEAD"])).unwrap();
    std::fs::write(server.path("head.git/HEAD"), "ref: refs/heads/--upload-pack=x\n").unwrap();
    let (_, out) = build(&daemon, &server.url("head.git"), &[]);
    assert_eq!(out.read("who"), "two");
}

#[test]
fn names_that_mean_git_are_refused_in_every_directory() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let repo = TestRepo::new();
    let config = repo.tree(&[("100644", "config", "[core]\n\tfsmonitor = touch /rbuild-canary\n")]);
    let hooks = repo.tree(&[("100755", "post-checkout", "#!/bin/sh\ntouch /rbuild-canary\n")]);
    let dir = repo.tree(&[
        ("100644", "HEAD", "ref: refs/heads/main\n"),
        ("100644", "config", "[core]\n\tfsmonitor = touch /rbuild-canary\n"),
        ("040000", "hooks", &hooks),
        ("040000", "objects", &config),
    ]);
    let dockerfile = ("100644", "Dockerfile", "FROM scratch\nCOPY . /\n");
    // The second is the first where case does not count, the others where parts of names do not.
    for (number, name) in [".git", ".GIT", ".Git", "git~1", ".g\u{200c}it", ".git "].into_iter().enumerate() {
        let nested = repo.tree(&[("040000", name, &dir)]);
        for (place, entries) in [
            ("nested", [dockerfile, ("040000", "sub", nested.as_str())]),
            ("above", [dockerfile, ("040000", name, dir.as_str())]),
            ("link", [dockerfile, ("120000", name, "/etc")]),
        ] {
            repo.commit_tree(&entries);
            let file = format!("{place}{number}.git");
            server.publish(&repo, &file);
            let (output, out) = try_build(&daemon, &server.url(&file), &[]);
            assert!(output.all().contains("invalid path"), "{place} {name}: {}", output.all());
            output.failure();
            assert!(!out.at("sub").exists());
        }
    }
    assert!(!std::path::Path::new("/rbuild-canary").exists());
}

#[test]
fn what_a_repository_says_about_git_is_a_file_like_others() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let repo = TestRepo::new();
    let touch = "touch /rbuild-canary";
    let hook = format!("#!/bin/sh\n{touch}\n");
    // A bare repository as a directory: what git would take for its own if it looked.
    let hooks = repo.tree(&[("100755", "post-checkout", hook.as_str())]);
    let none = repo.tree(&[("100644", "x", "")]);
    let settings =
        format!("[core]\n\tbare = false\n\tworktree = .\n\tfsmonitor = {touch}\n\tsshCommand = {touch}\n");
    let bare = repo.tree(&[
        ("100644", "HEAD", "ref: refs/heads/main\n"),
        ("100644", "config", settings.as_str()),
        ("040000", "hooks", &hooks),
        ("040000", "objects", &none),
        ("040000", "refs", &none),
    ]);
    repo.commit_tree(&[
        ("100644", "Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("100644", ".gitattributes", "* filter=evil export-subst\nident ident text eol=crlf\n"),
        ("100644", ".gitconfig", settings.as_str()),
        ("100644", "ident", "$Id$\nline\n"),
        ("100755", "post-checkout", hook.as_str()),
        ("040000", "bare", &bare),
        ("040000", "hooks", &hooks),
    ]);
    server.publish(&repo, "r.git");
    for keep in ["0", "1"] {
        let keep = format!("BUILDKIT_CONTEXT_KEEP_GIT_DIR={keep}");
        let (_, out) = build(&daemon, &server.url("r.git"), &["--build-arg", &keep]);
        assert_eq!(out.read("bare/config"), settings);
        assert_eq!(out.read("hooks/post-checkout"), hook);
        // What git does without a program is done as everywhere.
        let ident = out.read("ident");
        assert!(ident.starts_with("$Id: ") && ident.ends_with(" $\r\nline\r\n"), "{ident:?}");
    }
    assert!(!std::path::Path::new("/rbuild-canary").exists());
}

#[test]
fn submodules_cannot_be_placed_outside() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (inner, ..) = sample();
    server.publish(&inner, "inner.git");
    for (number, path) in
        ["../m", "a/../../m", "/tmp/m", ".git/hooks", "a/.GIT/x", "-m", "link/m"].into_iter().enumerate()
    {
        let repo = TestRepo::new();
        repo.space.write("Dockerfile", "FROM scratch\nCOPY . /\n").write("a/f", "x");
        std::os::unix::fs::symlink("/tmp", repo.space.at("link")).unwrap();
        let module = format!("[submodule \"m\"]\n\tpath = {path}\n\turl = ../inner.git\n");
        repo.space.write(".gitmodules", module);
        repo.commit("outer");
        let file = format!("outer{number}.git");
        server.publish(&repo, &file);
        let (output, out) = try_build(&daemon, &server.url(&file), &[]);
        match path {
            // There is no such commit in the tree: git could not even write one behind a link.
            "link/m" => assert!(output.success().all().contains("DONE") && !out.at("m/who").exists()),
            _ => drop(output.failure().has("submodule")),
        }
    }
}

#[test]
fn a_default_branch_that_is_not_there_is_told() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let (repo, ..) = sample();
    server.publish(&repo, "r.git");
    std::fs::write(server.path("r.git/HEAD"), "ref: refs/heads/nowhere\n").unwrap();
    let (output, _) = try_build(&daemon, &server.url("r.git"), &[]);
    output.failure().has("has no default branch: name a ref");
    let (_, out) = build(&daemon, &format!("{}#main", server.url("r.git")), &[]);
    assert_eq!(out.read("who"), "two");
}

#[test]
fn repositories_have_a_limit_to_their_size() {
    let daemon = TestDaemon::start_with(DaemonOptions {
        config: "[worker.oci]\nmax-repository-size = \"1MiB\"\n".into(),
        ..DaemonOptions::default()
    });
    let server = TestGit::start();
    let dockerfile = "FROM scratch\nCOPY . /\n";
    let publish = |name: &str, content: Vec<u8>| {
        let repo = TestRepo::new();
        repo.space.write("Dockerfile", dockerfile).write("f", content);
        repo.commit("one");
        server.publish(&repo, name);
        server.url(name)
    };
    let fits = publish("fits.git", vec![0; 900_000]);
    build(&daemon, &fits, &[]);
    // Small as it travels, large as it is checked out.
    let zeros = publish("zeros.git", vec![0; 2_000_000]);
    let (output, _) = try_build(&daemon, &zeros, &[]);
    output.failure().has("max-repository-size").has("checked out");
    // Large as it travels.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(3_000_000)
    .collect();
    let large = publish("large.git", noise);
    let (output, _) = try_build(&daemon, &large, &[]);
    output.failure().has("max-repository-size");
}

#[test]
fn trees_that_stand_for_millions_of_files_are_refused() {
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let repo = TestRepo::new();
    let names: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    let mut tree = repo.tree(&names.iter().map(|name| ("100644", name.as_str(), "")).collect::<Vec<_>>());
    for _ in 0..8 {
        tree =
            repo.tree(&names.iter().map(|name| ("040000", name.as_str(), tree.as_str())).collect::<Vec<_>>());
    }
    repo.commit_tree(&[("100644", "Dockerfile", "FROM scratch\nCOPY . /\n"), ("040000", "bomb", &tree)]);
    server.publish(&repo, "bomb.git");
    let (output, _) = try_build(&daemon, &server.url("bomb.git"), &[]);
    output.failure().has("more files than the daemon checks out");
}
