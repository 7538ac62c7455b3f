use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{TestOutput, TestSpace, binary, registry};

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct DaemonOptions {
    /// More command line.
    pub args: Vec<String>,
    /// More variables of its environment.
    pub env: Vec<(String, String)>,
    /// More configuration (TOML).
    pub config: String,
    /// State directory; empty is one below the daemon's space.
    pub root: Option<PathBuf>,
    /// The network namespace it runs in, by name.
    pub namespace: Option<String>,
    /// Leave out the registry mirror for docker.io.
    pub no_mirror: bool,
}

/// One `rbuildd` with a root of its own, on a unix socket.
#[derive(Debug)]
pub struct TestDaemon {
    space: TestSpace,
    options: DaemonOptions,
    child: Option<Child>,
}

/// Starts a child that dies when this process does, however that ends.
pub(crate) fn spawn_tied(program: &str, arguments: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    arguments(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    spawn_lasting(command).unwrap_or_else(|err| panic!("{program}: {err}"))
}

/// Spawns from a thread that lives as long as the process: the death signal comes when the *thread* that
/// spawned a child ends, and tests are threads.
fn spawn_lasting(command: Command) -> std::io::Result<Child> {
    type Order = (Command, std::sync::mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: std::sync::OnceLock<std::sync::mpsc::Sender<Order>> = std::sync::OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = std::sync::mpsc::channel::<Order>();
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the process")]
        std::thread::spawn(move || {
            for (mut command, reply) in taken {
                reply.send(command.spawn()).expect("the test waits for its child");
            }
        });
        orders
    });
    let (reply, child) = std::sync::mpsc::channel();
    spawner.send((command, reply)).expect("the spawner lives on");
    child.recv().expect("the spawner answers")
}

pub(crate) fn end(child: &mut Child) {
    // It may have ended by itself.
    if let Err(err) = child.kill() {
        eprintln!("ending a child: {err}");
    }
    if let Err(err) = child.wait() {
        eprintln!("waiting for a child: {err}");
    }
}

impl TestDaemon {
    /// A daemon with the shared registry as mirror of docker.io, answering.
    pub fn start() -> Self {
        Self::start_with(DaemonOptions::default())
    }

    /// A daemon with options, answering.
    pub fn start_with(options: DaemonOptions) -> Self {
        let space = TestSpace::new();
        let mut config = options.config.clone();
        if !options.no_mirror {
            let host = &registry().host;
            config.push_str(&format!("\n[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n"));
        }
        space.write("rbuildd.toml", config);
        let mut daemon = Self { space, options, child: None };
        daemon.restart();
        daemon
    }

    /// Starts it again after [`Self::kill`] or [`Self::terminate`]; returns once it listens.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the daemon is running");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(name) = &self.options.namespace {
            // Not `ip netns exec`, which hides the cgroups; nor does this one stay as a parent.
            command.args(["nsenter", &format!("--net=/run/netns/{name}"), "--"]);
        }
        command.arg(binary("rbuildd"));
        command.arg("--root").arg(self.root()).arg("--addr").arg(self.addr());
        command.envs(self.options.env.iter().cloned());
        command.arg("--config").arg(self.space.at("rbuildd.toml")).arg("--debug").args(&self.options.args);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(spawn_lasting(command).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.socket()).is_err() {
            let exited = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "rbuildd ended at once:\n{}", self.log());
            assert!(Instant::now() < deadline, "rbuildd does not listen:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn socket(&self) -> PathBuf {
        self.space.at("rbuildd.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.space.at("rbuildd.log")
    }

    /// Its address.
    pub fn addr(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its state directory.
    pub fn root(&self) -> PathBuf {
        self.options.root.clone().unwrap_or_else(|| self.space.at("root"))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon is not running").id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// SIGTERM; the process is waited for by [`Self::wait`].
    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Waits for its end and gives the exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        let child = self.child.as_mut().expect("the daemon is not running");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return status.code();
            }
            assert!(Instant::now() < deadline, "the daemon does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `rbuildctl` with this daemon's address, not yet started.
    pub fn client(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary("rbuildctl"));
        command.arg("--addr").arg(self.addr()).args(args).current_dir(dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `rbuildctl` against this daemon to its end.
    #[must_use]
    #[track_caller]
    pub fn ctl(&self, dir: &Path, args: &[&str]) -> TestOutput {
        let output = self.client(dir, args).output().unwrap();
        TestOutput::new(format!("rbuildctl {}", args.join(" ")), &output)
    }

    /// `rbuildctl build --progress=plain` of a folder, with more arguments before the context.
    #[must_use]
    #[track_caller]
    pub fn build(&self, context: &Path, args: &[&str]) -> TestOutput {
        let mut all = vec!["build", "--progress=plain"];
        all.extend(args);
        all.push(".");
        self.ctl(context, &all)
    }

    /// As [`TestDaemon::ctl`], with `input` as standard input.
    #[must_use]
    #[track_caller]
    pub fn ctl_with(&self, dir: &Path, args: &[&str], input: impl Into<Stdio>) -> TestOutput {
        let output = self.client(dir, args).stdin(input).output().unwrap();
        TestOutput::new(format!("rbuildctl {}", args.join(" ")), &output)
    }

    /// Builds and puts the result's files into a fresh folder.
    #[track_caller]
    pub fn build_to_dir(&self, context: &Path, args: &[&str]) -> (TestOutput, TestSpace) {
        let out = TestSpace::new();
        let output = format!("--output=type=local,dest={}", out.path().display());
        let mut all = args.to_vec();
        all.push(&output);
        (self.build(context, &all).success(), out)
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(4_000);
            eprintln!("--- end of the daemon's log\n{}", log.get(tail..).unwrap_or(&log));
        }
        self.kill();
    }
}
