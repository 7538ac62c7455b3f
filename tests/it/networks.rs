//! Networks of steps: the daemon's bridge.
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace, run, wait_until};

/// A machine beside this one, that knows no way to the steps: a namespace with a web server, and a cable to it.
struct Neighbour {
    name: String,
    server: Child,
    _pages: TestSpace,
}

const NEIGHBOUR: &str = "198.51.100.2";

impl Neighbour {
    fn start() -> Self {
        let name = format!("rbn{}", std::process::id());
        let ip = |args: &str| {
            run("ip", &args.split(' ').collect::<Vec<_>>()).success();
        };
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
        ip(&format!("addr add 198.51.100.1/30 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {NEIGHBOUR}/30 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        let pages = TestSpace::new();
        pages.write("page", "from outside\n");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec", &name]);
        command.args(["busybox", "httpd", "-f", "-p", "8080", "-h"]).arg(pages.path());
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait_until("the neighbour serves", || std::net::TcpStream::connect((NEIGHBOUR, 8080)).is_ok());
        Self { name, server, _pages: pages }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Err(err) = self.server.kill().and_then(|()| self.server.wait().map(drop)) {
            eprintln!("ending the neighbour: {err}");
        }
        if let Err(err) = Command::new("ip").args(["netns", "del", &self.name]).status() {
            eprintln!("removing the neighbour: {err}");
        }
    }
}

fn daemon(name: &str, third: u8) -> TestDaemon {
    let config = format!(
        "[worker.oci]\nnetworkMode = \"bridge\"\nbridgeName = \"{name}\"\nbridgeSubnet = \"10.213.{third}.0/24\"\n"
    );
    TestDaemon::start_with(DaemonOptions { config, ..DaemonOptions::default() })
}

#[test]
fn root_steps_on_a_bridge_reach_others_but_not_the_daemons_machine() {
    let _neighbour = Neighbour::start();
    let bridge = format!("rbt{}", std::process::id() % 100_000);
    let mut daemon = daemon(&bridge, 7);
    // On all addresses of this machine, so also on the bridge's.
    let own = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = own.local_addr().unwrap().port();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        format!(
            "FROM busybox\n\
             RUN ip -o addr show eth0 | grep -o '10.213.7.[0-9]*/24' >/address\n\
             RUN wget -q -O /page http://{NEIGHBOUR}:8080/page\n\
             RUN nc -w 2 10.213.7.1 {port} </dev/null && echo open >/own || echo closed >/own\n\
             RUN --network=none ls /sys/class/net >/none\n"
        ),
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert!(out.read("address").starts_with("10.213.7."), "{}", out.read("address"));
    assert_eq!(out.read("page"), "from outside\n");
    assert_eq!(out.read("own"), "closed\n");
    assert_eq!(out.read("none"), "lo\n");
    // The host's network is a right that nobody gave.
    space.write("Dockerfile", "FROM busybox\nRUN --network=host true\n");
    let refused = daemon.build(space.path(), &[]).failure();
    assert!(refused.all().contains("network.host"), "{}", refused.all());
    // The bridge goes with the daemon, and a killed one's is taken over.
    let link = std::path::Path::new("/sys/class/net").join(&bridge);
    daemon.kill();
    assert!(link.exists());
    daemon.restart();
    daemon.terminate();
    assert_eq!(daemon.wait(std::time::Duration::from_secs(60)), Some(0));
    assert!(!link.exists());
}

#[test]
fn root_a_bridge_has_one_daemon() {
    let bridge = format!("rbu{}", std::process::id() % 100_000);
    let mut first = daemon(&bridge, 8);
    let space = TestSpace::new();
    let config = format!("[worker.oci]\nnetworkMode = \"bridge\"\nbridgeName = \"{bridge}\"\n");
    space.write("second.toml", config);
    let path = |name: &str| space.at(name).to_string_lossy().into_owned();
    let program = rbuild_tests::binary("rbuildd").to_string_lossy().into_owned();
    let address = format!("unix://{}", path("second.sock"));
    let args = ["--root", &path("root"), "--addr", &address, "--config", &path("second.toml")];
    let refused = run(&program, &args).failure();
    // By itself it takes its bridge away.
    first.terminate();
    assert_eq!(first.wait(std::time::Duration::from_secs(60)), Some(0));
    assert!(refused.all().contains("bridgeName"), "{}", refused.all());
}
