//! Resource limits of a process.

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::error::Failure;
use crate::spec::Ulimit;

/// The kernel's limit that container tools call `name`, with its name in the OCI specification.
pub(crate) fn resource(name: &str) -> Option<(Resource, &'static str)> {
    Some(match name.to_ascii_lowercase().as_str() {
        "as" => (Resource::RLIMIT_AS, "RLIMIT_AS"),
        "core" => (Resource::RLIMIT_CORE, "RLIMIT_CORE"),
        "cpu" => (Resource::RLIMIT_CPU, "RLIMIT_CPU"),
        "data" => (Resource::RLIMIT_DATA, "RLIMIT_DATA"),
        "fsize" => (Resource::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
        "locks" => (Resource::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
        "memlock" => (Resource::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
        "msgqueue" => (Resource::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
        "nice" => (Resource::RLIMIT_NICE, "RLIMIT_NICE"),
        "nofile" => (Resource::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
        "nproc" => (Resource::RLIMIT_NPROC, "RLIMIT_NPROC"),
        "rss" => (Resource::RLIMIT_RSS, "RLIMIT_RSS"),
        "rtprio" => (Resource::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
        "rttime" => (Resource::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
        "sigpending" => (Resource::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
        "stack" => (Resource::RLIMIT_STACK, "RLIMIT_STACK"),
        _ => return None,
    })
}

/// Sets `limits` for the calling process.
pub(crate) fn apply(limits: &[Ulimit]) -> Result<(), Failure> {
    for limit in limits {
        let stage = format!("set limit `{}`", limit.name);
        let Some((resource, _)) = resource(&limit.name) else {
            return Err(Failure::setup(stage, "there is no such limit"));
        };
        setrlimit(resource, number(limit.soft), number(limit.hard)).map_err(|errno| {
            let now = getrlimit(resource).map_or(0, |(_, hard)| hard);
            if errno == Errno::EPERM {
                let text = format!(
                    "raising the hard limit from {} to {} needs CAP_SYS_RESOURCE, which the daemon does not have",
                    shown(now),
                    shown(number(limit.hard))
                );
                return Failure::setup(&stage, text);
            }
            Failure::setup(&stage, format!("soft {} hard {}: {}", limit.soft, limit.hard, errno.desc()))
        })?;
    }
    Ok(())
}

fn number(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(RLIM_INFINITY)
}

fn shown(limit: u64) -> String {
    if limit == RLIM_INFINITY { "unlimited".into() } else { limit.to_string() }
}
