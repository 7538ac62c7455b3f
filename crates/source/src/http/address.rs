use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::RwLock;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Which addresses builds may fetch from. Checked for the URL, for every redirect, and for what names resolve to at
/// the moment of connecting, so a name that changes its mind does not help.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// Link-local addresses (where clouds serve a machine's secrets) are open too.
    pub allow_link_local: bool,
    /// Further addresses that are closed, for instance those the daemon listens on.
    pub denied: ClosedAddresses,
}

/// Addresses that are closed to builds. Clones are one list: the daemon opens its sockets when its sources are there.
#[derive(Debug, Clone, Default)]
pub struct ClosedAddresses(Arc<RwLock<Vec<SocketAddr>>>);

impl ClosedAddresses {
    /// Closes one more. Port 0 closes all ports.
    pub fn close(&self, address: SocketAddr) {
        self.0.write().push(address);
    }

    fn contains(&self, ip: IpAddr, port: u16) -> bool {
        self.0.read().iter().any(|closed| {
            let listens = closed.ip().to_canonical();
            let same = listens == ip || (listens.is_unspecified() && is_own(ip));
            same && (closed.port() == 0 || closed.port() == port)
        })
    }
}

/// Whether an address is one of this machine: only of such can a socket be.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

impl AddressPolicy {
    /// Whether `ip` may be connected on `port` (0: any).
    pub(super) fn allows(&self, ip: IpAddr, port: u16) -> bool {
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        (self.allow_link_local || !link_local) && !self.denied.contains(ip, port)
    }

    /// The address in a URL that is not allowed, if it names one.
    pub(super) fn refuses(&self, url: &Url) -> Option<IpAddr> {
        let ip = match url.host()? {
            Host::Ipv4(ip) => IpAddr::V4(ip),
            Host::Ipv6(ip) => IpAddr::V6(ip),
            Host::Domain(_) => return None,
        };
        (!self.allows(ip, url.port_or_known_default().unwrap_or(0))).then_some(ip)
    }
}

/// Resolves names and leaves out what the policy forbids; an error if nothing remains.
#[derive(Debug)]
pub(super) struct CheckedDns(pub(super) Arc<AddressPolicy>);

impl Resolve for CheckedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|address| policy.allows(address.ip(), 0)).collect();
            if let (true, Some(first)) = (allowed.is_empty(), found.first()) {
                let text = format!("address {} of {name} is not allowed", first.ip());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &AddressPolicy, url: &str) -> bool {
        policy.refuses(&Url::parse(url).unwrap()).is_some()
    }

    #[test]
    fn link_local_addresses_are_closed_however_they_are_written() {
        let policy = AddressPolicy::default();
        for url in [
            "http://169.254.169.254/latest",
            "http://[::ffff:169.254.169.254]/",
            "http://[fe80::1]/",
            "http://2852039166/",
            "http://0xa9.0xfe.0xa9.0xfe/",
        ] {
            assert!(refused(&policy, url), "{url}");
        }
        for url in ["http://127.0.0.1/", "http://10.0.0.1/", "http://example.com/", "http://[::1]/"] {
            assert!(!refused(&policy, url), "{url}");
        }
        assert!(!refused(&AddressPolicy { allow_link_local: true, ..policy }, "http://169.254.169.254/"));
    }

    #[test]
    fn the_daemons_own_sockets_are_closed() {
        let policy = AddressPolicy::default();
        policy.denied.close("0.0.0.0:1234".parse().unwrap());
        assert!(refused(&policy, "http://127.0.0.1:1234/"));
        assert!(refused(&policy, "http://[::ffff:127.0.0.1]:1234/"));
        assert!(!refused(&policy, "http://127.0.0.1:1235/"));
        // Nobody's: from a range for documents.
        assert!(!refused(&policy, "http://192.0.2.1:1234/"));
    }
}
