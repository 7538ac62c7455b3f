//! Steps of other architectures: the kernel runs their programs through emulators that are registered with binfmt_misc.
//!
//! Whatever the host has registered is used. Where it has nothing for an architecture, but a static emulator of qemu is
//! installed, that is registered when the first step needs it: held open by the kernel, so that it is found from within
//! every step, and for the whole machine, for binfmt_misc knows no other scope without user namespaces.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::ExecError;

/// Where the kernel's table is.
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
/// Where emulators are installed, beside the directories of `PATH`.
const DIRS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"];
/// Bytes of an ELF header up to and including the machine.
const HEADER: usize = 20;

/// How programs of an architecture are told from others, and what runs them.
struct Machine {
    /// As in platforms.
    architecture: &'static str,
    /// As qemu calls it.
    qemu: &'static str,
    /// `e_machine`.
    number: u16,
    bits: u8,
    big_endian: bool,
}

const fn machine(architecture: &'static str, qemu: &'static str, number: u16, bits: u8) -> Machine {
    Machine { architecture, qemu, number, bits, big_endian: false }
}

/// Source: the ELF gABI's list of machines; Go's names of architectures.
const MACHINES: [Machine; 9] = [
    machine("amd64", "x86_64", 62, 64),
    machine("arm64", "aarch64", 183, 64),
    machine("arm", "arm", 40, 32),
    machine("386", "i386", 3, 32),
    machine("riscv64", "riscv64", 243, 64),
    machine("ppc64le", "ppc64le", 21, 64),
    Machine { architecture: "s390x", qemu: "s390x", number: 22, bits: 64, big_endian: true },
    machine("mips64le", "mips64el", 8, 64),
    machine("loong64", "loongarch64", 258, 64),
];

impl Machine {
    fn of(architecture: &str) -> Option<&'static Machine> {
        MACHINES.iter().find(|machine| machine.architecture == architecture)
    }

    /// The header of its programs, and which bits of it count: neither the ABI nor whether it is relocatable does.
    fn header(&self) -> ([u8; HEADER], [u8; HEADER]) {
        let mut magic = [0; HEADER];
        let mut mask = [0xff; HEADER];
        magic[..4].copy_from_slice(b"\x7fELF");
        magic[4] = if self.bits == 64 { 2 } else { 1 };
        magic[5] = if self.big_endian { 2 } else { 1 };
        magic[6] = 1;
        mask[7] = 0;
        // Executables are of type 2 or, position-independent, 3.
        let kind = if self.big_endian { 17 } else { 16 };
        magic[kind] = 2;
        mask[kind] = 0xfe;
        let number = if self.big_endian { self.number.to_be_bytes() } else { self.number.to_le_bytes() };
        magic[18..].copy_from_slice(&number);
        (magic, mask)
    }

    /// The line that registers `emulator`. O: the kernel opens the program, so that it need not be readable; C: who the
    /// program runs as is decided by it, not by the emulator (set-user-ID); F: the emulator is opened now.
    fn registration(&self, emulator: &Path) -> Vec<u8> {
        let escaped = |bytes: [u8; HEADER]| bytes.map(|byte| format!("\\x{byte:02x}")).concat();
        let (magic, mask) = self.header();
        let (magic, mask) = (escaped(magic), escaped(mask));
        format!(":rbuild-qemu-{}:M::{magic}:{mask}:{}:OCF", self.qemu, emulator.display()).into_bytes()
    }

    fn emulator(&self) -> Option<PathBuf> {
        let names = [format!("qemu-{}-static", self.qemu), format!("qemu-{}", self.qemu)];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(DIRS.map(PathBuf::from)).collect();
        let mut found = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
        found.find(|candidate| candidate.is_file() && is_static(candidate))
    }

    /// Does an entry of the kernel's table take its programs?
    fn taken_by(&self, entry: &str) -> bool {
        let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // F: without it the emulator would be looked for in the step's own root.
        let usable =
            entry.lines().next() == Some("enabled") && field("flags:").is_some_and(|f| f.contains('F'));
        let (Some(magic), true) = (field("magic ").and_then(unhex), usable) else { return false };
        let offset = field("offset ").and_then(|offset| offset.parse::<usize>().ok()).unwrap_or(0);
        let mask = field("mask ").and_then(unhex).unwrap_or_else(|| vec![0xff; magic.len()]);
        let (header, _) = self.header();
        offset == 0
            && magic.len() <= HEADER
            && mask.len() == magic.len()
            && magic.len() > 18
            && (0..magic.len()).all(|i| header[i] & mask[i] == magic[i] & mask[i])
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// No program header asks for an interpreter: one that is linked dynamically would look for its libraries in the step.
fn is_static(program: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    use std::os::unix::fs::FileExt as _;
    let Ok(file) = std::fs::File::open(program) else { return false };
    let mut header = [0; 64];
    if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let (offset, size, count) = (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]));
    (0..count).all(|index| {
        let mut kind = [0; 4];
        let at = offset.saturating_add(index * size);
        file.read_exact_at(&mut kind, at).is_ok() && u32::from_le_bytes(kind) != PT_INTERP
    })
}

