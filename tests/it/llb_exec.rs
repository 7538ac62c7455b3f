//! Every attribute of an exec op, once, and every refusal.

use std::os::unix::fs::MetadataExt as _;

use rbuild_llb::{
    Attached, CacheSharing, CdiDevice, Constraints, ContentCache, ExecOptions, LinuxResources, MountOptions,
    NetMode, ProxyEnv, SecretOptions, SecurityMode, SshOptions, State,
};
use rbuild_tests::llb::{busybox, made, readonly, shell};
use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace, TestSsh};

/// What a command writes into `/out`.
fn out(base: &State, mut options: ExecOptions) -> State {
    options.mounts.push(MountOptions::bind("/out", State::scratch()));
    base.run(options).mount("/out").unwrap()
}

#[test]
fn root_a_process_has_its_environment_names_and_limits() {
    let daemon = TestDaemon::start();
    let base = busybox()
        .add_env("GREETING", "hello")
        .dir("/new/dir")
        .user("7:8")
        .hostname("named")
        .add_extra_host("other", "10.1.2.3")
        .add_ulimit("nofile", 111, 222)
        .valid_exit_codes(&[3, 4]);
    let command = "exec >/out/all; echo $GREETING; pwd; id -u; id -g; hostname; grep other /etc/hosts; \
                   ulimit -n; ulimit -Hn; exit 3";
    let open = made("chmod 777 .");
    let mounted = MountOptions::bind("/out", open);
    let made = base.run(shell(command, vec![mounted])).mount("/out").unwrap();
    let dir = daemon.solve_to_dir(&made, &[]);
    assert_eq!(dir.read("all"), "hello\n/new/dir\n7\n8\nnamed\n10.1.2.3\tother\n111\n222\n");
    // Only these codes count as success then, and the words are upstream's.
    let zero = busybox().valid_exit_codes(&[3]).run(shell("exit 0", vec![])).root();
    daemon.solve(&zero, &[]).failure().has("did not complete successfully: exit code: 0");
    let unknown = busybox().add_ulimit("nofiles", 1, 1).run(shell("true", vec![])).root();
    daemon.solve(&unknown, &[]).failure().has("there is no limit called `nofiles`");
    let host = busybox().add_extra_host("other", "10.1.2").run(shell("true", vec![])).root();
    daemon.solve(&host, &[]).failure().has("`10.1.2` is not an IP address");
}

#[test]
fn root_proxies_reach_the_process_and_not_its_identity() {
    let daemon = TestDaemon::start();
    let with = |proxy: &str| {
        let proxy_env =
            Some(ProxyEnv { http_proxy: proxy.into(), no_proxy: "n".into(), ..ProxyEnv::default() });
        let command = "env | grep -i _proxy | sort >/out/all";
        out(&busybox(), ExecOptions { proxy_env, ..shell(command, vec![]) })
    };
    let dir = daemon.solve_to_dir(&with("http://one"), &[]);
    assert_eq!(dir.read("all"), "HTTP_PROXY=http://one\nNO_PROXY=n\nhttp_proxy=http://one\nno_proxy=n\n");
    let dir = daemon.solve_to_dir(&with("http://two"), &[]);
    assert!(dir.read("all").contains("http://one"), "another proxy ran the step again");
}

#[test]
fn root_mounts_are_what_their_attributes_say() {
    let daemon = TestDaemon::start();
    let files = made("mkdir -p sub/deep; echo one >one; echo two >sub/deep/two");
    let select =
        |target: &str, selector: &str| MountOptions { selector: selector.into(), ..readonly(target, &files) };
    let thrown =
        MountOptions { no_output: true, ..MountOptions::new("/thrown", Attached::Bind(files.clone())) };
    let tmpfs = MountOptions::new("/tmpfs", Attached::Tmpfs { size_bytes: 1 << 20 });
    let command = "exec >/out/all; ls /part; cat /file; echo x >/thrown/one; cat /thrown/one; \
                   mount | grep ' /tmpfs ' | grep -o 'size=1024k'; touch /part/no 2>/dev/null || echo refused; \
                   touch /no 2>/dev/null || echo read-only";
    let mounts = vec![select("/part", "/sub"), select("/file", "/one"), thrown, tmpfs];
    let process = ExecOptions { readonly_root: true, ..shell(command, mounts) };
    let dir = daemon.solve_to_dir(&out(&busybox(), process), &[]);
    assert_eq!(dir.read("all"), "deep\none\nx\nsize=1024k\nrefused\nread-only\n");
    // A part that is written is written where it lies.
    let part = MountOptions { selector: "/sub".into(), ..MountOptions::bind("/part", files.clone()) };
    let whole = busybox().run(shell("echo new >/part/new", vec![part])).mount("/part").unwrap();
    let dir = daemon.solve_to_dir(&whole, &[]);
    assert_eq!((dir.read("sub/new"), dir.read("one")), ("new\n".into(), "one\n".into()));
    let missing = shell("true", vec![select("/part", "/nowhere")]);
    daemon.solve(&busybox().run(missing).root(), &[]).failure().has("nowhere");
}

