use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::daemon::{end, spawn_tied};
use crate::{TestSpace, run};

/// An ssh server on loopback that lets in root with one key, and an agent that has this key.
#[derive(Debug)]
pub struct TestSsh {
    space: TestSpace,
    children: Vec<Child>,
    port: u16,
}

impl TestSsh {
    /// Both, answering.
    pub fn start() -> Self {
        let space = TestSpace::new();
        for key in ["host", "user"] {
            let path = space.at(key);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", text(&path)]).success();
        }
        // The server wants it, and it is not there where no server was ever started.
        std::fs::create_dir_all("/run/sshd").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| space.at(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             PidFile none\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nSetEnv PATH={}:{}\n",
            at("host"),
            at("user.pub"),
            crate::binary("rbuildctl").parent().expect("it is in a folder").display(),
            std::env::var("PATH").unwrap(),
        );
        space.write("sshd_config", config);
        let mut ssh = Self { children: Vec::new(), port, space };
        let config = ssh.space.at("sshd_config");
        ssh.children.push(spawn_tied("/usr/sbin/sshd", |command| {
            command.args(["-D", "-f"]).arg(config);
        }));
        let agent = ssh.agent();
        ssh.children.push(spawn_tied("ssh-agent", |command| {
            command.args(["-D", "-a", &agent]);
        }));
        wait("the ssh server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        wait("the ssh agent", || std::os::unix::net::UnixStream::connect(&agent).is_ok());
        let add = std::process::Command::new("ssh-add")
            .args(["-q", text(&ssh.space.at("user"))])
            .env("SSH_AUTH_SOCK", &agent)
            .output()
            .unwrap();
        assert!(add.status.success(), "{add:?}");
        ssh
    }

    /// Socket of the agent.
    pub fn agent(&self) -> String {
        self.space.at("agent").display().to_string()
    }

    /// The port of loopback on which the server listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL of a repository on this machine.
    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, repository.display())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for TestSsh {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(end);
    }
}
