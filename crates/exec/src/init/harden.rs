//! Taking away: kernel files hidden or read-only, capabilities, system calls, the root user.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rbuild_sys::seccomp::Instruction;
use rbuild_sys::{FsMount, MountFlags, MountTree, Root, makedev};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
};

use crate::error::{During, Failure};
use crate::spec::SecurityMode;
use crate::user::Identity;

/// Hidden from a sandboxed step: what tells about the machine or other programs.
pub(crate) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read-only for a sandboxed step: what changes the machine.
pub(crate) const READONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// What root in a sandboxed step may do: Docker's and containerd's default.
pub(crate) const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The same by the names of the OCI specification.
pub(crate) const CAPABILITY_NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const LOCKED: MountFlags = MountFlags { readonly: true, nosuid: true, nodev: true, noexec: true };

/// Hides and locks kernel files below `root`.
pub(super) fn kernel_files(root: &Root) -> Result<(), Failure> {
    for path in READONLY {
        match root.open_path(path) {
            Ok(fd) => {
                let tree = MountTree::bind_fd(&fd, true).during(path)?;
                tree.set(LOCKED).during(path)?;
                tree.attach(&fd).during(path)?;
            }
            Err(err) if err.is_not_found() || err.is_not_dir() => {}
            Err(err) => return Err(Failure::setup(*path, err)),
        }
    }
    mask(root).during("mask kernel files")
}

fn mask(root: &Root) -> Result<(), Box<dyn std::error::Error>> {
    // Checked by number, for what stands in for a hidden file must be nothing but the null device.
    let null = File::open("/dev/null")?;
    let meta = null.metadata()?;
    if !meta.file_type().is_char_device() || meta.rdev() != makedev(1, 3) {
        return Err("the host's /dev/null is not the null device".into());
    }
    let mut empty: Option<Root> = None;
    for path in MASKED {
        let fd = match root.open_path(path) {
            Ok(fd) => fd,
            Err(err) if err.is_not_found() || err.is_not_dir() => continue,
            Err(err) => return Err(err.into()),
        };
        let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_dir();
        match (&empty, is_dir) {
            (_, false) => MountTree::bind_fd(&null, true)?.attach(&fd)?,
            (Some(first), true) => {
                let tree = MountTree::bind_fd(first.as_fd(), true)?;
                tree.set(LOCKED)?;
                tree.attach(&fd)?;
            }
            (None, true) => {
                let mut fs = FsMount::open("tmpfs")?;
                fs.string("size", "0")?;
                fs.string("mode", "755")?;
                let tree = fs.mount(LOCKED)?;
                empty = Some(tree.root()?);
                tree.attach(&fd)?;
            }
        }
    }
    Ok(())
}

/// Installs the filter of system calls. Needs privileges, so it comes before they go; the rest of the way is allowed.
pub(super) fn system_calls(security: SecurityMode, filter: &[Instruction]) -> Result<(), Failure> {
    match security {
        SecurityMode::Insecure => Ok(()),
        SecurityMode::Sandbox => rbuild_sys::seccomp::install(filter).during("install the seccomp filter"),
    }
}

/// Becomes `user` with what it may do. `no_new_privs` stays off, as upstream has it: `sudo` must work in a step.
pub(super) fn privileges(security: SecurityMode, user: &Identity) -> Result<(), Failure> {
    let held = capabilities(None).during("read capabilities")?.permitted;
    let sets = match security {
        SecurityMode::Sandbox => {
            let kept = held & CAPABILITIES;
            drop_bounding(kept).during("drop capabilities")?;
            CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() }
        }
        SecurityMode::Insecure => {
            set_keep_capabilities(true).during("keep capabilities")?;
            CapabilitySets { effective: held, permitted: held, inheritable: held }
        }
    };
    become_user(user)?;
    if security == SecurityMode::Insecure {
        set_capabilities(None, sets).during("set capabilities")?;
        for bit in held.iter().filter(|cap| cap.bits().count_ones() == 1) {
            configure_capability_in_ambient_set(bit, true).during("set ambient capabilities")?;
        }
    } else if user.uid == 0 {
        set_capabilities(None, sets).during("set capabilities")?;
    }
    Ok(())
}

/// Nothing that is executed later can get back what is not in `kept`.
fn drop_bounding(kept: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // The first number the kernel does not know.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

fn become_user(user: &Identity) -> Result<(), Failure> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).map_err(|errno| errno.desc()).during("set groups")?;
    let gid = Gid::from_raw(user.gid);
    setresgid(gid, gid, gid).map_err(|errno| errno.desc()).during("set group")?;
    let uid = Uid::from_raw(user.uid);
    setresuid(uid, uid, uid).map_err(|errno| errno.desc()).during("set user")
}

/// What the daemon itself may do, by the names of the OCI specification.
pub(crate) fn held_capabilities() -> Vec<String> {
    let held = capabilities(None).map(|sets| sets.permitted).unwrap_or(CapabilitySet::empty());
    held.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_say_the_same() {
        let names = CAPABILITY_NAMES.iter().map(|name| name.trim_start_matches("CAP_"));
        let bits = names.map(|name| CapabilitySet::from_name(name).expect(name));
        assert_eq!(bits.collect::<CapabilitySet>(), CAPABILITIES);
    }
}
