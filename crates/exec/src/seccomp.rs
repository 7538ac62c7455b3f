//! The seccomp filter of sandboxed steps: an allow list compiled to a binary search, for all ABIs of the machine.
//!
//! A call that is not on the list fails with `EPERM`, one newer than the list with `ENOSYS`, so that programs fall back
//! as they would on an older kernel. 32-bit programs get their own list; seccompiler would have killed them, which is
//! why the few lines of a compiler are here. The kernel caches calls that are always allowed, so order hardly matters.

mod table;

use rbuild_sys::seccomp::Instruction;

use self::table::ALLOWED;

const LD_WORD: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JA: u16 = 0x05;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

/// Offsets in the kernel's `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_EPERM: u32 = 0x0005_0000 | 1;
const RET_ENOSYS: u32 = 0x0005_0000 | 38;

/// Namespace flags of `clone`: a step may not make namespaces.
const CLONE_NEW: u32 = 0x7e02_0000;
const AF_VSOCK: u32 = 40;
/// The personalities a step may take: Linux, 32-bit, both with `UNAME26`, and asking.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Calls of the x32 ABI carry this bit; Debian and others have it switched off, so they just fail.
const X32: u32 = 0x4000_0000;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Eperm,
    Enosys,
    Clone,
    Socket,
    Personality,
}

/// One ABI: the kernel's audit constant and the column of the table.
struct Abi {
    audit: u32,
    column: fn(&table::Row) -> i32,
}

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] =
    &[Abi { audit: 0xc000_003e, column: |row| row.1 }, Abi { audit: 0x4000_0003, column: |row| row.2 }];
#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] =
    &[Abi { audit: 0xc000_00b7, column: |row| row.3 }, Abi { audit: 0x4000_0028, column: |row| row.4 }];

#[cfg(target_arch = "x86_64")]
const OCI_ABIS: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"];
#[cfg(target_arch = "aarch64")]
const OCI_ABIS: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

/// The filter for a sandboxed step.
pub(crate) fn program() -> Vec<Instruction> {
    let mut program = vec![op(LD_WORD, ARCH)];
    for abi in ABIS {
        let section = section(abi);
        program.push(jump(JEQ, abi.audit, 1, 0));
        program.push(op(JA, section.len() as u32));
        program.extend(section);
    }
    program.push(op(RET, RET_EPERM));
    program
}

fn section(abi: &Abi) -> Vec<Instruction> {
    let mut calls: Vec<(u32, Verdict)> = ALLOWED
        .iter()
        .filter_map(|row| Some((u32::try_from((abi.column)(row)).ok()?, verdict(row.0))))
        .collect();
    calls.sort_by_key(|(nr, _)| *nr);
    let mut code = vec![op(LD_WORD, NR)];
    code.extend(search(&regions(&calls)));
    code
}

fn verdict(name: &str) -> Verdict {
    match name {
        "clone" => Verdict::Clone,
        // Its flags lie in memory, where no filter sees them; libraries then use `clone`.
        "clone3" => Verdict::Enosys,
        "socket" => Verdict::Socket,
        "personality" => Verdict::Personality,
        _ => Verdict::Allow,
    }
}

/// The whole range of numbers as stretches: where each begins, and its verdict.
fn regions(calls: &[(u32, Verdict)]) -> Vec<(u32, Verdict)> {
    let mut regions: Vec<(u32, Verdict)> = vec![(0, Verdict::Eperm)];
    let mut add = |start: u32, verdict: Verdict| match regions.last_mut() {
        Some(last) if last.0 == start => last.1 = verdict,
        Some(last) if last.1 == verdict => {}
        _ => regions.push((start, verdict)),
    };
    // ARM has calls of its own far above the others.
    let newest = calls.iter().map(|(nr, _)| *nr).filter(|nr| *nr < 0x1000).max().unwrap_or(0);
    for (nr, verdict) in calls {
        add(*nr, *verdict);
        let after = if *nr >= newest { Verdict::Enosys } else { Verdict::Eperm };
        add(nr + 1, after);
    }
    if newest < X32 {
        add(X32, Verdict::Eperm);
    }
    // Neighbours that became equal are one.
    let mut merged: Vec<(u32, Verdict)> = Vec::with_capacity(regions.len());
    for region in regions {
        if merged.last().is_none_or(|last| last.1 != region.1) {
            merged.push(region);
        }
    }
    merged
}

/// Code that finds the stretch of the number in the accumulator, by halves.
fn search(regions: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = regions {
        return leaf(*verdict);
    }
    let (low, high) = regions.split_at(regions.len() / 2);
    let (low_code, high_code) = (search(low), search(high));
    let mut code = Vec::with_capacity(low_code.len() + high_code.len() + 2);
    match u8::try_from(low_code.len()) {
        Ok(skip) => code.push(jump(JGE, high[0].0, skip, 0)),
        Err(_) => {
            code.push(jump(JGE, high[0].0, 0, 1));
            code.push(op(JA, low_code.len() as u32));
        }
    }
    code.extend(low_code);
    code.extend(high_code);
    code
}