/// Does a machine of `host` run programs of `architecture` by itself?
fn native(host: &str, architecture: &str) -> bool {
    host == architecture || (host == "amd64" && architecture == "386")
}

fn registered(machine: &Machine) -> bool {
    let entries = std::fs::read_dir(BINFMT).into_iter().flatten().flatten();
    let on = std::fs::read(format!("{BINFMT}/status")).is_ok_and(|status| status.starts_with(b"enabled"));
    on && entries
        .filter(|entry| !matches!(entry.file_name().to_str(), Some("register" | "status")))
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|text| machine.taken_by(&text))
}

/// Architectures beside `host`'s whose programs can be run here: registered, or with an emulator to register.
pub fn emulated(host: &str) -> Vec<&'static str> {
    let foreign = MACHINES.iter().filter(|machine| host != machine.architecture);
    foreign
        .filter(|machine| {
            native(host, machine.architecture) || registered(machine) || machine.emulator().is_some()
        })
        .map(|machine| machine.architecture)
        .collect()
}

/// Sees to it that programs of `architecture` run on this machine of `host`. Blocks on the disk.
///
/// Errors: [`ExecError::Setup`] if there is no emulator, or none may be registered.
pub fn emulate(host: &str, architecture: &str) -> Result<(), ExecError> {
    /// One at a time: two steps must not register the same.
    static REGISTERING: Mutex<()> = Mutex::new(());
    let fail =
        |message: String| ExecError::Setup { stage: format!("run programs of {architecture}"), message };
    if native(host, architecture) {
        return Ok(());
    }
    let Some(machine) = Machine::of(architecture) else {
        return Err(fail(format!("rbuildd knows no emulator for {architecture}")));
    };
    let _one = REGISTERING.lock();
    if !Path::new(BINFMT).join("register").exists() {
        // On machines that never used it; the error shows when it is written to.
        let mounted = rustix::mount::mount(
            "binfmt_misc",
            BINFMT,
            "binfmt_misc",
            rustix::mount::MountFlags::empty(),
            None,
        );
        if let Err(errno) = mounted {
            tracing::debug!(%errno, "mounting binfmt_misc");
        }
    }
    if registered(machine) {
        return Ok(());
    }
    let emulator = machine.emulator().ok_or_else(|| {
        fail(format!(
            "no emulator: install qemu-user-static on the machine of rbuildd, or register one with binfmt_misc \
             (flag F); looked for qemu-{}-static",
            machine.qemu
        ))
    })?;
    std::fs::write(format!("{BINFMT}/register"), machine.registration(&emulator))
        .map_err(|err| fail(format!("registering {} with {BINFMT}: {err}", emulator.display())))?;
    tracing::info!(architecture, emulator = %emulator.display(), "emulator registered");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN_ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_entry_of_the_kernel_is_for_one_machine() {
        let taken = |entry: &str| {
            let machines = MACHINES.iter().filter(|machine| machine.taken_by(entry));
            machines.map(|machine| machine.architecture).collect::<Vec<_>>()
        };
        assert_eq!(taken(DEBIAN_ARM64), ["arm64"]);
        // It would be looked for in the step; it is switched off; it is for scripts.
        assert_eq!(taken(&DEBIAN_ARM64.replace("POCF", "POC")), [""; 0]);
        assert_eq!(taken(&DEBIAN_ARM64.replace("enabled", "disabled")), [""; 0]);
        assert_eq!(taken("enabled\ninterpreter /x\nflags: F\noffset 0\nmagic 2321\n"), [""; 0]);
    }

    #[test]
    fn what_we_register_is_what_debian_registers() {
        let line = Machine::of("arm64").unwrap().registration(Path::new("/q"));
        let expected = r":rbuild-qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/q:OCF";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn every_machine_takes_its_own_programs_and_no_other() {
        for machine in &MACHINES {
            let (magic, mask) = machine.header();
            for other in &MACHINES {
                let (header, _) = other.header();
                let same = (0..HEADER).all(|i| header[i] & mask[i] == magic[i] & mask[i]);
                assert_eq!(same, machine.architecture == other.architecture);
            }
        }
    }
}
