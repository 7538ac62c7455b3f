use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::daemon::{end, spawn_tied};
use crate::{TestSpace, run};

/// An ssh server on loopback that lets this user in with one key, and an agent that has this key.
#[derive(Debug)]
pub struct TestSsh {
    space: Arc<TestSpace>,
    agent: Child,
    port: u16,
}

impl TestSsh {
    /// Both, answering. The server's threads live as long as the process.
    pub fn start() -> Self {
        let space = Arc::new(TestSpace::new());
        for key in ["host", "user"] {
            let path = space.at(key);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", text(&path)]).success();
        }
        if nix::unistd::geteuid().is_root() {
            // The server wants it of root, and it is not there where no server was ever started.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let at = |name: &str| space.at(name).display().to_string();
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nSetEnv PATH={}:{}\n",
            at("host"),
            at("user.pub"),
            crate::binary("rbuildctl").parent().expect("it is in a folder").display(),
            std::env::var("PATH").unwrap(),
        );
        space.write("sshd_config", config);
        let port = serve(space.clone());
        let socket = at("agent");
        let agent = spawn_tied("ssh-agent", |command| {
            command.args(["-D", "-a", &socket]);
        });
        let ssh = Self { space, agent, port };
        wait("the ssh agent", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let key = ssh.space.at("user");
        let add = Command::new("ssh-add").args(["-q", text(&key)]).env("SSH_AUTH_SOCK", &socket).output();
        let add = add.unwrap();
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
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().expect("users have names");
        format!("ssh://{}@127.0.0.1:{}{}", user.name, self.port, repository.display())
    }

    /// The line of `known_hosts` for the server, were `key` its public key: a file of `ssh-keygen`.
    pub fn known_host(&self, key: &Path) -> String {
        let key = std::fs::read_to_string(key).unwrap();
        format!("[127.0.0.1]:{} {}", self.port, key)
    }

    /// The server's public key, and that of somebody else.
    pub fn keys(&self) -> (PathBuf, PathBuf) {
        (self.space.at("host.pub"), self.space.at("user.pub"))
    }
}

/// Starts a server for each connection, on a port that is ours from the first moment.
fn serve(space: Arc<TestSpace>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    #[allow(clippy::disallowed_methods, reason = "a server of the test's own, as long as the process")]
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let space = space.clone();
            std::thread::spawn(move || {
                if let Err(error) = talk(stream.unwrap(), &space) {
                    eprintln!("ssh server: {error}");
                }
            });
        }
    });
    port
}

fn talk(stream: TcpStream, space: &TestSpace) -> std::io::Result<()> {
    let (input, output) = (OwnedFd::from(stream.try_clone()?), OwnedFd::from(stream));
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-i", "-f"]).arg(space.at("sshd_config"));
    command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::null());
    let mut server = command.spawn()?;
    // Ours have to go, or the connection never ends.
    drop(command);
    server.wait().map(drop)
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
        end(&mut self.agent);
    }
}
