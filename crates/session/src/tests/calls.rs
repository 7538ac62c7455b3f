use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rbuild_digest::Hasher;
use rbuild_sys::Root;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::Code;

use super::*;
use crate::client::{
    DockerAuth, DockerConfig, ExportDestination, ExportTargets, LocalDir, LocalDirs, SecretSource, Secrets,
    SshAgents, TokenFetcher,
};
use crate::filesync::{ExportRoot, FileSyncRequest, ReceiveOptions, RecordHasher, Stat, receive};
use crate::{Credentials, SessionError, SshSocket, Token, TokenRequest};

struct Plain;

impl RecordHasher for Plain {
    fn start(&self, _: &Stat) -> Hasher {
        Hasher::new()
    }
}

async fn fetch(session: &Session, name: &str, to: &Path) -> crate::Result<crate::filesync::TreeIndex> {
    let request =
        FileSyncRequest { name: name.into(), exclude: vec!["ü*".into()], ..FileSyncRequest::default() };
    let root = Root::open(to).unwrap();
    receive(session, &request, root, None, Arc::new(Plain), &ReceiveOptions::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_context_is_fetched_and_no_other_directory() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(from.path(), "a/b", "hello");
    write(from.path(), "über", "excluded");
    write(from.path(), "secret.key", "never");
    write(from.path(), "big", &"x".repeat(5_000_000));
    let mut dirs = LocalDirs::new();
    let dir = LocalDir::new(from.path()).exclude(vec!["*.key".into()]);
    dirs.add("context", dir).unwrap();
    let mut world = World::new();
    let session = world.session(ClientSession::builder().dirs(dirs).build()).await;
    let index = fetch(&session, "context", to.path()).await.unwrap();
    let paths: Vec<_> =
        index.entries().iter().map(|entry| std::str::from_utf8(&entry.stat.path).unwrap()).collect();
    assert_eq!(paths, ["a", "a/b", "big"]);
    assert_eq!(std::fs::read(to.path().join("big")).unwrap().len(), 5_000_000);
    for name in ["", "..", "/etc", "dockerfile"] {
        let err = fetch(&session, name, to.path()).await.unwrap_err();
        assert!(err.is_not_found() && err.to_string().contains("no access allowed to dir"), "{err}");
    }
}

#[tokio::test]
async fn methods_that_were_not_listed_are_not_called() {
    let mut world = World::new();
    let session = world.session(ClientSession::builder().build()).await;
    let to = tempfile::tempdir().unwrap();
    let err = fetch(&session, "context", to.path()).await.unwrap_err();
    assert!(matches!(err, SessionError::Unsupported { .. }), "{err}");
    assert!(session.credentials("x").await.unwrap_err().is_unsupported());
    assert!(session.get_secret("x").await.unwrap_err().is_not_found());
    assert!(session.ssh_check("").await.unwrap_err().is_unsupported());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_session_that_ends_breaks_off_its_transfers() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(from.path(), "big", &"x".repeat(50_000_000));
    let mut dirs = LocalDirs::new();
    dirs.add("context", LocalDir::new(from.path())).unwrap();
    let mut world = World::new();
    let client = ClientSession::builder().dirs(dirs).build();
    let session = world.session(client.clone()).await;
    let counter = crate::filesync::TransferCounter::new();
    let options = ReceiveOptions { counter: counter.clone(), ..ReceiveOptions::default() };
    let request = FileSyncRequest { name: "context".into(), ..FileSyncRequest::default() };
    let root = Root::open(to.path()).unwrap();
    let transfer = receive(&session, &request, root, None, Arc::new(Plain), &options);
    let cut = async {
        while counter.bytes() < 100_000 {
            tokio::task::yield_now().await;
        }
        client.close();
    };
    let (result, ()) = tokio::join!(transfer, cut);
    assert!(result.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_results_are_sent_into_a_directory() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(from.path(), "bin/tool", "run");
    symlink("tool", from.path().join("bin/alias")).unwrap();
    std::fs::set_permissions(from.path().join("bin/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(from.path().join("bin/tool"), Some(1234), Some(99)).unwrap();
    let out = to.path().join("not/there/yet");
    let mut targets = ExportTargets::new();
    targets.add(1, ExportDestination::Directory(out.clone()));
    let mut world = World::new();
    let session = world.session(ClientSession::builder().targets(targets).build()).await;
    let roots =
        || vec![ExportRoot { directory: None, root: Root::open(from.path()).unwrap(), extra: Vec::new() }];
    let told = Mutex::new(0);
    let tell = |bytes: u64| *told.lock() = bytes;
    session.send_tree(1, Vec::new(), roots(), Some(42), &tell).await.unwrap();
    let meta = std::fs::metadata(out.join("bin/alias")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.uid()), (0o755, 42, 0));
    assert!(*told.lock() >= 3);
    let err = session.send_tree(0, Vec::new(), roots(), None, &tell).await.unwrap_err();
    assert!(err.is_not_found(), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_becomes_a_file_when_it_is_whole() {
    let to = tempfile::tempdir().unwrap();
    let (path, seen) = (to.path().join("out.tar"), Arc::new(Mutex::new(Vec::new())));
    let mut targets = ExportTargets::new();
    targets.add(0, ExportDestination::File(path.clone()));
    let copy = seen.clone();
    let open = move |pairs: &BTreeMap<String, String>| {
        copy.lock().extend(pairs.iter().map(|(key, value)| format!("{key}={value}")));
        Ok(None)
    };
    targets.add(1, ExportDestination::Stream(Arc::new(open)));
    let mut world = World::new();
    let session = world.session(ClientSession::builder().targets(targets).build()).await;

    let mut sink = session.send_file(0, Vec::new()).await.unwrap();
    sink.send(Bytes::from(vec![1; 700_000])).await.unwrap();
    drop(sink);
    let mut sink = session.send_file(0, Vec::new()).await.unwrap();
    sink.send(Bytes::from(vec![2; 1_000_000])).await.unwrap();
    assert!(!path.exists());
    sink.finish().await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), vec![2; 1_000_000]);

    let pairs = vec![("containerimage.digest".to_owned(), "sha256:0".to_owned())];
    let err = session.send_file(1, pairs).await.unwrap().finish().await.unwrap_err();
    assert_eq!(err.code(), Code::AlreadyExists);
    assert_eq!(*seen.lock(), ["containerimage.digest=sha256:0"]);
    // The half file has gone, too, as soon as its stream was reset.
    let left = || std::fs::read_dir(to.path()).unwrap().count();
    while left() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn secrets_come_from_files_and_values_and_have_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "s", "from file");
    let mut secrets = Secrets::new();
    secrets.add("file", SecretSource::File(dir.path().join("s"))).unwrap();
    secrets.add("value", SecretSource::Value(vec![0, 255])).unwrap();
    assert!(secrets.add("none", SecretSource::Env("NO_SUCH_VARIABLE_HERE".into())).is_err());
    assert!(secrets.add("none", SecretSource::File(dir.path().join("none"))).is_err());
    assert!(secrets.add("large", SecretSource::Value(vec![0; 500 * 1024 + 1])).is_err());
    let mut world = World::new();
    let session = world.session(ClientSession::builder().secrets(secrets).build()).await;
    assert_eq!(session.get_secret("file").await.unwrap(), b"from file");
    assert_eq!(session.get_secret("value").await.unwrap(), [0, 255]);
    assert!(session.get_secret("none").await.unwrap_err().is_not_found());
}

const CONFIG: &str = r#"{
    "auths": {
        "https://index.docker.io/v1/": {"auth": "aHVi OnBhc3M6d29yZA=="},
        "https://one.example/v2/": {"auth": "dXNlcjpwYXNzOndvcmQ="},
        "two.example:5000": {"identitytoken": "opaque", "auth": "dXNlcjo="},
        "bad.example": {"auth": "!"}
    },
    "HttpHeaders": {"x": "y"}
}"#;

fn pair(username: &str, secret: &str) -> Credentials {
    Credentials { username: username.into(), secret: secret.into() }
}

#[tokio::test]
async fn credentials_are_found_in_the_docker_configuration() {
    let config = DockerConfig::parse(CONFIG.replace("aHVi ", "aHVi").as_bytes()).unwrap();
    let auth = DockerAuth::new(config);
    let mut world = World::new();
    let session = world.session(ClientSession::builder().auth(Arc::new(auth)).build()).await;
    assert_eq!(session.credentials("registry-1.docker.io").await.unwrap(), pair("hub", "pass:word"));
    assert_eq!(session.credentials("one.example").await.unwrap(), pair("user", "pass:word"));
    assert_eq!(session.credentials("two.example:5000").await.unwrap(), pair("", "opaque"));
    assert!(session.credentials("two.example").await.unwrap().is_empty());
    assert!(session.credentials("bad.example").await.unwrap_err().to_string().contains("malformed"));
    assert_eq!(session.token_authority("one.example", b"salt").await.unwrap(), None);
    assert!(session.fetch_token(&TokenRequest::default()).await.unwrap_err().is_unsupported());
}

#[tokio::test]
async fn only_named_hosts_are_answered_if_asked_to() {
    let config = DockerConfig::parse(CONFIG.as_bytes()).unwrap();
    let auth = DockerAuth::new(config).only(["one.example".to_owned()]);
    let mut world = World::new();
    let session = world.session(ClientSession::builder().auth(Arc::new(auth)).build()).await;
    assert!(!session.credentials("one.example").await.unwrap().is_empty());
    assert!(session.credentials("two.example:5000").await.unwrap().is_empty());
}

/// Puts a helper on the path of this process; names differ between tests, so that they do not meet.
fn helper(name: &str, script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("docker-credential-{name}"));
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

#[tokio::test]
async fn credential_helpers_are_asked() {
    let script = r#"#!/bin/sh
read host
case "$1 $host" in
    "get one.example") echo '{"ServerURL":"one.example","Username":"u","Secret":"s"}' ;;
    "get two.example") echo '{"Username":"<token>","Secret":"t"}' ;;
    "get bad.example") echo boom; exit 3 ;;
    *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"#;
    let dir = helper("test", script);
    // A helper is found through PATH; a name with a path never runs.
    let config = format!(
        r#"{{"credsStore": "test", "credHelpers": {{"evil.example": "../{}"}}}}"#,
        dir.path().display()
    );
    let config = DockerConfig::parse(config.as_bytes()).unwrap().with_search_path(dir.path());
    assert_eq!(config.credentials("one.example").await.unwrap(), pair("u", "s"));
    assert_eq!(config.credentials("two.example").await.unwrap(), pair("", "t"));
    assert!(config.credentials("three.example").await.unwrap().is_empty());
    assert!(config.credentials("bad.example").await.unwrap_err().to_string().contains("boom"));
    assert!(config.credentials("evil.example").await.unwrap_err().to_string().contains("without a path"));
}

