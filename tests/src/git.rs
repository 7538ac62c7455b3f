use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::{TestOutput, TestSpace};

/// `git http-backend` behind a small web server on loopback, for the repositories below a folder.
#[derive(Debug)]
pub struct TestGit {
    /// `127.0.0.1:port`.
    pub host: String,
    space: TestSpace,
    seen: Arc<Mutex<Vec<Request>>>,
}

/// A request that came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// With the query.
    pub target: String,
    /// `Authorization`, if there was one.
    pub authorization: Option<String>,
    method: String,
    headers: BTreeMap<String, String>,
}

/// How the server behaves.
#[derive(Debug, Clone, Default)]
pub struct GitServerOptions {
    /// `Authorization` without which nothing is served.
    pub authorization: Option<String>,
    /// All requests are sent on to this host.
    pub redirect: Option<String>,
}

impl TestGit {
    /// Serves to everybody.
    pub fn start() -> Self {
        Self::start_with(GitServerOptions::default())
    }

    /// Serves as the options say. The server's threads live as long as the process.
    pub fn start_with(options: GitServerOptions) -> Self {
        let space = TestSpace::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (root, seen) = (space.path().to_owned(), Arc::new(Mutex::new(Vec::new())));
        let log = seen.clone();
        #[allow(clippy::disallowed_methods, reason = "a server of the test's own, as long as the process")]
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (root, options, log) = (root.clone(), options.clone(), log.clone());
                std::thread::spawn(move || {
                    if let Err(error) = serve(&stream.unwrap(), &root, &options, &log) {
                        eprintln!("git server: {error}");
                    }
                });
            }
        });
        Self { host, space, seen }
    }

    /// The address of a repository.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.host)
    }

    /// Where a repository of the server is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.space.at(name)
    }

    /// Offers what is in `work` under `name`, with all its refs.
    pub fn publish(&self, work: &TestRepo, name: &str) {
        let (from, to) = (work.space.path().display().to_string(), self.path(name).display().to_string());
        git(Path::new("/"), &["clone", "-q", "--mirror", &from, &to]).success();
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// A repository in the making, on branch `main`.
#[derive(Debug)]
pub struct TestRepo {
    /// Its files.
    pub space: TestSpace,
}

impl TestRepo {
    /// An empty one.
    #[allow(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        let repo = Self { space: TestSpace::new() };
        repo.git(&["init", "-q", "-b", "main"]);
        repo
    }

    /// Runs git in it; gives what it printed.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        git(self.space.path(), args).success().stdout.trim().to_owned()
    }

    /// Commits all files; gives the commit.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Commits a tree of entries that git itself would not take: mode and name of each, with its content; that of a
    /// directory (`040000`) is the id of a tree.
    #[track_caller]
    pub fn commit_tree(&self, entries: &[(&str, &str, &str)]) -> String {
        let tree = self.tree(entries);
        let commit = self.git(&["commit-tree", "-m", "x", &tree]);
        self.git(&["update-ref", "refs/heads/main", &commit]);
        commit
    }

    /// Makes a tree of such entries; gives its id.
    #[track_caller]
    pub fn tree(&self, entries: &[(&str, &str, &str)]) -> String {
        let mut list = String::new();
        for (mode, name, content) in entries {
            let (kind, object) = match *mode {
                "040000" => ("tree", (*content).to_owned()),
                _ => {
                    self.space.write(".git/entry", content);
                    ("blob", self.git(&["hash-object", "-w", "--no-filters", ".git/entry"]))
                }
            };
            list.push_str(&format!("{mode} {kind} {object}\t{name}\n"));
        }
        self.space.write(".git/entries", list);
        let script = "git mktree < .git/entries";
        crate::run_in(self.space.path(), "sh", &["-c", script]).success().stdout.trim().to_owned()
    }
}

/// Git with a fixed author and time, and without the user's configuration.
#[must_use]
#[track_caller]
fn git(dir: &Path, args: &[&str]) -> TestOutput {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.com");
        command.env(format!("GIT_{who}_DATE"), "2020-01-02T03:04:05Z");
    }
    let output = command.output().unwrap_or_else(|err| panic!("git: {err} (is its package installed?)"));
    TestOutput::new(format!("git {}", args.join(" ")), &output)
}

fn serve(
    stream: &TcpStream,
    root: &Path,
    options: &GitServerOptions,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read_request(&mut reader)?;
    log.lock().unwrap().push(request.clone());
    let mut out = stream;
    if let Some(host) = &options.redirect {
        let target = &request.target;
        return write!(
            out,
            "HTTP/1.1 302 Found\r\nLocation: http://{host}{target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if options.authorization.is_some() && request.authorization != options.authorization {
        return out.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let length: u64 = request.headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", length.to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(&body)?;
    let mut answer = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut answer)?;
    child.wait()?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    write!(out, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    out.write_all(&answer)
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let mut request = Request { method, target, ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        request.headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    request.authorization = request.headers.get("authorization").cloned();
    Ok(request)
}
