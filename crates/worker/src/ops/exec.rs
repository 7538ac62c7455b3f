//! Runs a process: mounts, spec, run, outputs.

use std::net::IpAddr;
use std::sync::Arc;

use rbuild_exec::{Chunk, ExecError, ExitStatus, Output, ProcessIo, ProcessSpec, Resources};
use rbuild_llb::{ExecMeta, ExecOp, LinuxResources, ProxyEnv, SecurityMode};
use rbuild_oci::Platform;
use rbuild_session::SessionGroup;
use rbuild_solver::OpContext;
use rbuild_store::Ref;
use tokio::sync::{mpsc, oneshot};

use crate::error::{OpError, OutOfMemory};
use crate::mounts::{self, Prepared};
use crate::op::LlbOp;
use crate::scope::{self, Scope};
use crate::{devices, logs};

/// Streams of log events.
const STDOUT: i64 = 1;
const STDERR: i64 = 2;

pub(crate) async fn run(
    op: &LlbOp,
    exec: &ExecOp,
    cx: &OpContext<Scope>,
    inputs: &[Ref],
) -> Result<Vec<Ref>, OpError> {
    for scope in cx.scopes() {
        scope.entitlements.check_exec(exec)?;
    }
    let sessions = scope::sessions_of(cx);
    let work = async {
        let prepared = mounts::prepare(op, exec, inputs, &cx.scopes(), &sessions).await?;
        let mut spec = spec(op, exec, &prepared, &sessions).await?;
        let granted = |name: &str| cx.scopes().iter().all(|scope| scope.entitlements.has_device(name));
        add_devices(op, exec, granted, &mut spec).await?;
        Ok::<_, OpError>((prepared, spec))
    };
    let (prepared, spec) = tokio::select! {
        biased;
        () = cx.cancel().cancelled() => return Err(OpError::Cancelled),
        done = work => done?,
    };
    emulate(op).await?;
    let permit = op.worker.permits.take(op.claim(cx), cx.cancel()).await?;
    let begun = std::time::Instant::now();
    let memory = u64::try_from(spec.resources.memory).ok().filter(|limit| *limit > 0);
    let (mut io, output) = io();
    let (told, mut used) = oneshot::channel();
    io.usage = op.worker.options.measure.then_some(told);
    let running = op.worker.options.runtime.run(spec, io, cx.cancel().clone());
    let (status, ()) = tokio::join!(running, logs::forward(cx, output));
    drop(permit);
    if let Ok(usage) = used.try_recv() {
        let witnesses = cx.scopes().into_iter().filter_map(|scope| scope.witness);
        witnesses.for_each(|witness| witness.used(&cx.vertex().digest, &usage));
    }
    if let Err(error) = check(exec, status, memory) {
        // Who comes while it is being kept gets the error without it.
        let wanted = cx.scopes().into_iter().find_map(|scope| scope.failed);
        return Err(match wanted.filter(|_| !matches!(error, OpError::Cancelled)) {
            Some(made) => error.leaving(prepared.leave(exec, inputs, &made).await),
            None => error,
        });
    }
    op.worker.durations.note(&op.name, begun.elapsed());
    prepared.commit(op, exec.output_count()).await
}

/// Gives a process the devices that it asks for. One that may be missing is left out if it is not there or not granted.
pub(crate) async fn add_devices(
    op: &LlbOp,
    exec: &ExecOp,
    granted: impl Fn(&str) -> bool,
    spec: &mut ProcessSpec,
) -> Result<(), OpError> {
    for device in exec.cdi_devices.iter().filter(|device| granted(&device.name)) {
        let (options, name) = (op.worker.options.devices.clone(), device.name.clone());
        let found = tokio::task::spawn_blocking(move || devices::edits(&options, &name)).await?;
        let edits = match found {
            Err(OpError::Device { .. }) if device.optional => continue,
            found => found?,
        };
        // Another runtime keeps processes from devices that it was not told of in its own way.
        if op.worker.options.runtime.name() != "native" && !edits.mounts.is_empty() {
            return Err(OpError::unsupported(format!("device `{}` with an OCI runtime", device.name)));
        }
        spec.env.extend(edits.env);
        spec.mounts.extend(edits.mounts);
    }
    Ok(())
}

