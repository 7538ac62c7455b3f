//! [`Bridge`]: a network for steps beside the host's, behind address translation.
//!
//! ```text
//!  step (own namespace)        host
//!   eth0 10.10.0.5/16 ──veth── bridge 10.10.0.1 ──► forwarded and masqueraded
//! ```
//! Steps reach what the host reaches, but neither each other nor the host itself, its name servers excepted. The bridge
//! is the daemon's: it is made at start and gone with it. The programs `ip` (iproute2) and `nft` (nftables) do the work.

mod addresses;
mod commands;

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

use self::addresses::Addresses;
pub use self::addresses::Subnet;
use crate::error::ExecError;

/// The kernel's bound on the name of an interface.
const NAME_MAX: usize = 15;

/// Which bridge.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// Name of the interface. A bridge belongs to one daemon.
    pub name: String,
    /// Addresses of the steps; the first is the bridge's.
    pub subnet: Subnet,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self { name: "rbuild0".into(), subnet: Subnet::default() }
    }
}

/// A bridge of this daemon's. Cheap to clone; gone with the last clone.
#[derive(Debug, Clone)]
pub struct Bridge {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: BridgeOptions,
    addresses: Mutex<Addresses>,
    /// Keeps other daemons from the same bridge: the name lives in the host's network and ends with this process.
    _claim: UnixListener,
}

/// A step's place on the bridge: a network namespace that is connected. Dropping it frees the address; the kernel takes
/// the interfaces down with the last process in the namespace.
#[derive(Debug)]
pub(crate) struct Attachment {
    namespace: OwnedFd,
    address: Ipv4Addr,
    bridge: Arc<Inner>,
}

impl Attachment {
    pub(crate) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.bridge.addresses.lock().free(self.address);
    }
}

impl Bridge {
    /// Makes the bridge, its address translation and its filter. Blocks for some milliseconds.
    ///
    /// Errors: a program is missing, the name or the subnet is taken, or the daemon may not change the network.
    pub fn create(options: BridgeOptions) -> Result<Self, ExecError> {
        let name = &options.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
            let message = format!("`{name}`: expected 1 to {NAME_MAX} letters, digits, `-` or `_`");
            return Err(ExecError::Invalid { field: "bridge name", message });
        }
        let claim = claim(name)?;
        if std::path::Path::new("/sys/class/net").join(name).exists() {
            // Of a daemon that was killed: a living one holds the claim.
            batch("remove the old bridge", &commands::remove_bridge(name))?;
        }
        batch("make the bridge", &commands::make_bridge(name, options.subnet))?;
        run("translate addresses", "nft", &["-f", "-"], &commands::firewall(name, options.subnet))?;
        let forward = "/proc/sys/net/ipv4/ip_forward";
        let on = std::fs::read(forward).is_ok_and(|value| value.starts_with(b"1"));
        if !on {
            std::fs::write(forward, "1").map_err(|err| failed("switch on forwarding", err.to_string()))?;
        }
        let addresses = Mutex::new(Addresses::new(options.subnet));
        Ok(Self { inner: Arc::new(Inner { options, addresses, _claim: claim }) })
    }

    /// Connects a new namespace. Blocks for some milliseconds.
    pub(crate) fn attach(&self) -> Result<Attachment, ExecError> {
        let inner = &self.inner;
        let address = inner.addresses.lock().take();
        let address = address.ok_or_else(|| {
            failed("connect the step", format!("no address is free in {}", inner.options.subnet))
        })?;
        // From here on the address is freed with the attachment.
        let veth = veth_name();
        let subnet = inner.options.subnet;
        let connected = in_new_namespace(|| {
            batch("connect the step", &commands::inside(address, subnet, &veth, std::process::id()))
        });
        let namespace = match connected {
            Ok(namespace) => namespace,
            Err(err) => {
                inner.addresses.lock().free(address);
                return Err(err);
            }
        };
        let attachment = Attachment { namespace, address, bridge: inner.clone() };
        batch("connect the step", &commands::outside(&inner.options.name, &veth))?;
        Ok(attachment)
    }
}

impl Drop for Inner {
    /// At the daemon's end, when nothing else runs.
    fn drop(&mut self) {
        let name = &self.options.name;
        let removed = batch("remove the bridge", &commands::remove_bridge(name)).and(run(
            "remove the filter",
            "nft",
            &["-f", "-"],
            &commands::no_firewall(name),
        ));
        if let Err(error) = removed {
            tracing::warn!(%error, bridge = name, "the bridge stays");
        }
    }
}

fn claim(name: &str) -> Result<UnixListener, ExecError> {
    let address = SocketAddr::from_abstract_name(format!("rbuild-bridge-{name}"));
    address.and_then(|address| UnixListener::bind_addr(&address)).map_err(|err| match err.kind() {
        std::io::ErrorKind::AddrInUse => failed(
            "make the bridge",
            format!("another rbuildd has the bridge `{name}`: give this one a bridgeName and a bridgeSubnet of its own"),
        ),
        _ => failed("claim the bridge", err.to_string()),
    })
}

/// Unlike any other of this machine.
fn veth_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("rb{:x}v{:x}", std::process::id(), number & 0xff_ffff)
}

/// Runs `work` in a thread that has a new network namespace, and returns the namespace.
fn in_new_namespace(work: impl FnOnce() -> Result<(), ExecError> + Send) -> Result<OwnedFd, ExecError> {
    let inside = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(|errno| failed("make a network namespace", errno.desc().to_owned()))?;
        let namespace = std::fs::File::open("/proc/thread-self/ns/net")
            .map_err(|err| failed("open the network namespace", err.to_string()))?;
        work()?;
        Ok(namespace.into())
    };
    // A thread of its own: the namespace is the thread's, and no other work may ever run in it.
    std::thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|_| Err(failed("connect the step", "a thread panicked".into())))
}

fn failed(stage: &str, message: String) -> ExecError {
    ExecError::Setup { stage: stage.into(), message }
}

fn batch(stage: &str, commands: &str) -> Result<(), ExecError> {
    run(stage, "ip", &["-batch", "-"], commands)
}

fn run(stage: &str, program: &str, args: &[&str], input: &str) -> Result<(), ExecError> {
    let fail = |message: String| failed(stage, format!("{program}: {message}"));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|err| fail(format!("{err} (networkMode = \"bridge\" needs iproute2 and nftables)")))?;
    let stdin = child.stdin.take();
    // The texts are shorter than a pipe.
    let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|err| fail(err.to_string()))?;
    if output.status.success() {
        return written.map_err(|err| fail(err.to_string()));
    }
    Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Where another program of this machine finds the namespace while `attachment` lives.
pub(crate) fn path_of(attachment: &Attachment) -> std::path::PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), attachment.namespace.as_raw_fd()).into()
}
