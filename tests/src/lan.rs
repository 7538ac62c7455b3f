use std::sync::atomic::{AtomicU32, Ordering};

use crate::run;

/// A bridge on this machine and network namespaces that reach it and one another through it, and nothing else.
#[derive(Debug)]
pub struct TestLan {
    bridge: String,
    net: u32,
    machines: usize,
}

impl TestLan {
    /// With so many namespaces, up to five.
    pub fn start(machines: usize) -> Self {
        assert!(machines <= 5, "the network has six addresses");
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // Of the range for tests of network devices.
        let net = (id * 4 + number) % (1 << 13);
        let lan = Self { bridge: format!("rbl{id}x{number}"), net, machines };
        let bridge = &lan.bridge;
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("addr add {}/29 dev {bridge}", lan.address()));
        ip(&format!("link set {bridge} up"));
        for machine in 0..machines {
            let name = lan.namespace(machine);
            ip(&format!("netns add {name}"));
            ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
            ip(&format!("link set {name} master {bridge} up"));
            ip(&format!("-n {name} addr add {}/29 dev eth0", lan.host(machine as u32 + 2)));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} link set lo up"));
        }
        lan
    }

    fn host(&self, number: u32) -> String {
        std::net::Ipv4Addr::from_bits(0xc612_0000 + self.net * 8 + number).to_string()
    }

    /// This machine's address on it.
    pub fn address(&self) -> String {
        self.host(1)
    }

    /// A namespace's name.
    pub fn namespace(&self, machine: usize) -> String {
        format!("{}{}", self.bridge, ["a", "b", "c", "d", "e"][machine])
    }
}

impl Drop for TestLan {
    fn drop(&mut self) {
        // Also after half a start: what is not there is said, and the rest goes. The host's ends of the cables go now, not when
        // the last process has left its namespace.
        for machine in 0..self.machines {
            let name = self.namespace(machine);
            remove(&["link", "del", &name]);
            remove(&["netns", "del", &name]);
        }
        remove(&["link", "del", &self.bridge]);
    }
}

fn ip(args: &str) {
    run("ip", &args.split(' ').collect::<Vec<_>>()).success();
}

fn remove(args: &[&str]) {
    let ended = std::process::Command::new("ip").args(args).status();
    if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!("ip {}: {ended:?}", args.join(" "));
    }
}
