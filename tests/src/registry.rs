use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::TestSpace;
use crate::images::{self, ImageSpec};

/// Debian's `docker-registry` on a free loopback port.
#[derive(Debug)]
pub struct TestRegistry {
    /// `address:port`.
    pub host: String,
    space: TestSpace,
    child: Child,
}

impl TestRegistry {
    /// Starts an empty registry.
    pub fn start() -> Self {
        Self::start_with("127.0.0.1", "")
    }

    /// Starts an empty registry that wants to know who asks; `login` is a line of an htpasswd file (bcrypt).
    pub fn start_with_login(login: &str) -> Self {
        Self::start_with("127.0.0.1", login)
    }

    /// Starts an empty registry on another address of this machine.
    pub fn start_on(address: &str) -> Self {
        Self::start_with(address, "")
    }

    fn start_with(address: &str, login: &str) -> Self {
        let space = TestSpace::new();
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let host = format!("{address}:{port}");
        let root = space.at("data");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: {host}}}\n",
            root.display()
        );
        if !login.is_empty() {
            space.write("htpasswd", login);
            config +=
                &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", space.at("htpasswd").display());
        }
        space.write("config.yml", config);
        let child = crate::daemon::spawn_tied("docker-registry", |command| {
            command.arg("serve").arg(space.at("config.yml"));
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen on {host}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { host, space, child }
    }

    /// Where its blobs are, to break them.
    pub fn data(&self) -> std::path::PathBuf {
        self.space.at("data")
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        crate::daemon::end(&mut self.child);
    }
}

/// The registry that all tests of a process share, with `library/busybox` and its kin; daemons have it as
/// the mirror of `docker.io`, so Dockerfiles stay as a user wrote them.
pub fn registry() -> &'static TestRegistry {
    static REGISTRY: OnceLock<TestRegistry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let registry = TestRegistry::start();
        let root = images::busybox_root();
        for name in ["busybox", "alpine", "nginx"] {
            images::push_image(
                &registry.host,
                &format!("library/{name}:latest"),
                root.path(),
                &ImageSpec::default(),
            );
        }
        registry
    })
}