#[derive(Debug)]
struct Fetcher;

#[async_trait::async_trait]
impl TokenFetcher for Fetcher {
    async fn fetch(&self, credentials: &Credentials, request: &TokenRequest) -> crate::Result<Token> {
        let token = format!("{}@{} {}", credentials.username, request.realm, request.scopes.join(","));
        Ok(Token { token, expires_in_s: 60, issued_at_unix_s: 7 })
    }
}

#[tokio::test]
async fn tokens_are_fetched_by_the_client() {
    let config = DockerConfig::parse(CONFIG.as_bytes()).unwrap();
    let auth = DockerAuth::new(config).with_fetcher(Arc::new(Fetcher));
    let mut world = World::new();
    let session = world.session(ClientSession::builder().auth(Arc::new(auth)).build()).await;
    let request = TokenRequest {
        host: "one.example".into(),
        realm: "https://auth.example".into(),
        scopes: vec!["a".into(), "b".into()],
        ..TokenRequest::default()
    };
    let token = session.fetch_token(&request).await.unwrap();
    assert_eq!(
        token,
        Token { token: "user@https://auth.example a,b".into(), expires_in_s: 60, issued_at_unix_s: 7 }
    );
}

/// An agent that answers every request with its own kind.
async fn echo_agent(path: PathBuf, seen: Arc<Mutex<Vec<u8>>>) {
    let listener = UnixListener::bind(path).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        while let Ok(len) = stream.read_u32().await {
            let mut body = vec![0; len as usize];
            stream.read_exact(&mut body).await.unwrap();
            seen.lock().push(body[0]);
            stream.write_all(&[0, 0, 0, 2, body[0] + 1, 7]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lists_and_signs_and_does_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, seen) = (dir.path().join("agent"), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = JoinSet::new();
    tasks.spawn(echo_agent(socket.clone(), seen.clone()));
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let mut agents = SshAgents::new();
    agents.add("", Some(&socket)).unwrap();
    write(dir.path(), "key", "-----BEGIN");
    let err = agents.add("k", Some(&dir.path().join("key"))).unwrap_err();
    assert!(err.to_string().contains("ssh-add"), "{err}");
    let mut world = World::new();
    let session = world.session(ClientSession::builder().ssh(agents).build()).await;
    session.ssh_check("default").await.unwrap();
    assert!(session.ssh_check("other").await.unwrap_err().is_not_found());

    let inside = dir.path().join("in-container");
    let served = SshSocket::bind(&session, "", &inside, 1000, 1000, 0o600).unwrap();
    let mut stream = UnixStream::connect(&inside).await.unwrap();
    // list; sign; add (17), remove all (19), lock (22), extension (27): refused; list again
    for (kind, answer) in [(11, 12), (13, 14), (17, 5), (19, 5), (22, 5), (27, 5), (11, 12)] {
        stream.write_all(&[0, 0, 0, 3, kind, 1, 2]).await.unwrap();
        let len = stream.read_u32().await.unwrap();
        let mut body = vec![0; len as usize];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(body[0], answer, "{kind}");
    }
    assert_eq!(*seen.lock(), [11, 13, 11]);
    stream.write_all(&[0xff; 8]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    drop(served);
    assert!(!inside.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_agent_can_be_used_through_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let agent =
        tokio::process::Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).kill_on_drop(true).spawn();
    let Ok(_agent) = agent else { return }; // none installed
    while !socket.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let mut agents = SshAgents::new();
    agents.add("default", Some(&socket)).unwrap();
    let mut world = World::new();
    let session = world.session(ClientSession::builder().ssh(agents).build()).await;
    let inside = dir.path().join("inside");
    let _served = SshSocket::bind(&session, "default", &inside, 0, 0, 0o600).unwrap();
    let list = tokio::process::Command::new("ssh-add")
        .arg("-l")
        .env("SSH_AUTH_SOCK", &inside)
        .output()
        .await
        .unwrap();
    assert_eq!(list.status.code(), Some(1), "{list:?}"); // "The agent has no identities."
}
