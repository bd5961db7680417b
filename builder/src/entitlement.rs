//! What a step may do beyond the sandbox, and the one function that decides it.
//!
//! Invariant: two sides must say yes: whoever runs the builder, and whoever asks for the build.
//! The default of both is no (BuildKit's entitlements).

use std::collections::BTreeSet;
use std::fmt;

use frontend::{RunNetwork, RunOp};

/// Something that takes away a part of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// This machine's network.
    NetworkHost,
    /// All capabilities, no filter of system calls, nothing masked.
    SecurityInsecure,
    /// Devices of this machine.
    Device,
    /// A secret in a layer or in the image's config.
    SecretLeak,
}

impl Entitlement {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::NetworkHost, Self::SecurityInsecure, Self::Device, Self::SecretLeak];

    /// Returns the name that `--allow` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
            Self::SecretLeak => "secret.leak",
        }
    }

    /// Parses a name.
    ///
    /// # Errors
    ///
    /// A sentence that lists the names.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|entitlement| entitlement.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no entitlement `{name}`; there are {names}")
        })
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one side allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements(BTreeSet<Entitlement>);

impl Entitlements {
    /// Allows everything: for a builder in the process of the user who asks.
    #[must_use]
    pub fn all() -> Self {
        Self::from_iter(Entitlement::ALL)
    }

    /// Says whether `entitlement` is among them.
    #[must_use]
    pub fn contains(&self, entitlement: Entitlement) -> bool {
        self.0.contains(&entitlement)
    }

    /// Adds one.
    pub fn insert(&mut self, entitlement: Entitlement) {
        self.0.insert(entitlement);
    }

    /// Returns them in order.
    pub fn iter(&self) -> impl Iterator<Item = Entitlement> {
        self.0.iter().copied()
    }
}

impl FromIterator<Entitlement> for Entitlements {
    fn from_iter<T: IntoIterator<Item = Entitlement>>(entitlements: T) -> Self {
        Self(entitlements.into_iter().collect())
    }
}

/// Something that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not allowed: it needs the entitlement `{entitlement}`{}", by_whom(*by_builder))]
pub(crate) struct NotAllowed {
    /// What was asked for, as written.
    pub(crate) what: String,
    /// What is missing.
    pub(crate) entitlement: Entitlement,
    /// Whether the builder's side would allow it.
    pub(crate) by_builder: bool,
}

const fn by_whom(by_builder: bool) -> &'static str {
    if by_builder { "" } else { ", which this builder does not grant" }
}

impl NotAllowed {
    /// Says what to do.
    pub(crate) fn help(&self) -> String {
        let Self { entitlement, by_builder, .. } = self;
        if *by_builder {
            format!("if you trust what it does, add `--allow {entitlement}`")
        } else {
            format!(
                "whoever runs the service can grant it: `rbuild serve --allow {entitlement}`, or \
                 `allow` in the [server] table of rbuild.toml"
            )
        }
    }
}

/// What both sides of one build allow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    of_builder: Entitlements,
    of_request: Entitlements,
}

impl Grants {
    /// Brings both sides together.
    pub(crate) fn new(of_builder: Entitlements, of_request: Entitlements) -> Self {
        Self { of_builder, of_request }
    }

    /// Decides whether `what` may use `entitlement`. Every way into a step comes through here.
    pub(crate) fn check(
        &self,
        entitlement: Entitlement,
        what: impl Into<String>,
    ) -> Result<(), NotAllowed> {
        let by_builder = self.of_builder.contains(entitlement);
        if by_builder && self.of_request.contains(entitlement) {
            return Ok(());
        }
        Err(NotAllowed { what: what.into(), entitlement, by_builder })
    }

    /// Decides whether a RUN may do what it asks for; `network` is that of the build.
    pub(crate) fn check_run(&self, op: &RunOp, network: RunNetwork) -> Result<(), NotAllowed> {
        match (op.network, network) {
            (RunNetwork::Host, _) => self.check(Entitlement::NetworkHost, "RUN --network=host")?,
            (RunNetwork::Default, RunNetwork::Host) => {
                self.check(Entitlement::NetworkHost, "--network host")?;
            }
            (RunNetwork::None | RunNetwork::Default, _) => {}
        }
        if op.insecure {
            self.check(Entitlement::SecurityInsecure, "RUN --security=insecure")?;
        }
        match op.devices.first() {
            None => Ok(()),
            Some(device) => self.check(Entitlement::Device, format!("RUN --device={device}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_must_allow() {
        let none = Entitlements::default;
        let host = || Entitlements::from_iter([Entitlement::NetworkHost]);
        #[rustfmt::skip]
        let cases = [
            ("both",         host(), host(), None),
            ("builder only", host(), none(), Some("if you trust what it does, add `--allow network.host`")),
            ("request only", none(), host(), Some("whoever runs the service can grant it: `rbuild serve --allow network.host`, or `allow` in the [server] table of rbuild.toml")),
            ("neither",      none(), none(), Some("whoever runs the service can grant it: `rbuild serve --allow network.host`, or `allow` in the [server] table of rbuild.toml")),
        ];
        for (name, of_builder, of_request, want) in cases {
            let grants = Grants::new(of_builder, of_request);
            let got = grants.check(Entitlement::NetworkHost, "x");
            assert_eq!(got.err().map(|it| it.help()).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for entitlement in Entitlement::ALL {
            assert_eq!(Entitlement::parse(entitlement.name()), Ok(entitlement));
        }
        let message = Entitlement::parse("root").unwrap_err();
        assert!(message.contains("there is no entitlement `root`"), "{message}");
    }
}
