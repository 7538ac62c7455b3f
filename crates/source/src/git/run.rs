//! Runs the system's git, shut in.
//!
//! A child leads a process group of its own; whoever drops the run kills the group. It sees no environment but what is
//! set here, no configuration but that of the call, and only four transports. Nothing secret is an argument.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::{SourceError, SourceRequest};

/// Without a word for this long, a remote end has stalled. Transfers tell of their progress all the time.
const STALL: Duration = Duration::from_secs(120);
/// What git may answer to a question: lists of refs, of submodules.
pub(super) const MAX_ANSWER: usize = 16 << 20;
/// How much of git's last words an error repeats.
const MAX_DETAIL: usize = 2048;
/// Longer lines are shown in pieces.
const MAX_LINE: usize = 16 << 10;
/// Variables of the daemon's own environment that git may see: where programs are, how the network is reached.
const KEPT: [&str; 11] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// Files that git writes get the modes that they have everywhere, whatever the daemon was started with. A limit that is
/// lower already stays. Who writes beyond it is told so, instead of being killed.
const START: &str = "umask 022; trap '' XFSZ; ulimit -S -f \"$1\" 2>/dev/null || :; shift; exec git \"$@\"";
/// The unit of `ulimit -f`.
const BLOCK: u64 = 512;
/// Configuration of every run.
const CONFIG: [(&str, &str); 22] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("protocol.allow", "user"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("transfer.bundleURI", "false"),
    ("transfer.unpackLimit", "1"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("checkout.workers", "0"),
    ("advice.detachedHead", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
];

/// How git is run: where, and with which further settings.
#[derive(Debug, Clone)]
pub(super) struct Git {
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
    config: Vec<(String, String)>,
    /// No file that it writes is larger.
    max_file_bytes: u64,
}

/// Kills what is left of a child's group.
#[derive(Debug)]
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take()
            && let Err(error) = rbuild_sys::process::kill_group(leader)
        {
            tracing::debug!(%error, leader, "killing git");
        }
    }
}

impl Git {
    /// In an empty directory `home`, which is also what git takes for the user's. A pack, or any other file, of more
    /// than `max_file_bytes` ends it.
    pub(super) fn new(home: &Path, max_file_bytes: u64) -> Self {
        let mut git = Self { dir: home.to_owned(), env: Vec::new(), config: Vec::new(), max_file_bytes };
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                git.env.push((name.into(), value));
            }
        }
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("GIT_ALLOW_PROTOCOL", "http:https:ssh:git"),
            ("GIT_PROTOCOL_FROM_USER", "0"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            // Without an agent or hosts of its own, no ssh: the access to a repository sets another.
            ("GIT_SSH_COMMAND", "/bin/false"),
            ("GIT_SSH_VARIANT", "ssh"),
            ("LC_ALL", "C"),
        ] {
            git = git.env(name, value);
        }
        for name in ["HOME", "XDG_CONFIG_HOME", "GIT_CEILING_DIRECTORIES"] {
            git = git.env(name, home);
        }
        git
    }

    /// Sets a variable; the last one counts.
    pub(super) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets a configuration value, by way of the environment.
    pub(super) fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((name.into(), value.into()));
        self
    }

    /// Runs in `dir`, one of ours.
    pub(super) fn at(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        let blocks = self.max_file_bytes.div_ceil(BLOCK).to_string();
        command.args(["-c", START, "git", &blocks]).args(args);
        command.current_dir(&self.dir).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        let own = self.config.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut count = 0;
        for (name, value) in CONFIG.into_iter().chain(own) {
            command.env(format!("GIT_CONFIG_KEY_{count}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs it and gives what it printed, which is shown, too. For questions to a server.
    pub(super) async fn ask(&self, request: &SourceRequest, args: &[&str]) -> Result<String, SourceError> {
        let output = self.run(request, args, Some(STALL)).await?;
        request.reporter.log(1, output.as_bytes());
        Ok(output)
    }

    /// Runs it against a server; what it says is shown.
    pub(super) async fn talk(&self, request: &SourceRequest, args: &[&str]) -> Result<(), SourceError> {
        self.run(request, args, Some(STALL)).await.map(drop)
    }

    /// Runs it on files of ours; gives what it printed.
    pub(super) async fn local(&self, request: &SourceRequest, args: &[&str]) -> Result<String, SourceError> {
        self.run(request, args, None).await
    }

    async fn run(
        &self,
        request: &SourceRequest,
        args: &[&str],
        stall: Option<Duration>,
    ) -> Result<String, SourceError> {
        let what = format!("git {}", args.first().copied().unwrap_or_default());
        let mut child = self.command(args).spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                SourceError::NotFound { what: "/bin/sh, or the program git,".into() }
            }
            _ => SourceError::io(what.clone(), error),
        })?;
        let mut group = Group(child.id());
        let mut words = Words::new(request);
        let answer = listen(&mut child, &what, stall, &mut words).await?;
        let status = child.wait().await.map_err(|error| SourceError::io(what.clone(), error))?;
        // Waited for: the number may be another's from here on.
        group.0 = None;
        words.end();
        if status.code() == Some(127) {
            return Err(SourceError::Command {
                what,
                detail: "the program git is not installed beside the daemon".into(),
            });
        }
        if !status.success() {
            return Err(SourceError::Command { what, detail: words.last_words(status, self.max_file_bytes) });
        }
        String::from_utf8(answer)
            .map_err(|_| SourceError::Command { what, detail: "its answer is not text".into() })
    }
}

