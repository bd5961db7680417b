//! What a step may do beyond the sandbox, and the one function that decides it.
//!
//! Invariant: two sides must say yes: whoever runs the builder, and whoever asks for the build.
//! The default of both is no (BuildKit's entitlements).

use std::collections::BTreeSet;
use std::fmt;

use frontend::{RunNetwork, RunOp};

use crate::op::DeviceRequest;

/// Something that takes away a part of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// This machine's network.
    NetworkHost,
    /// All capabilities, no filter of system calls, nothing masked.
    SecurityInsecure,
    /// Devices of this machine.
    Device,
    /// One of them, as `RUN --device` names it, or all of one CDI kind.
    OneDevice(String),
    /// A secret in a layer or in the image's config.
    SecretLeak,
}

impl Entitlement {
    /// All that can be named without saying of what.
    pub const ALL: [Self; 4] =
        [Self::NetworkHost, Self::SecurityInsecure, Self::Device, Self::SecretLeak];

    /// Parses a name.
    ///
    /// # Errors
    ///
    /// A sentence that lists the names.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(device) = name.strip_prefix("device=").filter(|device| is_device(device)) {
            return Ok(Self::OneDevice(device.to_owned()));
        }
        let found = Self::ALL.into_iter().find(|entitlement| entitlement.to_string() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(|entitlement| entitlement.to_string()).join(", ");
            format!("there is no entitlement `{name}`; there are {names}, device=NAME")
        })
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
            Self::Device => "device",
            Self::OneDevice(device) => return write!(f, "device={device}"),
            Self::SecretLeak => "secret.leak",
        })
    }
}

/// Whether `text` can be the name of a device: a list, or an option beside it, is none.
fn is_device(text: &str) -> bool {
    !text.is_empty() && !text.contains([',', ' '])
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
    pub fn contains(&self, entitlement: &Entitlement) -> bool {
        if let Entitlement::OneDevice(device) = entitlement {
            let kind = device.split('=').next().unwrap_or_default().to_owned();
            let wider = [Entitlement::Device, Entitlement::OneDevice(kind)];
            return self.0.contains(entitlement) || wider.iter().any(|it| self.0.contains(it));
        }
        self.0.contains(entitlement)
    }

    /// Adds one.
    pub fn insert(&mut self, entitlement: Entitlement) {
        self.0.insert(entitlement);
    }

    /// Returns them in order.
    pub fn iter(&self) -> impl Iterator<Item = Entitlement> {
        self.0.iter().cloned()
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
        let by_builder = self.of_builder.contains(&entitlement);
        if by_builder && self.of_request.contains(&entitlement) {
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
        op.devices.iter().try_for_each(|text| {
            let device = DeviceRequest::parse(text).name.to_owned();
            self.check(Entitlement::OneDevice(device), format!("RUN --device={text}"))
        })
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
    fn devices_are_allowed_by_name_kind_or_all() {
        let one = |name: &str| Entitlement::OneDevice(name.to_owned());
        #[rustfmt::skip]
        let cases = [
            (Entitlement::Device,     "v.com/a=b", true),
            (one("v.com/a=b"),        "v.com/a=b", true),
            (one("v.com/a"),          "v.com/a=b", true),
            (one("v.com/a=*"),        "v.com/a=*", true),
            (one("v.com/a=c"),        "v.com/a=b", false),
            (one("v.com"),            "v.com/a=b", false),
            (one("v.com/a=b"),        "v.com/a",   false),
            (Entitlement::SecretLeak, "v.com/a=b", false),
            (one("/dev/fuse"),        "/dev/fuse", true),
            (one("/dev"),             "/dev/fuse", false),
        ];
        for (allowed, wanted, want) in cases {
            let set = Entitlements::from_iter([allowed.clone()]);
            assert_eq!(set.contains(&one(wanted)), want, "{allowed} {wanted}");
        }
        assert!(!Entitlements::from_iter([one("x")]).contains(&Entitlement::Device));
    }

    #[test]
    fn names_are_read_back() {
        for entitlement in Entitlement::ALL {
            assert_eq!(Entitlement::parse(&entitlement.to_string()), Ok(entitlement));
        }
        let device = Entitlement::OneDevice("v.com/a=b".to_owned());
        assert_eq!(Entitlement::parse(&device.to_string()), Ok(device));
        assert!(Entitlement::parse("device=a,alias=b").is_err());
        let message = Entitlement::parse("root").unwrap_err();
        assert!(message.contains("there is no entitlement `root`"), "{message}");
    }
}
