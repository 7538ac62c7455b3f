//! Ports and signals as image configs name them.

/// The ports that a word of EXPOSE names: `80`, `80/udp`, `8000-8010`. An address or a host's port before it is
/// left out.
pub(super) fn parse_ports(word: &str) -> Result<impl ExactSizeIterator<Item = String>, String> {
    let (ports, proto) = match word.split_once('/') {
        Some((ports, proto)) => (ports, proto.to_lowercase()),
        None => (word, "tcp".to_owned()),
    };
    let proto = if proto.is_empty() { "tcp".to_owned() } else { proto };
    let container = ports.rsplit(':').next().unwrap_or(ports);
    if container.is_empty() {
        return Err(format!("invalid port: {}: no port specified", crate::text::quote(word)));
    }
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("invalid containerPort: {container}"));
    let (first, last) = match container.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(container)?, number(container)?),
    };
    if first > last {
        return Err(format!("invalid containerPort: {container}"));
    }
    if !matches!(proto.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid port: {}: invalid proto: {proto}", crate::text::quote(word)));
    }
    // As 32 bits, for the last port may be the last number of 16 bits.
    Ok((u32::from(first)..u32::from(last) + 1).map(move |port| format!("{port}/{proto}")))
}

const SIGNALS: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "UNUSED",
];

/// Whether a text names a signal: a number, or a name with or without `SIG`.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&name) {
        return true;
    }
    let real_time = |prefix: &str, most: u32| {
        name.strip_prefix(prefix).is_some_and(|n| n.is_empty() || n.parse::<u32>().is_ok_and(|n| n <= most))
    };
    real_time("RTMIN+", 15) || real_time("RTMAX-", 14) || name == "RTMIN" || name == "RTMAX"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_ranges_and_protocols() {
        let ports = |word| parse_ports(word).map(|ports| ports.collect::<Vec<_>>());
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("8000-8001/UDP").unwrap(), ["8000/udp", "8001/udp"]);
        assert_eq!(ports("127.0.0.1:80:90").unwrap(), ["90/tcp"]);
        assert_eq!(ports("0-65535").unwrap().len(), 65_536);
        assert_eq!(ports("abc").unwrap_err(), "invalid containerPort: abc");
        assert_eq!(ports("80/foo").unwrap_err(), "invalid port: \"80/foo\": invalid proto: foo");
    }

    #[test]
    fn signals_are_numbers_or_names() {
        for good in ["9", "SIGKILL", "term", "SIGRTMIN+3", "RTMAX-1"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["foo", "0", "", "SIG"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
