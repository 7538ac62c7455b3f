use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn environment_user_workdir_shell_and_arguments() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "ARG BASE=busybox\nFROM ${BASE}\nARG NAME=world\nENV GREETING=hello PATH2=${NAME:-x}/bin\nWORKDIR /w\n\
         RUN echo $GREETING ${NAME} > greeting && pwd > where\nUSER user\nRUN id -u > /tmp/uid && id -g >> /tmp/uid\nUSER 0\n\
         SHELL [\"/bin/sh\", \"-ec\"]\nRUN false || echo shell > /w/shell\nRUN [\"/bin/touch\", \"/w/exec form\"]\n\
         RUN echo $HOME $PATH2 > env\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &["--build-arg", "NAME=you"]);
    assert_eq!(out.read("w/greeting"), "hello you\n");
    assert_eq!(out.read("w/where"), "/w\n");
    assert_eq!(out.read("tmp/uid"), "1000\n1000\n");
    assert_eq!(out.read("w/env"), "/root you/bin\n");
    assert!(out.at("w/exec form").exists() && out.at("w/shell").exists());
}

#[test]
fn heredocs_in_run_and_copy() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "FROM busybox\nENV X=1\nRUN <<EOF\necho a > /a\necho $X >> /a\nEOF\nCOPY <<one <<'two' /files/\nvalue $X\none\nvalue $X\ntwo\nRUN cat <<EOF > /b\nplain\nEOF\n\
         RUN cat << EOF > /c\nspaced\nEOF\nRUN << 'EOF'\necho \"$((1 << 2))\" > /d\nEOF\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("a"), "a\n1\n");
    assert_eq!(out.read("files/one"), "value 1\n");
    assert_eq!(out.read("files/two"), "value $X\n");
    assert_eq!(out.read("b"), "plain\n");
    assert_eq!(out.read("c"), "spaced\n");
    assert_eq!(out.read("d"), "4\n");
}

#[test]
fn every_kind_of_run_mount() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("context-file", "from the context").write("secret.txt", "hush");
    space.write(
        "Dockerfile",
        "FROM busybox AS other\nRUN echo stage > /from-stage\nFROM busybox\n\
         RUN --mount=type=bind,target=/ctx cat /ctx/context-file > /bind && ! touch /ctx/x 2>/dev/null\n\
         RUN --mount=type=bind,from=other,source=/from-stage,target=/s cat /s > /stage\n\
         RUN --mount=type=bind,target=/rw,rw touch /rw/x && ls /rw/x > /rwls\n\
         RUN --mount=type=tmpfs,target=/t,size=1m echo x > /t/x && stat -f -c %T /t > /tmpfs && ! dd if=/dev/zero of=/t/big bs=1k count=2048 2>/dev/null\n\
         RUN --mount=type=secret,id=s cat /run/secrets/s > /secret-len && wc -c < /run/secrets/s > /secret && rm /secret-len && stat -c %a:%u /run/secrets/s > /mode\n\
         RUN --mount=type=secret,id=s,env=HUSH test \"$HUSH\" = hush && echo ok > /env\n\
         RUN --mount=type=secret,id=none,target=/n test ! -e /n && echo absent > /optional\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &["--secret", "id=s,src=secret.txt"]);
    assert_eq!(out.read("bind"), "from the context");
    assert_eq!(out.read("stage"), "stage\n");
    assert_eq!(out.read("rwls"), "/rw/x\n");
    assert_eq!(out.read("tmpfs"), "tmpfs\n");
    assert_eq!(out.read("secret").trim(), "4");
    assert_eq!(out.read("mode"), "400:0\n");
    assert_eq!(out.read("env"), "ok\n");
    assert_eq!(out.read("optional"), "absent\n");
    for stub in ["ctx", "s", "rw", "t", "n", "run/secrets"] {
        assert!(!out.at(stub).exists(), "the mount point /{stub} was left in the image");
    }
    let missing = "FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n";
    space.write("Dockerfile", missing);
    daemon.build(space.path(), &[]).failure().has("none");
}

#[test]
fn secrets_are_written_nowhere() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("secret.txt", "canary-7f3a9c");
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s | md5sum > /sum\n",
    );
    let built =
        daemon.build(space.path(), &["--secret", "id=s,src=secret.txt", "-t", "test:canary"]).success();
    assert!(!built.all().contains("canary-7f3a9c"));
    let found = rbuild_tests::run("grep", &["-rl", "canary-7f3a9c", &daemon.root().to_string_lossy()]);
    assert_eq!(found.stdout, "", "the secret is on disk");
    assert!(!daemon.log().contains("canary-7f3a9c"));
}

