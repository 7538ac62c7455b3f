//! Which of the known failures an error is, and what the user can do about it. `docs/errors.md` says the same at length.

use rbuild_exec::ExecError;
use rbuild_exporter::ExportError;
use rbuild_frontend::{BuildError, ErrorCode, Fault};
use rbuild_registry::RegistryError;
use rbuild_session::SessionError;
use rbuild_source::SourceError;
use rbuild_store::StoreError;
use rbuild_worker::{OpError, OpErrorKind, OutOfMemory};

/// What the failed process of a step says about itself.
pub(crate) fn of_op(built: BuildError, error: &OpError) -> BuildError {
    if error.kind() == OpErrorKind::NoSpace {
        return disk_full(built);
    }
    match error {
        OpError::Exit { oom: Some(OutOfMemory { limit: Some(_) }), .. } => built
            .fault(Fault::StepMemory)
            .hint("the kernel ended it at its memory limit (`step-memory` of rbuildd, or what the step asks for): let it do less at once, or raise the limit"),
        OpError::Exit { oom: Some(_), .. } => built
            .fault(Fault::StepMemory)
            .hint("the kernel ended it for lack of memory: give the machine or the step more, or let it do less at once"),
        OpError::Exit { code, .. } => exit(built, *code),
        OpError::Exec { error, .. } => exec(built, error),
        OpError::Denied { entitlement, .. } => built.fault(Fault::Entitlement).hint(format!(
            "it takes both: --allow {entitlement} for the build, and --allow-insecure-entitlement {entitlement} (or \
             `insecure-entitlements` in its configuration) for rbuildd"
        )),
        OpError::Device { .. } => built
            .fault(Fault::Device)
            .hint(
                "a JSON or YAML file in /etc/cdi (or the specDirs of `[cdi]` in rbuildd's configuration) says what a device is; \
                 without `required` one that is not there is passed over: --device=NAME",
            ),
        OpError::Unsupported { .. } => built.fault(Fault::Unsupported),
        OpError::Invalid { .. } => built.fault(Fault::Request),
        OpError::NoSecret { id } => built
            .fault(Fault::NoSecret)
            .hint(format!("pass it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE")),
        OpError::NoAgent { id } => built.fault(Fault::NoAgent).hint(format!(
            "forward an agent with --ssh {id}: ssh-agent must run (SSH_AUTH_SOCK) and hold the key (ssh-add -l)"
        )),
        OpError::File(_) if error.kind() == OpErrorKind::NotFound => missing_file(built),
        OpError::File(_) => built.fault(Fault::Files),
        OpError::Store(error) => store(built, error),
        OpError::Source(error) => source(built, error),
        OpError::Session(error) => session(built, error),
        OpError::Sys(_) => built.fault(Fault::Sandbox),
        OpError::Internal { .. } => internal(built),
        // What it is was said where it happened.
        OpError::Nested { .. } | OpError::Cancelled => built,
    }
}

/// What an output lacks.
pub(crate) fn of_export(built: BuildError, error: &ExportError) -> BuildError {
    match error {
        ExportError::UnknownType(_)
        | ExportError::UnknownAttribute { .. }
        | ExportError::Attribute { .. }
        | ExportError::Result(_) => built.fault(Fault::Exporter),
        ExportError::Unsupported { .. } => built.fault(Fault::Unsupported),
        ExportError::Session(error) => session(built, error),
        ExportError::Store(error) => store(built, error),
        ExportError::Registry(error) => registry(built, error),
        ExportError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            disk_full(built)
        }
        ExportError::Content(_) | ExportError::Io { .. } => built.fault(Fault::Store),
        ExportError::Internal(_) => internal(built),
    }
}

/// Whatever nobody knew better.
pub(crate) fn by_code(built: BuildError) -> BuildError {
    match built.code {
        ErrorCode::InvalidArgument => built.fault(Fault::Request),
        ErrorCode::Unimplemented => built.fault(Fault::Unsupported),
        ErrorCode::Internal if built.known_fault().is_none() => internal(built),
        _ => built,
    }
}

fn internal(built: BuildError) -> BuildError {
    built.fault(Fault::Internal).hint("this should not happen: please report it with the log of rbuildd")
}