#[test]
fn root_a_mount_can_count_by_content() {
    let daemon = TestDaemon::start();
    // Equal files of different origin.
    let ran = |origin: &str, content_cache| {
        let files = made(&format!(": {origin}; echo same >file; touch -d '2020-01-01 00:00:00' file ."));
        let mount = MountOptions { content_cache, ..readonly("/in", &files) };
        let state = out(&busybox(), shell("cat /proc/sys/kernel/random/uuid >/out/id", vec![mount]));
        daemon.solve_to_dir(&state, &[]).read("id")
    };
    for (mode, shared) in
        [(ContentCache::Default, true), (ContentCache::On, true), (ContentCache::Off, false)]
    {
        let (one, two) = (ran("one", mode), ran("two", mode));
        assert_eq!(one == two, shared, "{mode:?}");
    }
}

#[test]
fn root_cache_mounts_outlive_builds() {
    let daemon = TestDaemon::start();
    let cache = |id: &str, sharing| {
        let from = made("echo first >f");
        MountOptions::new("/cache", Attached::Cache { from, id: id.into(), sharing })
    };
    for (id, sharing) in
        [("s", CacheSharing::Shared), ("p", CacheSharing::Private), ("l", CacheSharing::Locked)]
    {
        let again = |mark: &str| {
            let command = format!("cat /cache/f >/out/f; echo {mark} >/cache/f");
            let state = out(&busybox(), shell(&command, vec![cache(id, sharing)]));
            daemon.solve_to_dir(&state, &[]).read("f")
        };
        assert_eq!((again("second"), again("third")), ("first\n".into(), "second\n".into()), "{sharing:?}");
    }
}

#[test]
fn root_secrets_and_agents_come_from_the_client() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("secret", "hunter2");
    let file = SecretOptions {
        id: "s".into(),
        target: Some("/run/s".into()),
        uid: 3,
        gid: 4,
        mode: 0o440,
        ..SecretOptions::default()
    };
    let variable = SecretOptions { id: "s".into(), env: Some("S".into()), ..SecretOptions::default() };
    let missing =
        SecretOptions { id: "none".into(), target: Some("/none".into()), ..SecretOptions::default() };
    let optional = SecretOptions { optional: true, ..missing.clone() };
    let agent = SshOptions { target: Some("/agent".into()), uid: 5, ..SshOptions::default() };
    let no_agent = SshOptions { id: "other".into(), optional: true, ..SshOptions::default() };
    let command = "stat -c '%a %u:%g %s' /run/s >/out/all; test \"$S\" = hunter2; test ! -e /none; \
                   stat -c '%F %u' /agent >>/out/all";
    let process = ExecOptions {
        secrets: vec![file, variable, optional],
        ssh: vec![agent, no_agent],
        ..shell(command, vec![])
    };
    let ssh = TestSsh::start();
    let secret = format!("--secret=id=s,src={}", space.at("secret").display());
    let forwarded = format!("--ssh=default={}", ssh.agent());
    let dir = daemon.solve_to_dir(&out(&busybox(), process), &[&secret, &forwarded]);
    assert_eq!(dir.read("all"), "440 3:4 7\nsocket 5\n");
    let process = ExecOptions { secrets: vec![missing], ..shell("true", vec![]) };
    daemon.solve(&busybox().run(process).root(), &[]).failure().has("secret none: not found");
    let process = ExecOptions { ssh: vec![SshOptions::default()], ..shell("true", vec![]) };
    daemon.solve(&busybox().run(process).root(), &[]).failure().has("no SSH key \"default\" forwarded");
}