#[test]
fn copy_flags_and_add_of_archives() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("d/a.txt", "a").write("d/b.md", "b").write("d/e/c.txt", "c").write("tree/inner/x", "x");
    rbuild_tests::run_in(space.path(), "tar", &["czf", "t.tgz", "-C", "tree", "inner"]).success();
    space.write(
        "Dockerfile",
        "FROM busybox AS base\nCOPY --chown=user:staff --chmod=640 d/a.txt /owned\nCOPY --exclude=*.md d /some/\n\
         COPY --parents d/e/c.txt /p/\nCOPY --link d/a.txt /linked/a\nADD t.tgz /unpacked/\nCOPY t.tgz /packed/\nCOPY d/*.txt d/b.md /globs/\n\
         RUN stat -c %U:%G:%a /owned > /stat\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("stat"), "user:staff:640\n");
    assert!(
        out.at("some/a.txt").exists() && out.at("some/e/c.txt").exists() && !out.at("some/b.md").exists()
    );
    assert_eq!(out.read("p/d/e/c.txt"), "c");
    assert_eq!(out.read("linked/a"), "a");
    assert_eq!(out.read("unpacked/inner/x"), "x");
    assert!(out.at("packed/t.tgz").exists());
    assert!(out.at("globs/a.txt").exists() && out.at("globs/b.md").exists());
}

#[test]
fn parents_excludes_and_links_combine() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    for file in ["x/a/1.go", "x/a/2.md", "x/3.md", "x/b/3.go", "x/b/deep/4.go", "y/5.go"] {
        space.write(file, file);
    }
    space.write(
        "Dockerfile",
        "FROM busybox AS base\nRUN mkdir /old && echo old > /old/file\nFROM base\n\
         COPY --parents x/./*/*.go y/5.go /pivot/\n\
         COPY --parents --exclude=**/deep --exclude=**/*.md x /cut/\n\
         COPY --parents --exclude=*.md --exclude=x/b x /anchored/\n\
         COPY --link --chown=7:8 --exclude=a x /old/\n\
         COPY --link --parents --from=base /old/./file /again/\n\
         RUN stat -c %u:%g /old/b/3.go /old/file > /owners\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("pivot/a/1.go"), "x/a/1.go");
    assert_eq!(out.read("pivot/y/5.go"), "y/5.go");
    assert!(
        !out.at("pivot/x").exists() && !out.at("pivot/a/2.md").exists() && !out.at("pivot/b/deep").exists()
    );
    assert_eq!(out.read("cut/x/b/3.go"), "x/b/3.go");
    assert!(!out.at("cut/x/a/2.md").exists() && !out.at("cut/x/b/deep").exists());
    // With --parents, patterns begin where the copy does: at the context, not at `x`. As upstream has it.
    assert!(out.at("anchored/x/a/2.md").exists() && out.at("anchored/x/3.md").exists());
    assert!(!out.at("anchored/x/b").exists());
    assert_eq!(out.read("old/b/deep/4.go"), "x/b/deep/4.go");
    assert_eq!(out.read("old/file"), "old\n", "what is linked stands beside what was there");
    assert!(!out.at("old/a").exists());
    assert_eq!(out.read("owners"), "7:8\n0:0\n");
    assert_eq!(out.read("again/file"), "old\n");
}

#[test]
fn archives_are_unpacked_as_they_are_told() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("tree/inner/x", "x");
    rbuild_tests::run_in(space.path(), "tar", &["czf", "t.tgz", "-C", "tree", "inner"]).success();
    space.write(
        "Dockerfile",
        "FROM busybox\nADD --unpack=false t.tgz /kept/\nADD --unpack --link --chown=7 t.tgz /linked/\n\
         RUN stat -c %u /linked/inner/x > /owner\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert!(out.at("kept/t.tgz").exists() && !out.at("kept/inner").exists());
    assert_eq!(out.read("linked/inner/x"), "x");
    assert_eq!(out.read("owner"), "7\n");
}

#[test]
fn devices_that_are_required_are_refused_by_name_and_others_passed_over() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN --device=vendor.example/gpu=all echo ran > /ran\n");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("ran"), "ran\n");
    space.write("Dockerfile", "FROM busybox\nRUN --device=vendor.example/gpu=all,required true\n");
    daemon.build(space.path(), &[]).failure().has("error[S009]").has("device is not allowed");
}

#[test]
fn network_none_has_no_network_and_host_needs_an_entitlement() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN --network=none ip link | grep -c ^[0-9] > /links\n");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("links"), "1\n");
    space.write("Dockerfile", "FROM busybox\nRUN --network=host true\n");
    daemon.build(space.path(), &["--allow", "network.host"]).failure().has("network.host");
}
