//! Addresses of a bridge's steps. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, as `10.10.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Default for Subnet {
    /// Upstream's.
    fn default() -> Self {
        Self { network: u32::from(Ipv4Addr::new(10, 10, 0, 0)), prefix: 16 }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    /// Errors: no IPv4 network, or one that has no room for steps.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}`: expected an IPv4 network of 4 to 16,777,216 addresses, as 10.10.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=30).contains(&prefix) {
            return Err(wrong());
        }
        let network = u32::from(address) & (u32::MAX << (32 - prefix));
        Ok(Self { network, prefix })
    }
}

impl Subnet {
    /// The bridge's own address.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The last address, which means all of them.
    fn broadcast(self) -> u32 {
        self.network | !(u32::MAX << (32 - self.prefix))
    }
}

/// Which addresses are in use. They are given out in turn: whoever used one last is long gone.
#[derive(Debug)]
pub(super) struct Addresses {
    subnet: Subnet,
    next: u32,
    used: BTreeSet<u32>,
}

impl Addresses {
    pub(super) fn new(subnet: Subnet) -> Self {
        Self { subnet, next: subnet.network + 2, used: BTreeSet::new() }
    }

    pub(super) fn take(&mut self) -> Option<Ipv4Addr> {
        let (first, end) = (self.subnet.network + 2, self.subnet.broadcast());
        let candidates = (self.next..end).chain(first..self.next);
        let found = candidates.into_iter().find(|address| !self.used.contains(address))?;
        self.used.insert(found);
        self.next = if found + 1 >= end { first } else { found + 1 };
        Some(found.into())
    }

    pub(super) fn free(&mut self, address: Ipv4Addr) {
        self.used.remove(&u32::from(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_run_out() {
        let mut addresses = Addresses::new("192.168.7.9/29".parse().unwrap());
        let taken: Vec<String> = std::iter::from_fn(|| addresses.take()).map(|a| a.to_string()).collect();
        assert_eq!(taken, ["192.168.7.10", "192.168.7.11", "192.168.7.12", "192.168.7.13", "192.168.7.14"]);
        addresses.free(Ipv4Addr::new(192, 168, 7, 12));
        addresses.free(Ipv4Addr::new(192, 168, 7, 10));
        assert_eq!(addresses.take(), Some(Ipv4Addr::new(192, 168, 7, 10)));
        assert_eq!(addresses.take(), Some(Ipv4Addr::new(192, 168, 7, 12)));
        assert_eq!(addresses.take(), None);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/7", "fd00::/64", "10.0.0/16", "a/16"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        let subnet: Subnet = "10.1.2.3/16".parse().unwrap();
        assert_eq!(
            (subnet.to_string(), subnet.gateway().to_string()),
            ("10.1.0.0/16".into(), "10.1.0.1".into())
        );
    }
}
