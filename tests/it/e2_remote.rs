use rbuild_tests::{DaemonOptions, Relay, TestDaemon, TestOutput, TestSpace, TestSsh, binary, run, run_in};

fn certificates(space: &TestSpace) {
    let make = |args: &[&str]| run_in(space.path(), "openssl", args).success();
    for name in ["ca", "server", "client", "other-ca", "stranger"] {
        make(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &format!("{name}.key")]);
    }
    for ca in ["ca", "other-ca"] {
        make(&[
            "req",
            "-x509",
            "-new",
            "-key",
            &format!("{ca}.key"),
            "-days",
            "2",
            "-subj",
            &format!("/CN={ca}"),
            "-out",
            &format!("{ca}.pem"),
        ]);
    }
    space.write("san", "subjectAltName=IP:127.0.0.1,DNS:localhost\n");
    for (name, ca) in [("server", "ca"), ("client", "ca"), ("stranger", "other-ca")] {
        make(&[
            "req",
            "-new",
            "-key",
            &format!("{name}.key"),
            "-subj",
            &format!("/CN={name}"),
            "-out",
            &format!("{name}.csr"),
        ]);
        make(&[
            "x509",
            "-req",
            "-in",
            &format!("{name}.csr"),
            "-CA",
            &format!("{ca}.pem"),
            "-CAkey",
            &format!("{ca}.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "san",
            "-out",
            &format!("{name}.pem"),
        ]);
    }
}

#[test]
fn tcp_takes_mutual_tls_and_refuses_strangers() {
    let certs = TestSpace::new();
    certificates(&certs);
    let path = |name: &str| certs.at(name).to_string_lossy().into_owned();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("tcp://127.0.0.1:{port}");
    let args = [
        "--addr",
        &address,
        "--tlscacert",
        &path("ca.pem"),
        "--tlscert",
        &path("server.pem"),
        "--tlskey",
        &path("server.key"),
    ];
    let daemon = TestDaemon::start_with(DaemonOptions {
        args: args.map(str::to_owned).to_vec(),
        ..Default::default()
    });
    let ctl = binary("rbuildctl").to_string_lossy().into_owned();
    let call = |ca: &str, name: &str| {
        run_in(
            certs.path(),
            &ctl,
            &[
                "--addr",
                &address,
                "--tlscacert",
                &path(ca),
                "--tlscert",
                &path(&format!("{name}.pem")),
                "--tlskey",
                &path(&format!("{name}.key")),
                "debug",
                "workers",
            ],
        )
    };
    call("ca.pem", "client").success().has("linux/amd64");
    call("ca.pem", "stranger").failure();
    call("other-ca.pem", "client").failure();
    drop(daemon);
}

#[test]
fn tcp_without_tls_must_be_asked_for_in_words() {
    let space = TestSpace::new();
    let daemon = binary("rbuildd").to_string_lossy().into_owned();
    let root = space.at("root");
    let output = run(&daemon, &["--root", &root.to_string_lossy(), "--addr", "tcp://127.0.0.1:0"]).failure();
    assert!(output.all().contains("insecure-tcp"), "{}", output.all());
}

/// Twenty files of text, 4 MB together, that compress well.
fn wordy() -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY src /\n");
    for i in 0..20 {
        space.write(&format!("src/{i}"), format!("line {i} of a text that says little\n").repeat(6_000));
    }
    space
}

/// Builds a context through an address into a folder, and checks that it arrived whole.
fn build_through(address: &str, context: &TestSpace, path: &str) {
    let out = TestSpace::new();
    let dest = format!("--output=type=local,dest={}", out.path().display());
    let output = std::process::Command::new(binary("rbuildctl"))
        .args(["--addr", address, "build", "--progress=plain", &dest, "."])
        .current_dir(context.path())
        .env("PATH", path)
        .output()
        .unwrap();
    TestOutput::new(format!("rbuildctl --addr {address}"), &output).success();
    for i in 0..20 {
        assert_eq!(out.read(&i.to_string()), context.read(&format!("src/{i}")));
    }
}

#[test]
fn a_context_is_compressed_on_its_way_over_tcp_to_another_machine() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = TestDaemon::start_with(DaemonOptions {
        args: ["--addr", &format!("tcp://127.0.0.1:{port}"), "--insecure-tcp"].map(str::to_owned).to_vec(),
        ..Default::default()
    });
    let (relay, path) = (Relay::to(port), std::env::var("PATH").unwrap());
    // Loopback is near: nothing is compressed.
    build_through(&format!("tcp://127.0.0.1:{}", relay.port), &wordy(), &path);
    let plain = relay.sent();
    assert!(plain > 4_000_000, "{plain} bytes");
    // This address is none of loopback's, but leads here.
    build_through(&format!("tcp://0.0.0.0:{}", relay.port), &wordy(), &path);
    let compressed = relay.sent();
    assert!(compressed < plain / 8, "{compressed} bytes of {plain}");
    drop(daemon);
}

#[test]
fn a_context_is_compressed_on_its_way_over_ssh() {
    let (daemon, ssh) = (TestDaemon::start(), TestSsh::start());
    let relay = Relay::to(ssh.port());
    let tools = TestSpace::new();
    // The system's ssh, with the test's key and without the user's configuration.
    let options = "-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes";
    let real = run("sh", &["-c", "command -v ssh"]).success().stdout;
    let agent = ssh.agent();
    tools.write(
        "ssh",
        format!("#!/bin/sh\nexport SSH_AUTH_SOCK={agent}\nexec {} {options} \"$@\"\n", real.trim()),
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tools.at("ssh"), mode).unwrap();
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let socket = daemon.addr().replace("unix://", "");
    build_through(&format!("ssh://root@127.0.0.1:{}{socket}", relay.port), &wordy(), &path);
    let sent = relay.sent();
    assert!(sent < 1_000_000, "{sent} bytes of 4 MB");
}
