//! Programs, users, environment, streams.

use rbuild_exec::{ExecError, Input, Output, ProcessIo, Runtime, TermSize, Ulimit};
use tokio_util::sync::CancellationToken;

use crate::{Place, Text};

#[tokio::test]
async fn root_exit_codes_and_signals_come_back() {
    let place = Place::new();
    assert_eq!(place.sh("exit 0").await.code(), 0);
    assert_eq!(place.sh("exit 7").await.code(), 7);
    // The first process of a namespace is not killed by itself, so a child is.
    assert_eq!(place.sh("sh -c 'kill -TERM $$'; exit $?").await.code(), 143);
    let done = place.sh("echo out; echo err >&2").await;
    assert_eq!((done.out.as_str(), done.err.as_str()), ("out\n", "err\n"));
}

#[tokio::test]
async fn root_a_missing_program_is_an_error_in_the_usual_words() {
    let place = Place::new();
    let fails = async |args: &[&str]| {
        let mut spec = place.script("");
        spec.args = args.iter().map(ToString::to_string).collect();
        let err = place.run(spec).await.unwrap_err();
        (err.to_string(), err.exit_code())
    };
    let not_found = "exec: \"nope\": executable file not found in $PATH".to_owned();
    assert_eq!(fails(&["nope"]).await, (not_found, Some(127)));
    let (text, code) = fails(&["/bin/nope"]).await;
    assert_eq!(
        (text.as_str(), code),
        ("exec: \"/bin/nope\": stat /bin/nope: no such file or directory", Some(127))
    );
    assert_eq!(fails(&["/etc/passwd"]).await.1, Some(126));
    std::fs::write(place.path("base/bin/junk"), "\u{1}\u{2}").unwrap();
    std::process::Command::new("chmod").arg("755").arg(place.path("base/bin/junk")).status().unwrap();
    assert_eq!(fails(&["junk"]).await, ("exec /bin/junk: exec format error".into(), Some(126)));
}

#[tokio::test]
async fn root_users_are_looked_up_in_the_image() {
    let place = Place::new();
    let id = async |user: &str| {
        let mut spec = place.script("id -u; id -g; id -G; echo $HOME");
        spec.user = user.into();
        place.run(spec).await.map(|done| done.ok().replace('\n', "|"))
    };
    assert_eq!(id("").await.unwrap(), "0|0|0|/root|");
    assert_eq!(id("app").await.unwrap(), "1000|1001|1001 10|/srv/app|");
    assert_eq!(id("1000:0").await.unwrap(), "1000|0|0|/srv/app|");
    assert_eq!(id("app:wheel").await.unwrap(), "1000|10|10|/srv/app|");
    assert_eq!(id("4321").await.unwrap(), "4321|0|0|/|");
    let err = id("ghost").await.unwrap_err();
    assert_eq!(err.to_string(), "unable to find user ghost: no matching entries in passwd file");
    assert!(matches!(err, ExecError::User(_)));
}

#[tokio::test]
async fn root_odd_passwd_files_are_bounded() {
    let place = Place::new();
    let passwd = place.path("base/etc/passwd");
    std::fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
    let err = place.run(place.script("true")).await.unwrap_err();
    assert!(err.to_string().contains("exceeds"), "{err}");
    std::fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.sh("true").await.ok();
}

#[tokio::test]
async fn root_the_working_directory_is_made_and_belongs_to_the_user() {
    let place = Place::new();
    let mut spec = place.script("pwd; stat -c %u:%g /srv /srv/app .");
    spec.user = "app".into();
    spec.cwd = "/srv/app/x".into();
    assert_eq!(place.run(spec).await.unwrap().ok(), "/srv/app/x\n1000:1001\n1000:1001\n1000:1001\n");
    let mut spec = place.script("pwd");
    spec.cwd = "/etc/passwd".into();
    let err = place.run(spec).await.unwrap_err();
    assert!(err.to_string().contains("/etc/passwd"), "{err}");
}

#[tokio::test]
async fn root_no_working_directory_leads_to_the_host() {
    let place = Place::new();
    for fd in 0..20 {
        let mut spec = place.script("cat ../../../../etc/hostname ../../../../../etc/debian_version");
        spec.cwd = format!("/proc/self/fd/{fd}");
        let done = place.run(spec).await;
        assert!(!done.as_ref().is_ok_and(|done| done.status.success()), "{fd}: {done:?}");
    }
    let mut spec = place.script("pwd -P; ls -d /bin/busybox");
    spec.cwd = "/proc/self/root".into();
    assert_eq!(place.run(spec).await.unwrap().ok(), "/\n/bin/busybox\n");
}