/// Reads both pipes to their ends.
async fn listen(
    child: &mut Child,
    what: &str,
    stall: Option<Duration>,
    words: &mut Words<'_>,
) -> Result<Vec<u8>, SourceError> {
    let failed = |error| SourceError::io(what, error);
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut answer = Vec::new();
    let (mut out, mut err) = ([0; 8192], [0; 8192]);
    while stdout.is_some() || stderr.is_some() {
        let limit = async {
            match stall {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = next(&mut stdout, &mut out) => match read.map_err(failed)? {
                0 => stdout = None,
                count if answer.len() + count > MAX_ANSWER => {
                    return Err(SourceError::LongAnswer { what: what.into(), limit: MAX_ANSWER });
                }
                count => answer.extend_from_slice(&out[..count]),
            },
            read = next(&mut stderr, &mut err) => match read.map_err(failed)? {
                0 => stderr = None,
                count => words.take(&err[..count]),
            },
            () = limit => {
                let seconds = stall.unwrap_or_default().as_secs();
                let detail = format!("the server has stalled: nothing came for {seconds} s");
                return Err(SourceError::Command { what: what.into(), detail });
            }
        }
    }
    Ok(answer)
}

/// The next bytes; never of a pipe that has ended.
async fn next(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// What git says on standard error: lines are shown, progress bars are not.
struct Words<'a> {
    request: &'a SourceRequest,
    line: Vec<u8>,
    said: Vec<u8>,
}

impl<'a> Words<'a> {
    fn new(request: &'a SourceRequest) -> Self {
        Self { request, line: Vec::new(), said: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end(),
                byte => {
                    // What follows is written over it; ssh ends its lines with both.
                    if self.line.last() == Some(&b'\r') {
                        self.line.clear();
                    }
                    self.line.push(*byte);
                }
            }
            if self.line.len() >= MAX_LINE {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        line.truncate(line.trim_ascii_end().len());
        if line.is_empty() || is_progress(&line) {
            return;
        }
        line.push(b'\n');
        self.request.reporter.log(2, &line);
        self.said.extend_from_slice(&line);
        if self.said.len() > 2 * MAX_DETAIL {
            self.said.drain(..self.said.len() - MAX_DETAIL);
        }
    }

    fn last_words(&self, status: std::process::ExitStatus, max_file_bytes: u64) -> String {
        let start = self.said.len().saturating_sub(MAX_DETAIL);
        let said = String::from_utf8_lossy(&self.said[start..]);
        let mut detail = format!("{}: {status}", said.trim_end());
        let asked = [
            "could not read Username",
            "Authentication failed",
            "returned error: 401",
            "returned error: 403",
        ];
        if asked.iter().any(|words| said.contains(words)) {
            detail.push_str("\nhint: give a token with --secret id=GIT_AUTH_TOKEN");
        }
        if said.contains("File too large") {
            detail.push_str(&format!("\n{}", too_large(max_file_bytes)));
        }
        if said.contains("Host key verification failed") {
            detail.push_str("\nhint: the host showed a key that is not among the known hosts of this source");
        }
        if said.contains("Permission denied (publickey") {
            detail.push_str("\nhint: forward an agent that holds the key with --ssh default");
        }
        detail
    }
}

/// What repositories may not exceed, in words.
pub(super) fn too_large(max_bytes: u64) -> String {
    format!(
        "it has more than {max_bytes} bytes, the daemon's limit for a repository (`max-repository-size` in its \
         configuration)"
    )
}

fn is_progress(line: &[u8]) -> bool {
    let text = line.strip_prefix(b"remote: ").unwrap_or(line);
    let starts = [
        "Enumerating objects",
        "Counting objects",
        "Compressing objects",
        "Total ",
        "Receiving objects",
        "Resolving deltas",
        "Updating files",
    ];
    starts.iter().any(|start| text.starts_with(start.as_bytes()))
}
