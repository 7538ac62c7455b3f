use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace, binary, run, run_in};

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
