//! What `ip` and `nft` are told. Pure.

use std::net::Ipv4Addr;

use super::Subnet;

/// For the host's network.
pub(super) fn make_bridge(name: &str, subnet: Subnet) -> String {
    let (gateway, prefix) = (subnet.gateway(), subnet.prefix());
    format!("link add {name} type bridge\naddr add {gateway}/{prefix} dev {name}\nlink set {name} up\n")
}

pub(super) fn remove_bridge(name: &str) -> String {
    format!("link del {name}\n")
}

/// For the step's network; the other end of the pair appears in that of the process `host`.
pub(super) fn inside(address: Ipv4Addr, subnet: Subnet, veth: &str, host: u32) -> String {
    let (gateway, prefix) = (subnet.gateway(), subnet.prefix());
    format!(
        "link set lo up\n\
         link add eth0 type veth peer name {veth} netns {host}\n\
         addr add {address}/{prefix} dev eth0\n\
         link set eth0 up\n\
         route add default via {gateway}\n"
    )
}

/// For the host's network. Isolated: steps do not see each other's frames.
pub(super) fn outside(bridge: &str, veth: &str) -> String {
    format!(
        "link set {veth} master {bridge}\nlink set {veth} type bridge_slave isolated on\nlink set {veth} up\n"
    )
}

/// Out, not in: steps reach what the host can reach; of the host itself they reach name servers only, so not the daemon
/// (S6 of the threat list); what they did not ask for does not reach them.
pub(super) fn firewall(bridge: &str, subnet: Subnet) -> String {
    format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {subnet} oifname != \"{bridge}\" masquerade\n\
           }}\n\
           chain forward {{\n\
             type filter hook forward priority filter; policy accept;\n\
             iifname \"{bridge}\" oifname \"{bridge}\" drop\n\
             oifname \"{bridge}\" ct state established,related accept\n\
             oifname \"{bridge}\" drop\n\
           }}\n\
           chain input {{\n\
             type filter hook input priority filter; policy accept;\n\
             iifname \"{bridge}\" ct state established,related accept\n\
             iifname \"{bridge}\" meta l4proto {{ tcp, udp }} th dport 53 accept\n\
             iifname \"{bridge}\" drop\n\
           }}\n\
         }}\n",
        table = table(bridge),
    )
}

pub(super) fn no_firewall(bridge: &str) -> String {
    format!("delete table ip {}\n", table(bridge))
}

/// Names of tables are words.
fn table(bridge: &str) -> String {
    format!("rbuild_{}", bridge.replace('-', "_"))
}
