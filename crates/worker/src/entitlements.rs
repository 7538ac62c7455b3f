//! What a build may ask for beyond the sandbox, and the one check for it.

use std::collections::BTreeSet;
use std::fmt;

use rbuild_llb::{ExecOp, NetMode, OpKind, SecurityMode};

use crate::error::OpError;

/// Something that has to be granted by the daemon's operator and by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// Steps may ask for the host's network.
    NetworkHost,
    /// Steps may ask to run with the daemon's own rights.
    SecurityInsecure,
    /// Steps may ask for devices.
    Device,
}

impl Entitlement {
    const ALL: [Self; 3] = [Self::NetworkHost, Self::SecurityInsecure, Self::Device];

    /// As it is written on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entitlements {
    granted: BTreeSet<Entitlement>,
    /// Single devices or kinds of them, where not all are.
    devices: BTreeSet<String>,
}

impl Entitlements {
    /// No grants.
    pub fn none() -> Self {
        Self::default()
    }

    /// From names as they are written on command lines.
    ///
    /// `device=NAME` grants one device, or those of one kind. Errors: [`OpError::Invalid`] for a name that is not known.
    pub fn parse<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, OpError> {
        let mut grants = Self::default();
        for name in names {
            let name = name.as_ref().trim();
            if let Some(device) = name.strip_prefix("device=") {
                if device.is_empty() || device.contains(',') {
                    return Err(OpError::invalid(format!("entitlement `{name}`: expected `device=NAME`")));
                }
                grants.devices.insert(device.to_owned());
                continue;
            }
            let found = Entitlement::ALL.into_iter().find(|entitlement| entitlement.name() == name);
            grants.granted.insert(found.ok_or_else(|| {
                OpError::invalid(format!(
                    "unknown entitlement `{name}`: expected `network.host`, `security.insecure`, `device` or \
                     `device=NAME`"
                ))
            })?);
        }
        Ok(grants)
    }

    /// What a client asked for, if the daemon allows all of it.
    ///
    /// Errors: [`OpError::Denied`] naming the first that it does not.
    pub fn granted(daemon: &Self, asked: &Self) -> Result<Self, OpError> {
        let not_all = asked.granted.iter().find(|entitlement| !daemon.granted.contains(entitlement)).copied();
        let device = asked.devices.iter().any(|name| !daemon.has_device(name)).then_some(Entitlement::Device);
        match not_all.or(device) {
            Some(entitlement) => Err(OpError::Denied {
                entitlement,
                missing: "the daemon was not started with --allow-insecure-entitlement for it",
            }),
            None => Ok(asked.clone()),
        }
    }

    /// Whether it is granted.
    pub fn has(&self, entitlement: Entitlement) -> bool {
        self.granted.contains(&entitlement)
    }

    /// Whether a device is granted: by its name, its kind, or with all others.
    pub fn has_device(&self, name: &str) -> bool {
        let kind = name.split_once('=').map_or(name, |(kind, _)| kind);
        self.has(Entitlement::Device) || self.devices.contains(name) || self.devices.contains(kind)
    }

    /// Checks what an op needs. Every road to the runtime and every graph goes through here.
    ///
    /// Errors: [`OpError::Denied`].
    pub fn check_op(&self, op: &OpKind) -> Result<(), OpError> {
        match op {
            OpKind::Exec(exec) => self.check_exec(exec),
            _ => Ok(()),
        }
    }

    /// As [`Entitlements::check_op`].
    pub fn check_exec(&self, exec: &ExecOp) -> Result<(), OpError> {
        if exec.network == NetMode::Host {
            self.require(Entitlement::NetworkHost)?;
        }
        if exec.security == SecurityMode::Insecure {
            self.require(Entitlement::SecurityInsecure)?;
        }
        let mut needed = exec.cdi_devices.iter().filter(|device| !device.optional);
        match needed.any(|device| !self.has_device(&device.name)) {
            true => self.require(Entitlement::Device),
            false => Ok(()),
        }
    }

    fn require(&self, entitlement: Entitlement) -> Result<(), OpError> {
        if self.has(entitlement) {
            return Ok(());
        }
        Err(OpError::Denied { entitlement, missing: "the build did not ask for it with --allow" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(network: NetMode, security: SecurityMode) -> OpKind {
        OpKind::Exec(Box::new(ExecOp { network, security, ..ExecOp::default() }))
    }

    #[test]
    fn every_power_needs_its_own_grant() {
        let all = Entitlements::parse(["network.host", "security.insecure"]).unwrap();
        let network = Entitlements::parse(["network.host"]).unwrap();
        let none = Entitlements::none();
        let host = exec(NetMode::Host, SecurityMode::Sandbox);
        let insecure = exec(NetMode::None, SecurityMode::Insecure);
        let plain = exec(NetMode::Sandbox, SecurityMode::Sandbox);
        for (grants, op, allowed) in [
            (&none, &plain, true),
            (&none, &host, false),
            (&none, &insecure, false),
            (&network, &host, true),
            (&network, &insecure, false),
            (&all, &host, true),
            (&all, &insecure, true),
        ] {
            assert_eq!(grants.check_op(op).is_ok(), allowed, "{grants:?} {op:?}");
        }
    }

    #[test]
    fn a_client_gets_only_what_the_daemon_allows() {
        let daemon = Entitlements::parse(["network.host"]).unwrap();
        let asked = Entitlements::parse(["security.insecure"]).unwrap();
        let error = Entitlements::granted(&daemon, &asked).unwrap_err();
        assert!(error.to_string().starts_with("security.insecure is not allowed"), "{error}");
        assert_eq!(Entitlements::granted(&daemon, &daemon).unwrap(), daemon);
        assert_eq!(Entitlements::granted(&daemon, &Entitlements::none()).unwrap(), Entitlements::none());
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(Entitlements::parse(["network.hots"]).is_err());
        assert!(Entitlements::parse(["device="]).is_err());
    }

    #[test]
    fn devices_are_granted_by_name_by_kind_or_all() {
        let parse = |name: &str| Entitlements::parse([name]).unwrap();
        for (grant, device, allowed) in [
            ("device", "v/c=one", true),
            ("device=v/c=one", "v/c=one", true),
            ("device=v/c=one", "v/c=two", false),
            ("device=v/c=one", "v/c", false),
            ("device=v/c", "v/c=two", true),
            ("device=v/c", "v/c=*", true),
            ("network.host", "v/c=one", false),
        ] {
            assert_eq!(parse(grant).has_device(device), allowed, "{grant} {device}");
        }
        assert!(Entitlements::granted(&parse("device=v/c"), &parse("device=v/c=one")).is_ok());
        assert!(Entitlements::granted(&parse("device=v/c=one"), &parse("device")).is_err());
        assert!(Entitlements::granted(&parse("device=v/c=one"), &parse("device=v/c")).is_err());
    }
}
