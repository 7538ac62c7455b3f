//! `--load`: hands an image to a container engine of this machine, through the engine's own program.

use std::ffi::OsStr;
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::errors::{CommandError, os_text};

/// How long an engine may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(10);
/// What is kept of what an engine's program says.
const MAX_SAID: u64 = 64 << 10;

/// An engine that takes images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Docker,
    Podman,
    Containerd,
}

impl Engine {
    /// In the order in which they are looked for.
    const ALL: [Self; 3] = [Self::Docker, Self::Podman, Self::Containerd];

    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
        }
    }

    /// Reads an archive from standard input. Namespaces and sockets come from the environment, as users of each are
    /// used to (`DOCKER_HOST`, `CONTAINERS_STORAGE_CONF`, `CONTAINERD_NAMESPACE`).
    fn load(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["docker", "load"],
            Self::Podman => &["podman", "load"],
            Self::Containerd => &["ctr", "images", "import", "-"],
        }
    }

    /// Succeeds if the engine can be used: the programs of docker and containerd are useless without their daemon.
    fn probe(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["docker", "version", "--format", "{{.Server.Version}}"],
            Self::Podman => &["podman", "--version"],
            Self::Containerd => &["ctr", "version"],
        }
    }
}

/// Whether `--load` asks for anything.
pub(crate) fn is_asked(value: Option<&str>) -> bool {
    value.is_some_and(|value| !matches!(value, "false" | "0"))
}

/// The engine that `--load=ENGINE` names; `None`: any.
pub(crate) fn engine(value: Option<&str>) -> Result<Option<Engine>, CommandError> {
    let Some(text) = value.filter(|value| !matches!(*value, "true" | "1" | "false" | "0")) else {
        return Ok(None);
    };
    let found = Engine::ALL.into_iter().find(|engine| engine.name() == text);
    found.map(Some).ok_or_else(|| {
        CommandError::usage(format!("--load={text}: unknown engine"))
            .hint("engines are docker, podman, containerd; --load alone takes the first that is there")
    })
}

/// Takes archives of images. Clones share what the engine said.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    engine: Engine,
    said: Arc<Mutex<String>>,
}

impl Loader {
    /// The engine that was asked for, or the first that is there.
    ///
    /// Errors: why none can be used, each in its own words.
    pub(crate) async fn find(wanted: Option<Engine>) -> Result<Self, CommandError> {
        let candidates = wanted.map_or_else(|| Engine::ALL.to_vec(), |engine| vec![engine]);
        let mut reasons = Vec::new();
        for engine in candidates {
            match probe(engine).await {
                Ok(()) => return Ok(Self { engine, said: Arc::default() }),
                Err(reason) => reasons.push(format!("{}: {reason}", engine.name())),
            }
        }
        let what =
            wanted.map_or_else(|| "no container engine".to_owned(), |engine| format!("no {}", engine.name()));
        let mut error = CommandError::new(format!("--load: {what} can be used here"));
        for reason in reasons {
            error = error.hint(reason);
        }
        Err(error.hint("-o type=docker,dest=FILE writes an archive that each of them loads"))
    }

    /// What the engine's program printed.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts the engine's program. It is told the end by a flush, and killed if there is none.
    pub(crate) fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {}", self.engine.load().join(" "), os_text(&error)))
        };
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = command(self.engine.load());
        command.stdin(Stdio::piped()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take();
        Ok(Box::new(Pipe { loader: self.clone(), child: Some(child), input, stdout, stderr }))
    }
}

fn command(words: &[&str]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().copied().unwrap_or_default());
    command.args(words);
    command
}

/// Asks an engine whether it is there. Errors: why not.
async fn probe(engine: Engine) -> Result<(), String> {
    let words = engine.probe();
    let program = words.first().copied().unwrap_or_default();
    if !is_on_path(program) {
        return Err(format!("`{program}` is not in PATH"));
    }
    let mut command = tokio::process::Command::from(command(words));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER, command.output()).await;
    let output = output.map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))?;
    let output = output.map_err(|error| os_text(&error))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(last_line(&String::from_utf8_lossy(&output.stderr), &output.status.to_string())),
    }
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(OsStr::new(&path)).any(|dir| {
        let meta = std::fs::metadata(dir.join(program));
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// The line in which programs say what went wrong.
fn last_line(text: &str, otherwise: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or(otherwise).to_owned()
}

/// An archive on its way into an engine.
#[derive(Debug)]
struct Pipe {
    loader: Loader,
    child: Option<Child>,
    input: Option<ChildStdin>,
    stdout: std::fs::File,
    stderr: std::fs::File,
}

impl Pipe {
    /// Closes the archive and waits for the engine's verdict.
    fn finish(&mut self) -> io::Result<()> {
        drop(self.input.take());
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let status = child.wait()?;
        let name = self.loader.engine.load().join(" ");
        if !status.success() {
            let said = read(&mut self.stderr)?;
            return Err(io::Error::other(format!("{name}: {}", last_line(&said, &status.to_string()))));
        }
        let said = read(&mut self.stdout)?;
        *self.loader.said.lock().unwrap_or_else(PoisonError::into_inner) = said.trim().to_owned();
        Ok(())
    }
}

impl Write for Pipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let Some(input) = &mut self.input else { return Err(io::ErrorKind::BrokenPipe.into()) };
        match input.write(data) {
            // It ended before the archive did: what it says about that is the error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.finish()?;
                Err(error)
            }
            written => written,
        }
    }

    /// The archive is whole.
    fn flush(&mut self) -> io::Result<()> {
        self.finish()
    }
}

impl Drop for Pipe {
    /// The archive is not whole: nothing of it must be loaded. On a blocking thread, as all of this.
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
            tracing::debug!(%error, "ending the program that loads the image");
        }
    }
}

fn read(file: &mut std::fs::File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_SAID).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