fn disk_full(built: BuildError) -> BuildError {
    built.fault(Fault::DiskFull).hint(
        "the file system of the daemon's state (--root) is full: `rbuildctl prune` frees what no build uses, `rbuildctl \
         du` lists it",
    )
}

fn missing_file(built: BuildError) -> BuildError {
    built.fault(Fault::NoFile).hint(
        "sources of COPY and ADD are looked up in the build context (or the stage of --from): is the path right, and not \
         left out by .dockerignore?",
    )
}

/// The signals that end programs, by number and what is behind them.
const SIGNALS: [(u32, &str, &str); 13] = [
    (1, "SIGHUP", ""),
    (2, "SIGINT", ""),
    (3, "SIGQUIT", ""),
    (4, "SIGILL", "an instruction that this CPU does not have: was the program built for another one?"),
    (6, "SIGABRT", "the program gave up by itself"),
    (7, "SIGBUS", "an access to memory that is not there"),
    (8, "SIGFPE", "a division by zero or the like"),
    (9, "SIGKILL", "somebody killed it, most often the kernel for lack of memory"),
    (11, "SIGSEGV", "a bug in the program, or a program for another system"),
    (13, "SIGPIPE", "it wrote to a program that had ended"),
    (14, "SIGALRM", ""),
    (15, "SIGTERM", "somebody asked it to end"),
    (24, "SIGXCPU", "it used more CPU time than its limit"),
];

fn exit(built: BuildError, code: u32) -> BuildError {
    match code {
        126 => not_executable(built),
        127 => not_found(built),
        code => match code.checked_sub(128).and_then(|n| SIGNALS.iter().find(|signal| signal.0 == n)) {
            Some((_, name, "")) => {
                built.fault(Fault::StepSignal).hint(format!("exit code {code} is signal {name}"))
            }
            Some((_, name, why)) => {
                built.fault(Fault::StepSignal).hint(format!("exit code {code} is signal {name}: {why}"))
            }
            None => built.fault(Fault::StepFailed),
        },
    }
}

fn not_found(built: BuildError) -> BuildError {
    built.fault(Fault::CommandNotFound).hint(
        "exit code 127: a program (or the interpreter that it names) is not in the image or not in PATH: install it in an \
         earlier step, or write its whole path",
    )
}

fn not_executable(built: BuildError) -> BuildError {
    built.fault(Fault::CommandNotExecutable).hint(
        "exit code 126: the file is there but cannot be run: is it executable (COPY --chmod=755) and made for this \
         platform?",
    )
}

fn exec(built: BuildError, error: &ExecError) -> BuildError {
    match error {
        ExecError::Start { exit_code: 127, .. } => not_found(built),
        ExecError::Start { .. } => not_executable(built),
        ExecError::User(_) => built
            .fault(Fault::StepUser)
            .hint("create the user in an earlier step (RUN adduser …), or give numbers: USER 1000:1000"),
        ExecError::Invalid { .. } => built.fault(Fault::Request),
        ExecError::Cancelled => built,
        ExecError::Setup { .. }
        | ExecError::HelperGone
        | ExecError::Stream { .. }
        | ExecError::Sys(_)
        | ExecError::Runtime { .. } => built.fault(Fault::Sandbox).hint("the log of rbuildd may say more"),
    }
}

fn source(built: BuildError, error: &SourceError) -> BuildError {
    match error {
        SourceError::Invalid { .. } => built.fault(Fault::Source),
        SourceError::Command { .. } | SourceError::LongAnswer { .. } => built.fault(Fault::Git),
        SourceError::Registry(error) => registry(built, error),
        SourceError::Session(error) => session(built, error),
        SourceError::Store(error) => store(built, error),
        SourceError::Io { .. } => built.fault(Fault::Store),
        SourceError::NotFound { .. } => built.fault(Fault::Source),
        SourceError::Digest { .. } => lied(built),
        SourceError::HttpStatus { status, .. } => built.fault(Fault::HttpStatus).hint(match status {
            401 | 403 => "the server wants credentials that the build does not have",
            404 | 410 => "is the address right? the server has nothing there",
            429 => "the server wants fewer requests: try again later",
            500.. => "the server is in trouble: try again later",
            _ => "open the address in a browser or with curl to see what the server says",
        }),
        SourceError::Http { reason, url } => unreachable_peer(built, url, reason, None),
        SourceError::Stalled { .. } => built.fault(Fault::NoAnswer),
        SourceError::Address { .. } => built.fault(Fault::ClosedAddress),
        SourceError::Unsupported { .. } => built.fault(Fault::Unsupported),
    }
}

