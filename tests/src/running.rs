use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use crate::{TestOutput, TestSpace};

/// Waits for a state that another process brings about; panics if it does not come.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many processes have exactly this command line.
pub fn processes(args: &[&str]) -> usize {
    let mut wanted = args.join("\0").into_bytes();
    wanted.push(0);
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted))
        .count()
}

/// A command that runs beside the test and whose output can be looked at meanwhile.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    space: TestSpace,
}

impl Running {
    /// Starts it, both streams going to files.
    pub fn start(mut command: Command) -> Self {
        let space = TestSpace::new();
        let file = |name| std::fs::File::create(space.at(name)).unwrap();
        command.stdout(file("stdout")).stderr(file("stderr"));
        Self { command: format!("{command:?}"), child: command.spawn().unwrap(), space }
    }

    fn printed(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.space.at(name)).unwrap()
    }

    /// Waits until it has printed the text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        wait_until(text, || {
            ["stdout", "stderr"]
                .iter()
                .any(|name| String::from_utf8_lossy(&self.printed(name)).contains(text))
        });
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        crate::run("kill", &["-TERM", &self.child.id().to_string()]).success();
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn end(mut self) -> TestOutput {
        let status = self.child.wait().unwrap();
        let output = Output { status, stdout: self.printed("stdout"), stderr: self.printed("stderr") };
        TestOutput::new(self.command, &output)
    }
}
