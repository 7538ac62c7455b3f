use rbuild_tests::{ImageSpec, TestDaemon, TestSpace, debian_root, push_image, registry, run};

/// The Flask example up to the running image, with Debian under the name that the Dockerfile uses. The
/// package index is the host's, so a machine without one cannot pass this.
#[test]
fn slow_flask_example_builds_and_serves() {
    let base = debian_root(&[]);
    let spec = ImageSpec { env: trust_and_indexes(), ..ImageSpec::default() };
    push_image(&registry().host, "library/ubuntu:22.04", &base.at("root"), &spec);
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("hello.py", "from flask import Flask\napp = Flask(__name__)\n@app.route('/')\ndef hello():\n    return 'Hello World!'\n");
    space.write(
        "Dockerfile",
        "# syntax=docker/dockerfile:1\nFROM ubuntu:22.04\n\n# install app dependencies\nRUN apt-get update && apt-get install -y python3 python3-pip\n\
         RUN pip install --break-system-packages flask==2.1.* 'werkzeug<3'\n\n# install app\nCOPY hello.py /\n\n# final configuration\nENV FLASK_APP=hello\nEXPOSE 8000\n\
         CMD [\"flask\", \"run\", \"--host\", \"0.0.0.0\", \"--port\", \"8000\"]\n",
    );
    daemon.build(space.path(), &["-t", "test:latest", "-o", "type=oci,dest=image.tar"]).success();
    let archive = format!("oci-archive:{}", space.at("image.tar").display());
    let (root, run_root) = (space.at("podman"), space.at("podman-run"));
    let script = "flask run --port 18573 >/dev/null 2>&1 & for i in $(seq 100); do python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:18573\").read().decode())' 2>/dev/null && exit 0; sleep 0.2; done; exit 1";
    let args = [
        "--root",
        &root.to_string_lossy(),
        "--runroot",
        &run_root.to_string_lossy(),
        "--runtime",
        "runc",
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
        "run",
        "--rm",
        "--network",
        "host",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
        &archive,
        "sh",
        "-c",
        script,
    ];
    run("podman", &args).success().has("Hello World!");
}

/// What pip needs to know of this machine: its trust store and its package index, if they are special.
fn trust_and_indexes() -> Vec<String> {
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    let mut env = vec![format!("PIP_CERT={bundle}"), format!("SSL_CERT_FILE={bundle}")];
    for name in ["PIP_INDEX_URL", "PIP_TRUSTED_HOST"] {
        env.extend(std::env::var(name).map(|value| format!("{name}={value}")));
    }
    env
}