fn registry(built: BuildError, error: &RegistryError) -> BuildError {
    match error {
        RegistryError::NotFound { host, .. } => {
            let built = built.fault(Fault::ImageNotFound);
            match host.ends_with("docker.io") {
                true => built.hint("is the name right? without a registry it means docker.io"),
                false => built.hint(format!("is the name right? {host} answered that it has no such thing")),
            }
        }
        RegistryError::Unauthorized { host, .. } => {
            let built = built.fault(Fault::Unauthorized);
            let built = built.hint(format!(
                "log in on the machine that runs the client: docker login {}",
                if host.ends_with("docker.io") { "" } else { host }
            ));
            match host.ends_with("docker.io") {
                true => built.hint("Docker Hub answers so for repositories that do not exist, too"),
                false => built,
            }
        }
        RegistryError::Denied { host, .. } => built
            .fault(Fault::Forbidden)
            .hint(format!("the credentials that the client has for {host} do not allow this")),
        RegistryError::Status { status: 429, .. } => built
            .fault(Fault::RegistryStatus)
            .hint("too many requests: log in, or configure a mirror for the registry in rbuildd"),
        RegistryError::Status { host, .. } => built
            .fault(Fault::RegistryStatus)
            .hint(format!("{host} is in trouble: try again later; its own log says why")),
        RegistryError::Transport { host, reason, .. } => unreachable_peer(built, host, reason, Some(host)),
        RegistryError::Timeout { .. } => built.fault(Fault::NoAnswer),
        RegistryError::Digest { .. } | RegistryError::Size { .. } => lied(built),
        RegistryError::NoPlatform { offered, .. } => built
            .fault(Fault::NoPlatform)
            .hint(format!("build for a platform that the image has (--platform): {offered}")),
        RegistryError::TooLarge { .. } | RegistryError::Malformed { .. } | RegistryError::MediaType { .. } => {
            built.fault(Fault::Malformed)
        }
        RegistryError::Token { .. } | RegistryError::Credentials { .. } => built
            .fault(Fault::Credentials)
            .hint("the client's docker configuration (~/.docker/config.json) and credential helpers are asked for them"),
        RegistryError::Config { .. } => built.fault(Fault::Source),
        RegistryError::Read { .. } => built.fault(Fault::Store),
    }
}

fn lied(built: BuildError) -> BuildError {
    built
        .fault(Fault::Lied)
        .hint("nothing of it was used: the content changed, or was damaged on its way or at rest")
}

/// A server could not be spoken to. `registry`: its name in the daemon's configuration.
fn unreachable_peer(built: BuildError, place: &str, reason: &str, registry: Option<&str>) -> BuildError {
    let has = |text: &str| reason.contains(text);
    if has("certificate") {
        let built = built.fault(Fault::Untrusted);
        return match registry {
            Some(host) if has("UnknownIssuer") => built.hint(format!(
                "if {host} has a certificate authority of its own, name its file in the configuration of rbuildd: \
                 [registry.\"{host}\"] ca = [\"/path/of/ca.pem\"]"
            )),
            Some(host) if has("CaUsedAsEndEntity") => built.hint(format!(
                "{host} shows the certificate of an authority as its own: give it one that this authority signed, or set \
                 [registry.\"{host}\"] insecure = true"
            )),
            Some(_) => built.hint("the certificate is not valid for that name and time"),
            None => built.hint("the daemon trusts the certificate authorities of its machine (ca-certificates)"),
        };
    }
    let built = built.fault(Fault::Unreachable);
    match registry {
        Some(host) if has("InvalidContentType") || has("corrupt message") => built.hint(format!(
            "{host} seems to speak plain http: [registry.\"{host}\"] http = true in the configuration of rbuildd allows it"
        )),
        _ if has("dns error") || has("Name or service not known") || has("failed to lookup") => {
            built.hint("the name cannot be resolved on the machine of rbuildd")
        }
        _ if has("Connection refused") => built.hint(format!("nothing listens there, as seen from rbuildd: {place}")),
        _ => built,
    }
}

