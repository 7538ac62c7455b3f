//! Content of `/etc/hosts` and `/etc/resolv.conf` as a step sees them. Pure, except [`host_resolv_conf`].

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use crate::spec::{DnsConfig, NetMode};

/// Where the host keeps its resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the one without itself as the only server.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Servers for a step when the host has none that it could reach; upstream's choice.
const FALLBACK: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

/// `/etc/hosts` for a step called `hostname`.
pub fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (host, ip) in extra {
        writeln!(text, "{ip}\t{host}").expect("a string can be written to");
    }
    text
}

/// Reads the host's resolver configuration, looking behind systemd-resolved unless the step shares its network.
/// A host without one gives an empty text.
pub fn host_resolv_conf(network: NetMode) -> std::io::Result<String> {
    let main = read(Path::new(RESOLV_CONF))?;
    if network != NetMode::Host && nameservers(&main) == ["127.0.0.53"] {
        return read(Path::new(RESOLVED_CONF));
    }
    Ok(main)
}

fn read(path: &Path) -> std::io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(err) => Err(err),
    }
}

/// `/etc/resolv.conf` for a step, from the host's.
///
/// Servers on loopback are left out unless the step shares the host's network, for it could not reach them; if none is
/// left, public ones take their place.
pub fn resolv_conf(host: &str, dns: &DnsConfig, network: NetMode) -> String {
    let mut servers = nameservers(host);
    if !dns.nameservers.is_empty() {
        servers = dns.nameservers.iter().map(String::as_str).collect();
    }
    if network != NetMode::Host {
        servers.retain(|server| !is_loopback(server));
    }
    if servers.is_empty() {
        servers = FALLBACK.to_vec();
    }
    let search = words(host, "search", &dns.search);
    let options = words(host, "options", &dns.options);
    let mut text = String::new();
    for server in servers {
        writeln!(text, "nameserver {server}").expect("a string can be written to");
    }
    // A lone `.` means: no search.
    if !search.is_empty() && search != ["."] {
        writeln!(text, "search {}", search.join(" ")).expect("a string can be written to");
    }
    if !options.is_empty() {
        writeln!(text, "options {}", options.join(" ")).expect("a string can be written to");
    }
    text
}

/// The words of the last line `keyword …`, or `instead` if it is given.
fn words<'a>(conf: &'a str, keyword: &str, instead: &'a [String]) -> Vec<&'a str> {
    if !instead.is_empty() {
        return instead.iter().map(String::as_str).collect();
    }
    fields(conf, keyword).last().unwrap_or_default()
}

fn nameservers(conf: &str) -> Vec<&str> {
    fields(conf, "nameserver").filter_map(|words| words.first().copied()).collect()
}

fn fields<'a>(conf: &'a str, keyword: &str) -> impl Iterator<Item = Vec<&'a str>> {
    conf.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        (words.next()? == keyword).then(|| words.collect())
    })
}

fn is_loopback(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or(server);
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\n\
                        search a.example b.example\noptions edns0\n";

    #[test]
    fn loopback_servers_are_only_for_the_hosts_network() {
        let none = resolv_conf(HOST, &DnsConfig::default(), NetMode::None);
        assert_eq!(none, "nameserver 10.0.0.2\nsearch a.example b.example\noptions edns0\n");
        let host = resolv_conf(HOST, &DnsConfig::default(), NetMode::Host);
        assert!(host.starts_with("nameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\n"));
    }

    #[test]
    fn a_host_without_reachable_servers_gets_public_ones() {
        for host in ["", "nameserver 127.0.0.1\n"] {
            let text = resolv_conf(host, &DnsConfig::default(), NetMode::None);
            assert!(text.starts_with("nameserver 8.8.8.8\nnameserver 8.8.4.4\n"), "{text}");
        }
    }

    #[test]
    fn configured_dns_wins() {
        let dns = DnsConfig {
            nameservers: vec!["1.2.3.4".into()],
            options: vec!["ndots:1".into()],
            search: vec![".".into()],
        };
        assert_eq!(resolv_conf(HOST, &dns, NetMode::Host), "nameserver 1.2.3.4\noptions ndots:1\n");
    }

    #[test]
    fn extra_hosts_follow_the_usual_two_lines() {
        let text = hosts("box", &[("db".into(), [10, 0, 0, 9].into())]);
        let want = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.9\tdb\n";
        assert_eq!(text, want);
    }
}
