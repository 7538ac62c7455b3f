//! Finding the program, and becoming it.

use std::convert::Infallible;
use std::ffi::CString;
use std::path::Path;

use rustix::fs::Access;
use rustix::io::Errno;

use crate::error::Failure;
use crate::spec::DEFAULT_PATH;

/// The step's environment: the last of a name counts, `PATH` and `HOME` are never missing.
pub(crate) fn environment(given: &[String], home: impl FnOnce() -> String) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(given.len() + 2);
    for entry in given {
        let name = name(entry);
        match env.iter_mut().find(|known| self::name(known) == name) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    if value(&env, "PATH").is_none() {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if value(&env, "HOME").is_none_or(str::is_empty) {
        env.retain(|entry| name(entry) != "HOME");
        env.push(format!("HOME={}", home()));
    }
    env
}

fn name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The value of `want` in `env`.
pub(super) fn value<'a>(env: &'a [String], want: &str) -> Option<&'a str> {
    env.iter()
        .find_map(|entry| entry.split_once('=').filter(|(name, _)| *name == want).map(|(_, value)| value))
}

/// Replaces this process by the program.
pub(super) fn exec(args: &[String], env: &[String]) -> Result<Infallible, Failure> {
    let program = args.first().map(String::as_str).unwrap_or_default();
    let path = find(program, value(env, "PATH").unwrap_or_default())?;
    let c = |text: &String| {
        CString::new(text.as_str()).map_err(|_| Failure::setup("exec", "an argument holds a NUL byte"))
    };
    let argv = args.iter().map(c).collect::<Result<Vec<_>, _>>()?;
    let envp = env.iter().map(c).collect::<Result<Vec<_>, _>>()?;
    let file = c(&path)?;
    let errno = match nix::unistd::execve(&file, &argv, &envp) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    let exit_code = if errno == nix::errno::Errno::ENOENT { 127 } else { 126 };
    let reason = errno.desc().to_lowercase();
    Err(Failure::Start { message: format!("exec {path}: {reason}"), exit_code })
}

/// Looks a program up as upstream's runtime does, and fails in its words.
fn find(program: &str, path: &str) -> Result<String, Failure> {
    let start = |message: String, exit_code| Failure::Start { message, exit_code };
    if program.contains('/') {
        return match check(program) {
            Ok(()) => Ok(program.into()),
            Err(Errno::ACCESS) => Err(start(format!("exec: {program:?}: permission denied"), 126)),
            Err(Errno::ISDIR) => Err(start(format!("exec: {program:?}: is a directory"), 126)),
            Err(errno) => {
                let reason = std::io::Error::from(errno).kind();
                Err(start(format!("exec: {program:?}: stat {program}: {}", reason_text(reason, errno)), 127))
            }
        };
    }
    let mut denied = false;
    for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
        let candidate = format!("{}/{program}", dir.trim_end_matches('/'));
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    if denied {
        return Err(start(format!("exec: {program:?}: permission denied"), 126));
    }
    Err(start(format!("exec: {program:?}: executable file not found in $PATH"), 127))
}

fn reason_text(kind: std::io::ErrorKind, errno: Errno) -> String {
    match kind {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        _ => nix::errno::Errno::from_raw(errno.raw_os_error()).desc().to_lowercase(),
    }
}

/// Is this a file that we may execute?
fn check(path: &str) -> Result<(), Errno> {
    let stat = rustix::fs::stat(Path::new(path))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    rustix::fs::access(Path::new(path), Access::EXEC_OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts_and_defaults_are_added() {
        let given = ["A=1", "B=2", "A=3", "HOME="].map(String::from);
        let env = environment(&given, || "/root".into());
        assert_eq!(env, ["A=3", "B=2", &format!("PATH={DEFAULT_PATH}"), "HOME=/root"]);
        let given = ["PATH=/x", "HOME=/h"].map(String::from);
        assert_eq!(environment(&given, || unreachable!()), given);
    }

    #[test]
    fn missing_programs_are_told_in_the_usual_words() {
        let text = |program: &str| match find(program, "relative:/usr/bin:/bin") {
            Err(Failure::Start { message, exit_code }) => (message, exit_code),
            other => panic!("{other:?}"),
        };
        assert_eq!(text("no-such"), ("exec: \"no-such\": executable file not found in $PATH".into(), 127));
        assert_eq!(
            text("/no/such"),
            ("exec: \"/no/such\": stat /no/such: no such file or directory".into(), 127)
        );
        assert_eq!(text("/etc/passwd"), ("exec: \"/etc/passwd\": permission denied".into(), 126));
        assert_eq!(text("/etc"), ("exec: \"/etc\": is a directory".into(), 126));
        assert_eq!(find("sh", "/nowhere:/bin/").unwrap(), "/bin/sh");
    }
}
