//! Platforms: `os/arch[/variant]`, normalised as containerd does.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A target or build platform (OCI image-spec, image-index.md, "platform").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name of the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// `v7` of `linux/arm/v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A platform text that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a platform: expected os[/architecture[/variant]], such as linux/amd64")]
pub struct PlatformError {
    /// The text as given.
    pub text: String,
}

impl Platform {
    /// Returns the platform of the machine that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant` (containerd `platforms`, "Parse").
    ///
    /// # Errors
    ///
    /// [`PlatformError`] for an empty part, too many parts or characters outside `[A-Za-z0-9_.-]`.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let fault = || PlatformError { text: text.to_owned() };
        let parts: Vec<String> = text.split('/').map(str::to_ascii_lowercase).collect();
        let is_word = |part: &String| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if parts.len() > 3 || !parts.iter().all(is_word) {
            return Err(fault());
        }
        let host = Self::host();
        match parts.as_slice() {
            [os] if is_known_os(os) => Ok(Self { os: os.clone(), ..host }),
            [arch] => Ok(Self::normalised("linux", arch, None)),
            [os, arch] => Ok(Self::normalised(os, arch, None)),
            [os, arch, variant] => Ok(Self::normalised(os, arch, Some(variant))),
            _ => Err(fault()),
        }
    }

    fn normalised(os: &str, arch: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = match (arch, variant) {
            ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("i386", _) => ("386", None),
            ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
            ("aarch64", other) => ("arm64", other),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("armel", _) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("armhf", _) | ("arm", Some("7") | None) => ("arm", Some("v7")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            (other, variant) => (other, variant),
        };
        let os = if os == "macos" { "darwin" } else { os };
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }
}

fn is_known_os(text: &str) -> bool {
    matches!(text, "linux" | "windows" | "darwin" | "macos" | "freebsd" | "netbsd" | "openbsd")
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}
