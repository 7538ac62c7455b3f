use std::process::Output;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct TestOutput {
    /// The command line, for messages.
    pub command: String,
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl TestOutput {
    /// Wraps the output of a finished command.
    pub fn new(command: String, output: &Output) -> Self {
        Self {
            command,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Panics unless the command succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{} failed:\n{}", self.command, self.all());
        self
    }

    /// Panics unless the command failed with an exit status (a signal is no clean failure).
    #[track_caller]
    pub fn failure(self) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "{} did not fail:\n{}", self.command, self.all());
        assert!(!self.all().contains("panicked at"), "{} panicked:\n{}", self.command, self.all());
        self
    }

    /// Panics unless the output contains the text.
    #[track_caller]
    pub fn has(self, text: &str) -> Self {
        assert!(
            self.all().contains(text),
            "`{text}` is not in the output of {}:\n{}",
            self.command,
            self.all()
        );
        self
    }

    /// Panics if the output contains the text.
    #[track_caller]
    pub fn lacks(self, text: &str) -> Self {
        assert!(!self.all().contains(text), "`{text}` is in the output of {}:\n{}", self.command, self.all());
        self
    }

    /// The lines of plain progress that belong to the vertex whose first line contains `name`.
    pub fn step(&self, name: &str) -> Vec<String> {
        let all = self.all();
        let Some(id) = all.lines().find(|line| line.starts_with('#') && line.contains(name)) else {
            return Vec::new();
        };
        let id = id.split(' ').next().unwrap_or_default();
        all.lines().filter(|line| line.split(' ').next() == Some(id)).map(str::to_owned).collect()
    }

    /// Whether plain progress shows the vertex as cached. Panics if it does not show it at all.
    #[track_caller]
    pub fn cached(&self, name: &str) -> bool {
        let lines = self.step(name);
        assert!(!lines.is_empty(), "no step `{name}` in the output of {}:\n{}", self.command, self.all());
        lines.iter().any(|line| line.ends_with(" CACHED"))
    }
}
