use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rbuild_tests::{Running, TestSpace, binary, run};

/// Does what systemd does with a socket unit: listens, and hands the socket over as descriptor 3.
const HAND_OVER: &str = r#"
    BEGIN { $^F = 255 }
    use POSIX; use IO::Socket::UNIX;
    my $socket = IO::Socket::UNIX->new(Local => shift, Listen => 8) or die "listen: $!";
    POSIX::dup2(fileno($socket), 3) or die "dup2: $!";
    ($ENV{LISTEN_FDS}, $ENV{LISTEN_PID}) = (1, $$);
    exec @ARGV or die "exec: $!";
"#;

#[test]
fn a_service_manager_hands_over_the_socket_and_hears_of_readiness_and_end() {
    let space = TestSpace::new();
    let path = |name: &str| space.at(name).to_string_lossy().into_owned();
    let heard = UnixDatagram::bind(space.at("notify")).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hears = |text: &str| {
        let mut buffer = [0; 4096];
        loop {
            let len = heard.recv(&mut buffer).unwrap_or_else(|error| panic!("{text}: {error}"));
            if String::from_utf8_lossy(&buffer[..len]).lines().any(|line| line == text) {
                return;
            }
        }
    };
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "perl", "-e", HAND_OVER, &path("socket")]);
    command.arg(binary("rbuildd")).args(["--root", &path("root"), "--addr", "fd://"]);
    let daemon = Running::start({
        command.env("NOTIFY_SOCKET", space.at("notify"));
        command
    });
    hears("READY=1");
    let client = binary("rbuildctl").to_string_lossy().into_owned();
    let addr = format!("unix://{}", path("socket"));
    run(&client, &["--addr", &addr, "debug", "info"]).success();
    daemon.terminate();
    hears("STOPPING=1");
    daemon.end().success();
}