/// Sees to it that programs of the step's platform run here.
pub(crate) async fn emulate(op: &LlbOp) -> Result<(), OpError> {
    let host = Platform::host();
    let Some(platform) = op.platform.clone().filter(|platform| platform.architecture != host.architecture)
    else {
        return Ok(());
    };
    let prepare = move || rbuild_exec::emulate(&host.architecture, &platform.architecture);
    let done = tokio::task::spawn_blocking(prepare).await;
    let done =
        done.map_err(|error| OpError::Internal { detail: format!("preparing an emulator: {error}") })?;
    done.map_err(|error| OpError::Exec { command: "emulator".into(), error: Arc::new(error), left: None })
}

/// Both streams into one channel, so that their order stays. It is short: a slow reader slows the process down.
fn io() -> (ProcessIo, mpsc::Receiver<Chunk>) {
    let (to, output) = mpsc::channel(4);
    let io = ProcessIo {
        stdout: Output::Channel { to: to.clone(), tag: STDOUT },
        stderr: Output::Channel { to, tag: STDERR },
        ..ProcessIo::default()
    };
    (io, output)
}

/// Fails unless the process ended with a code that counts as success.
///
/// `memory`: bytes that it might have.
fn check(exec: &ExecOp, status: Result<ExitStatus, ExecError>, memory: Option<u64>) -> Result<(), OpError> {
    let command = || quote(&exec.meta.args.join(" "));
    let status = match status {
        Ok(status) => status,
        Err(ExecError::Cancelled) => return Err(OpError::Cancelled),
        Err(error) => {
            return Err(OpError::Exec { command: command(), error: Arc::new(error), left: None });
        }
    };
    let code = status.exit_code();
    let valid = &exec.meta.valid_exit_codes;
    let succeeded =
        if valid.is_empty() { code == 0 } else { valid.iter().any(|ok| u32::try_from(*ok) == Ok(code)) };
    if succeeded {
        return Ok(());
    }
    let oom = status.oom_killed.then_some(OutOfMemory { limit: memory });
    Err(OpError::Exit { command: command(), code, oom, left: None })
}