fn leaf(verdict: Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Allow => vec![op(RET, RET_ALLOW)],
        Verdict::Eperm => vec![op(RET, RET_EPERM)],
        Verdict::Enosys => vec![op(RET, RET_ENOSYS)],
        Verdict::Clone => vec![
            op(LD_WORD, ARG0),
            op(AND, CLONE_NEW),
            jump(JEQ, 0, 0, 1),
            op(RET, RET_ALLOW),
            op(RET, RET_EPERM),
        ],
        Verdict::Socket => {
            vec![op(LD_WORD, ARG0), jump(JEQ, AF_VSOCK, 0, 1), op(RET, RET_EPERM), op(RET, RET_ALLOW)]
        }
        Verdict::Personality => {
            let mut code = vec![op(LD_WORD, ARG0)];
            for (i, value) in PERSONALITIES.iter().enumerate() {
                // Past the rest of the comparisons and the refusal.
                code.push(jump(JEQ, *value, (PERSONALITIES.len() - i) as u8, 0));
            }
            code.push(op(RET, RET_EPERM));
            code.push(op(RET, RET_ALLOW));
            code
        }
    }
}

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The same profile in the words of the OCI specification.
pub(crate) fn oci() -> serde_json::Value {
    use serde_json::json;
    let allow = "SCMP_ACT_ALLOW";
    let plain: Vec<&str> =
        ALLOWED.iter().map(|row| row.0).filter(|name| verdict(name) == Verdict::Allow).collect();
    let arg = |value: u64, op: &str| json!([{ "index": 0, "value": value, "op": op }]);
    let mut masked = arg(u64::from(CLONE_NEW), "SCMP_CMP_MASKED_EQ");
    masked[0]["valueTwo"] = json!(0);
    let mut rules = vec![
        json!({ "names": plain, "action": allow }),
        json!({ "names": ["clone"], "action": allow, "args": masked }),
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }),
        json!({ "names": ["socket"], "action": allow, "args": arg(u64::from(AF_VSOCK), "SCMP_CMP_NE") }),
    ];
    for value in PERSONALITIES {
        let args = arg(u64::from(value), "SCMP_CMP_EQ");
        rules.push(json!({ "names": ["personality"], "action": allow, "args": args }));
    }
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": OCI_ABIS, "syscalls": rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], arch: u32, nr: u32, arg0: u32) -> u32 {
        let (mut pc, mut acc) = (0usize, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let skip = |hit: bool| usize::from(if hit { i.jt } else { i.jf });
            match i.code {
                LD_WORD => {
                    acc = match i.k {
                        NR => nr,
                        ARCH => arch,
                        ARG0 => arg0,
                        other => panic!("offset {other}"),
                    }
                }
                AND => acc &= i.k,
                JA => pc += i.k as usize,
                JEQ => pc += skip(acc == i.k),
                JGE => pc += skip(acc >= i.k),
                RET => return i.k,
                other => panic!("code {other}"),
            }
        }
    }

    #[test]
    fn every_number_gets_the_verdict_of_the_table() {
        let program = program();
        assert!(program.len() < 4096, "the kernel takes 4,096 instructions, not {}", program.len());
        for abi in ABIS {
            let newest = ALLOWED.iter().map(abi.column).filter(|nr| *nr < 0x1000).max().unwrap() as u32;
            for nr in 0..600 {
                let row = ALLOWED.iter().find(|row| (abi.column)(row) == nr as i32);
                let want = match row.map(|row| verdict(row.0)) {
                    Some(Verdict::Enosys) => RET_ENOSYS,
                    Some(_) => RET_ALLOW,
                    None if nr > newest => RET_ENOSYS,
                    None => RET_EPERM,
                };
                assert_eq!(run(&program, abi.audit, nr, 0), want, "{nr} {row:?}");
            }
            assert_eq!(run(&program, abi.audit, X32 | 1, 0), RET_EPERM);
        }
        assert_eq!(run(&program, 0x1234, 0, 0), RET_EPERM);
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let program = program();
        let native = &ABIS[0];
        let nr = |name: &str| (native.column)(ALLOWED.iter().find(|row| row.0 == name).unwrap()) as u32;
        let call = |name: &str, arg: u32| run(&program, native.audit, nr(name), arg);
        assert_eq!(call("clone", 0x0001_0011), RET_ALLOW);
        assert_eq!(call("clone", 0x1000_0011), RET_EPERM); // CLONE_NEWUSER
        assert_eq!(call("clone", 0x0002_0000), RET_EPERM); // CLONE_NEWNS
        assert_eq!(call("socket", 2), RET_ALLOW);
        assert_eq!(call("socket", AF_VSOCK), RET_EPERM);
        for value in PERSONALITIES {
            assert_eq!(call("personality", value), RET_ALLOW);
        }
        assert_eq!(call("personality", 0x0040_0000), RET_EPERM); // ADDR_NO_RANDOMIZE
    }

    #[test]
    fn dangerous_calls_are_not_on_the_list() {
        let banned = [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "bpf",
            "perf_event_open",
            "keyctl",
            "add_key",
            "kexec_load",
            "init_module",
            "reboot",
            "userfaultfd",
            "io_uring_setup",
            "open_by_handle_at",
            "swapon",
            "pivot_root",
            "move_mount",
            "fsopen",
            "open_tree",
            "quotactl",
            "syslog",
            "acct",
            "settimeofday",
            "iopl",
        ];
        for name in banned {
            assert!(!ALLOWED.iter().any(|row| row.0 == name), "{name}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_numbers_are_the_systems() {
        let number = |name: &str| i64::from(ALLOWED.iter().find(|row| row.0 == name).unwrap().1);
        assert_eq!(number("execve"), nix::libc::SYS_execve);
        assert_eq!(number("openat2"), nix::libc::SYS_openat2);
        assert_eq!(number("statx"), nix::libc::SYS_statx);
        assert_eq!(number("faccessat2"), nix::libc::SYS_faccessat2);
    }
}