#[test]
fn root_rights_need_the_daemon_and_the_client() {
    let host = busybox().network(NetMode::Host).run(shell("ls /sys/class/net >/out/net", vec![]));
    let insecure = busybox().security(SecurityMode::Insecure).run(shell("true", vec![])).root();
    let plain = TestDaemon::start();
    for (state, name) in [(host.root(), "network.host"), (insecure.clone(), "security.insecure")] {
        plain.solve(&state, &[]).failure().has(&format!("{name} is not allowed"));
        plain.solve(&state, &[&format!("--allow={name}")]).failure().has(&format!("{name} is not allowed"));
    }
    let config = "insecure-entitlements = [\"network.host\", \"security.insecure\"]\n".to_owned();
    let daemon = TestDaemon::start_with(DaemonOptions { config, ..DaemonOptions::default() });
    for (state, name) in [(&host.root(), "network.host"), (&insecure, "security.insecure")] {
        daemon.solve(state, &[]).failure().has(&format!("{name} is not allowed"));
    }
    daemon.solve(&insecure, &["--allow=network.host"]).failure().has("security.insecure is not allowed");
    let net = out(&busybox().network(NetMode::Host), shell("ls /sys/class/net >/out/net", vec![]));
    let own: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name()).collect();
    let seen = daemon.solve_to_dir(&net, &["--allow=network.host"]).read("net");
    assert!(own.iter().all(|name| seen.contains(name.to_str().unwrap())), "{seen}");
    let none = out(&busybox().network(NetMode::None), shell("ls /sys/class/net >/out/net", vec![]));
    assert_eq!(daemon.solve_to_dir(&none, &[]).read("net"), "lo\n");
    let command = "grep CapEff /proc/self/status >/out/caps; mount -t tmpfs none /mnt2; ls /dev >/out/dev";
    let mount_point = busybox().run(shell("mkdir /mnt2", vec![])).root();
    let all = out(&mount_point.security(SecurityMode::Insecure), shell(command, vec![]));
    let dir = daemon.solve_to_dir(&all, &["--allow=security.insecure"]);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(dir.read("caps").trim_end(), own);
    assert!(dir.read("dev").contains("loop-control"), "{}", dir.read("dev"));
}

#[test]
fn root_limits_of_a_step_hold() {
    let daemon = TestDaemon::start();
    let resources = LinuxResources { memory: 64 << 20, ..LinuxResources::default() };
    let constraints = Constraints::default().linux_resources(resources);
    let hungry = "head -c 300000000 /dev/zero | tail -c 299999999 >/dev/null";
    let process = ExecOptions { constraints, ..shell(hungry, vec![]) };
    daemon.solve(&busybox().run(process).root(), &[]).failure().has("did not complete successfully");
    let parented = busybox().cgroup_parent("rbuild-test").run(shell("true", vec![])).root();
    daemon.solve(&parented, &[]).success();
}

#[test]
fn root_devices_are_what_the_machine_says_and_need_a_right() {
    let specs = TestSpace::new();
    specs.write(
        "null.json",
        r#"{"cdiVersion":"0.6.0","kind":"test.org/null","devices":[{"name":"one","containerEdits":{"env":["ONE=1"],
            "deviceNodes":[{"path":"/dev/one","hostPath":"/dev/null"}],
            "mounts":[{"hostPath":"/etc/passwd","containerPath":"/given/passwd","options":["ro"]}]}}]}"#,
    );
    let config = |grant: &str| {
        let dir = specs.path().display();
        let config = format!("insecure-entitlements = [{grant}]\n[cdi]\nspecDirs = [\"{dir}\"]\n");
        TestDaemon::start_with(DaemonOptions { config, ..DaemonOptions::default() })
    };
    let command = "echo $ONE >/out/all; test -e /given/passwd; if test -c /dev/one; then echo x >/dev/one; stat -c %t:%T /dev/one >>/out/all; fi";
    let asks = |name: &str, optional, command: &str| {
        let device = CdiDevice { name: name.into(), optional };
        out(&busybox(), ExecOptions { cdi_devices: vec![device], ..shell(command, vec![]) })
    };
    let one = "test.org/null=one";
    let daemon = config("\"device\"");
    for allow in ["--allow=device", "--allow=device=test.org/null", "--allow=device=test.org/null=one"] {
        let dir = daemon.solve_to_dir(&asks(one, false, command), &[allow, "--no-cache"]);
        assert_eq!(dir.read("all"), "1\n1:3\n", "{allow}");
    }
    daemon.solve(&asks(one, false, "true"), &[]).failure().has("device is not allowed");
    let other = "--allow=device=test.org/other";
    daemon.solve(&asks(one, false, "true"), &[other]).failure().has("device is not allowed");
    let none = "test.org/none=x";
    daemon
        .solve(&asks(none, false, "true"), &["--allow=device"])
        .failure()
        .has("CDI device `test.org/none=x` is not there");
    // What may be missing is left out where it is not there, or not granted.
    daemon.solve(&asks(none, true, "true"), &["--allow=device"]).success();
    daemon.solve(&asks(one, true, "test ! -e /dev/one"), &[]).success();
    let narrow = config("\"device=test.org/other\"");
    narrow.solve(&asks(one, false, "true"), &["--allow=device"]).failure().has("device is not allowed");
    narrow
        .solve(&asks(one, false, "true"), &["--allow=device=test.org/null"])
        .failure()
        .has("device is not allowed");
}

#[test]
fn root_mount_points_that_had_to_be_made_are_gone_afterwards() {
    let daemon = TestDaemon::start();
    let mount = readonly("/stub/a/b", &made("echo x >x"));
    let done = busybox().run(shell("test -e /stub/a/b/x", vec![mount])).root();
    let dir = daemon.solve_to_dir(&done, &[]);
    assert!(!dir.at("stub/a/b").exists());
    assert_eq!(dir.at("bin/busybox").metadata().unwrap().mode() & 0o777, 0o755);
}