pub(crate) async fn spec(
    op: &LlbOp,
    exec: &ExecOp,
    prepared: &Prepared,
    sessions: &SessionGroup,
) -> Result<ProcessSpec, OpError> {
    let meta = &exec.meta;
    let mut env = meta.env.clone();
    if let Some(proxy) = &meta.proxy_env {
        env.extend(proxy_variables(proxy));
    }
    for secret in &exec.secret_env {
        if let Some(value) = mounts::secret(&op.worker, sessions, &secret.id, secret.optional).await? {
            let value = String::from_utf8(value).map_err(|_| {
                OpError::invalid(format!("secret {} is not text, so it cannot be a variable", secret.id))
            })?;
            env.push(format!("{}={value}", secret.name));
        }
    }
    Ok(ProcessSpec {
        args: meta.args.clone(),
        env,
        cwd: meta.cwd.clone(),
        user: meta.user.clone(),
        rootfs: prepared.rootfs.clone(),
        readonly_root: exec.root_mount().is_some_and(|root| root.readonly),
        mounts: prepared.mounts.clone(),
        network: op.worker.net_mode(exec.network),
        security: match exec.security {
            SecurityMode::Insecure => rbuild_exec::SecurityMode::Insecure,
            SecurityMode::Sandbox => rbuild_exec::SecurityMode::Sandbox,
        },
        hostname: meta.hostname.clone(),
        extra_hosts: extra_hosts(meta)?,
        dns: op.worker.options.dns.clone(),
        ulimits: ulimits(meta),
        cgroup_parent: Some(meta.cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
        resources: {
            let asked = op.resources.as_ref().map(resources).unwrap_or_default();
            op.worker.options.step_limits.bound(asked)
        },
        tty: None,
        remove_stubs_recursive: meta.remove_mount_stubs_recursive,
    })
}

fn extra_hosts(meta: &ExecMeta) -> Result<Vec<(String, IpAddr)>, OpError> {
    let parse = |host: &rbuild_llb::HostIp| {
        let ip = host.ip.parse();
        ip.map(|ip| (host.host.clone(), ip)).map_err(|_| {
            OpError::invalid(format!("extra host {}: `{}` is not an IP address", host.host, host.ip))
        })
    };
    meta.extra_hosts.iter().map(parse).collect()
}

fn ulimits(meta: &ExecMeta) -> Vec<rbuild_exec::Ulimit> {
    let limits = meta.ulimits.iter();
    limits
        .map(|limit| rbuild_exec::Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
        .collect()
}

fn resources(limits: &LinuxResources) -> Resources {
    Resources {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_quota: limits.cpu_quota,
        cpu_period: limits.cpu_period,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
    }
}

/// Both spellings of each proxy variable that is set.
fn proxy_variables(proxy: &ProxyEnv) -> Vec<String> {
    let all = [
        ("HTTP_PROXY", &proxy.http_proxy),
        ("HTTPS_PROXY", &proxy.https_proxy),
        ("FTP_PROXY", &proxy.ftp_proxy),
        ("NO_PROXY", &proxy.no_proxy),
        ("ALL_PROXY", &proxy.all_proxy),
    ];
    let set = all.into_iter().filter(|(_, value)| !value.is_empty());
    set.flat_map(|(name, value)| [format!("{name}={value}"), format!("{}={value}", name.to_lowercase())])
        .collect()
}

/// The text in double quotes, escaped as Go does it: tools look for this form.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\x7f' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(args: &[&str], valid: &[i32]) -> ExecOp {
        let mut exec = ExecOp::default();
        exec.meta.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        exec.meta.valid_exit_codes = valid.to_vec();
        exec
    }

    #[test]
    fn a_failing_process_is_told_in_upstreams_words() {
        let exec = exec(&["/bin/sh", "-c", "echo \"a\\b\"; exit 3"], &[]);
        let error = check(&exec, Ok(ExitStatus::exited(3)), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"process "/bin/sh -c echo \"a\\b\"; exit 3" did not complete successfully: exit code: 3"#
        );
        assert_eq!(error.exit_code(), Some(3));
        assert!(matches!(check(&exec, Err(ExecError::Cancelled), None), Err(OpError::Cancelled)));
    }

    #[test]
    fn a_process_out_of_memory_is_told_its_limit() {
        let status = ExitStatus { oom_killed: true, ..ExitStatus::signaled(9) };
        let said = |limit| check(&exec(&["x"], &[]), Ok(status), limit).unwrap_err().to_string();
        assert!(said(None).ends_with("exit code: 137 (out of memory)"), "{}", said(None));
        let text = said(Some(1 << 20));
        assert!(
            text.ends_with("exit code: 137 (out of memory: the step's limit is 1048576 bytes)"),
            "{text}"
        );
    }

    #[test]
    fn other_codes_can_count_as_success() {
        let exec = exec(&["x"], &[3, 7]);
        assert!(check(&exec, Ok(ExitStatus::exited(7)), None).is_ok());
        assert!(check(&exec, Ok(ExitStatus::exited(0)), None).is_err());
    }

    #[test]
    fn proxies_come_in_both_spellings() {
        let proxy = ProxyEnv { http_proxy: "p:1".into(), ..ProxyEnv::default() };
        assert_eq!(proxy_variables(&proxy), ["HTTP_PROXY=p:1", "http_proxy=p:1"]);
    }
}