fn session(built: BuildError, error: &SessionError) -> BuildError {
    match error {
        error if error.is_no_space() => disk_full(built),
        error if error.is_closed() => built.fault(Fault::SessionLost).hint(
            "the daemon needs the client until the build is over: was it stopped, or the connection cut?",
        ),
        error if error.is_unsupported() => built.fault(Fault::NotOffered),
        SessionError::Config { .. } => built.fault(Fault::Credentials),
        _ => built.fault(Fault::Transfer),
    }
}

fn store(built: BuildError, error: &StoreError) -> BuildError {
    match error {
        error if error.is_no_space() => disk_full(built),
        error if error.is_wrong_content() => lied(built),
        StoreError::Checksum(_) if error.is_not_found() => missing_file(built),
        StoreError::Fetch { source, .. } => {
            match source.get_ref().and_then(|cause| cause.downcast_ref::<RegistryError>()) {
                Some(error) => registry(built, error),
                None if source.kind() == std::io::ErrorKind::InvalidData => lied(built),
                None => built.fault(Fault::Unreachable),
            }
        }
        StoreError::Worker { .. } => internal(built),
        _ => built.fault(Fault::Store),
    }
}

#[cfg(test)]
mod tests {
    use rbuild_frontend::Detail;

    use super::*;

    fn advised(error: &OpError) -> (&'static str, String) {
        let built = of_op(BuildError::new(ErrorCode::Unknown, error.to_string()), error);
        let hints: Vec<&str> = (built.details.iter())
            .filter_map(|detail| match detail {
                Detail::Hint(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        (built.known_fault().map_or("", Fault::code), hints.join("\n"))
    }

    fn exit(code: u32, oom: bool) -> OpError {
        let oom = oom.then_some(OutOfMemory { limit: None });
        OpError::Exit { command: "x".into(), code, oom, left: None }
    }

    fn registry(error: RegistryError) -> OpError {
        OpError::Source(std::sync::Arc::new(SourceError::from(error)))
    }

    #[test]
    fn each_failure_has_its_code_and_names_what_to_do() {
        let (host, what) = ("r.example:5000".to_owned(), "r.example:5000/a:1".to_owned());
        let transport = |reason: &str| {
            registry(RegistryError::Transport {
                host: host.clone(),
                what: what.clone(),
                reason: reason.into(),
            })
        };
        let unauthorized =
            RegistryError::Unauthorized { host: host.clone(), what: what.clone(), detail: String::new() };
        for (error, code, hint) in [
            (exit(1, false), "S001", ""),
            (exit(127, false), "S002", "not in PATH"),
            (exit(126, false), "S003", "--chmod=755"),
            (exit(139, false), "S004", "SIGSEGV"),
            (exit(137, false), "S004", "SIGKILL"),
            (exit(137, true), "S005", "lack of memory"),
            (exit(255, false), "S001", ""),
            (OpError::NoSecret { id: "tok".into() }, "S007", "--secret id=tok,src=FILE"),
            (OpError::NoAgent { id: "default".into() }, "S008", "--ssh default"),
            (
                transport("invalid peer certificate: UnknownIssuer"),
                "R006",
                "[registry.\"r.example:5000\"] ca =",
            ),
            (transport("Connection refused (os error 111)"), "R005", "nothing listens"),
            (transport("received corrupt message of type InvalidContentType"), "R005", "http = true"),
            (registry(unauthorized), "R002", "docker login r.example:5000"),
        ] {
            let (found, hints) = advised(&error);
            assert_eq!(found, code, "{error}");
            assert!(hints.contains(hint), "{error}: {hints}");
            assert_eq!(hint.is_empty(), hints.is_empty(), "{error}: {hints}");
        }
    }

    #[test]
    fn a_layer_that_lies_is_told_from_one_that_cannot_be_reached() {
        let digest = rbuild_digest::Digest::of("a");
        let fetch = |source: std::io::Error| {
            OpError::Store(StoreError::Fetch {
                digest,
                origin: "r/a".into(),
                source: std::sync::Arc::new(source),
            })
        };
        let lie = RegistryError::Digest {
            host: "r".into(),
            what: "a".into(),
            expected: digest,
            found: rbuild_digest::Digest::of("b"),
        };
        assert_eq!(advised(&fetch(lie.into())).0, "R008");
        assert_eq!(advised(&fetch(std::io::ErrorKind::ConnectionRefused.into())).0, "R005");
    }
}
