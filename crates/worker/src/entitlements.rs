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
}

impl Entitlement {
    const ALL: [Self; 2] = [Self::NetworkHost, Self::SecurityInsecure];

    /// As it is written on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
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
pub struct Entitlements(BTreeSet<Entitlement>);

impl Entitlements {
    /// No grants.
    pub fn none() -> Self {
        Self::default()
    }

    /// From names as they are written on command lines.
    ///
    /// Errors: [`OpError::Invalid`] for a name that is not known. Device grants are refused by name.
    pub fn parse<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, OpError> {
        let one = |name: S| {
            let name = name.as_ref().trim();
            if name == "device" || name.starts_with("device=") {
                return Err(OpError::unsupported("entitlement `device`"));
            }
            let found = Entitlement::ALL.into_iter().find(|entitlement| entitlement.name() == name);
            found.ok_or_else(|| {
                OpError::invalid(format!(
                    "unknown entitlement `{name}`: expected `network.host` or `security.insecure`"
                ))
            })
        };
        names.into_iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// What a client asked for, if the daemon allows all of it.
    ///
    /// Errors: [`OpError::Denied`] naming the first that it does not.
    pub fn granted(daemon: &Self, asked: &Self) -> Result<Self, OpError> {
        match asked.0.iter().find(|entitlement| !daemon.0.contains(entitlement)) {
            Some(entitlement) => Err(OpError::Denied {
                entitlement: *entitlement,
                missing: "the daemon was not started with --allow-insecure-entitlement for it",
            }),
            None => Ok(asked.clone()),
        }
    }

    /// Whether it is granted.
    pub fn has(&self, entitlement: Entitlement) -> bool {
        self.0.contains(&entitlement)
    }

    /// Checks what an op needs. Every road to the runtime and every graph goes through here.
    ///
    /// Errors: [`OpError::Denied`]; [`OpError::Device`].
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
        match exec.cdi_devices.iter().find(|device| !device.optional) {
            Some(device) => Err(OpError::Device { name: device.name.clone() }),
            None => Ok(()),
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
        assert!(Entitlements::parse(["device=x/y=z"]).is_err());
    }
}