#[tokio::test]
async fn root_the_environment_is_what_was_asked_for() {
    let place = Place::new();
    let mut spec = place.script("env");
    spec.env = vec!["A=1".into(), "A=2".into(), "PATH=/bin".into()];
    let out = place.run(spec).await.unwrap().ok();
    let mut lines: Vec<&str> =
        out.lines().filter(|line| !line.starts_with("SHLVL") && !line.starts_with("PWD")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=2", "HOME=/root", "PATH=/bin"]);
}

#[tokio::test]
async fn root_input_reaches_the_program() {
    let place = Place::new();
    let out = Text::default();
    let text = vec![b'x'; 300_000];
    let io = ProcessIo {
        stdin: Input::Reader(Box::pin(std::io::Cursor::new(text))),
        stdout: out.sink(),
        ..ProcessIo::default()
    };
    place.runtime.run(place.script("wc -c"), io, CancellationToken::new()).await.unwrap();
    assert_eq!(out.take(), "300000\n");
    assert_eq!(place.sh("wc -c").await.ok(), "0\n");
}

#[tokio::test]
async fn root_ten_megabytes_of_output_arrive() {
    let place = Place::new();
    let (tx, mut rx) = tokio::sync::mpsc::channel(2);
    let io = ProcessIo { stdout: Output::Channel { to: tx, tag: 0 }, ..ProcessIo::default() };
    let counter = async {
        let (mut bytes, mut largest) = (0, 0);
        while let Some(part) = rx.recv().await {
            bytes += part.bytes.len();
            largest = largest.max(part.bytes.len());
        }
        (bytes, largest)
    };
    let script = place.script("dd if=/dev/zero bs=1M count=10 2>/dev/null");
    let (status, (bytes, largest)) =
        tokio::join!(place.runtime.run(script, io, CancellationToken::new()), counter);
    assert!(status.unwrap().success());
    assert_eq!(bytes, 10 << 20);
    assert!(largest <= 2 * rbuild_exec::OUTPUT_BUFFER, "{largest}");
}

#[tokio::test]
async fn root_a_terminal_has_its_size_and_echoes() {
    let place = Place::new();
    let mut spec = place.script("tty; stty size; read line; echo got $line; stty size; ls /dev/console");
    spec.tty = Some(TermSize { rows: 33, cols: 77 });
    let out = Text::default();
    let (resize_tx, resize) = tokio::sync::mpsc::channel(1);
    let (mut typed, stdin) = tokio::io::duplex(64);
    let io = ProcessIo {
        stdin: Input::Reader(Box::pin(stdin)),
        stdout: out.sink(),
        resize: Some(resize),
        ..ProcessIo::default()
    };
    let user = async {
        use tokio::io::AsyncWriteExt;
        let seen = out.0.clone();
        while !String::from_utf8_lossy(&seen.lock().unwrap()).contains("33 77") {
            tokio::task::yield_now().await;
        }
        resize_tx.send(TermSize { rows: 10, cols: 20 }).await.unwrap();
        while resize_tx.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        typed.write_all(b"hello\n").await.unwrap();
        typed
    };
    let run = place.runtime.run(spec, io, CancellationToken::new());
    let both = async { tokio::join!(run, user) };
    let (status, _typed) = tokio::time::timeout(std::time::Duration::from_secs(20), both).await.unwrap();
    assert!(status.unwrap().success());
    let text = out.take();
    assert!(text.contains("/dev/pts/0\r\n33 77\r\n"), "{text}");
    assert!(text.contains("got hello\r\n10 20\r\n/dev/console"), "{text}");
}

#[tokio::test]
async fn root_limits_are_set_and_cannot_be_raised_without_the_right() {
    let place = Place::new();
    let mut spec = place.script("ulimit -n; ulimit -Hn");
    spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 64, hard: 128 }];
    assert_eq!(place.run(spec).await.unwrap().ok(), "64\n128\n");
    let mut spec = place.script("true");
    spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1 << 40, hard: 1 << 40 }];
    let err = place.run(spec).await.unwrap_err().to_string();
    assert!(err.contains("nofile"), "{err}");
}
