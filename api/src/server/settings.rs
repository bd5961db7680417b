//! `[server]` of rbuild.toml, and what holds where it says nothing.

use std::num::NonZeroUsize;
use std::time::Duration;

use builder::{Entitlement, Entitlements};
use serde::Deserialize;

use super::queue::QueueLimits;
use crate::limits::bytes;
use crate::pipe::Upload;
use crate::upkeep::Age;

/// Builds that run at once. Steps within them are bounded by the builder.
const MAX_BUILDS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// Builds that wait.
const MAX_QUEUE: usize = 256;

/// Bytes of a context.
const MAX_CONTEXT: u64 = 64 << 30;

/// What a client may keep a build waiting for its context.
const UPLOAD_TIME: Duration = Duration::from_secs(3600);

/// What runs when the service is asked to end may take this long before it is cancelled.
const SHUTDOWN_TIME: Duration = Duration::from_secs(10);

/// `[server]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerTable {
    /// What builds may do beyond the sandbox, if they ask for it.
    allow: Vec<AllowedWord>,
    max_builds: Option<NonZeroUsize>,
    max_builds_per_client: Option<NonZeroUsize>,
    max_queue: Option<usize>,
    max_context: Option<Size>,
    upload_time: Option<Age>,
    shutdown_time: Option<Age>,
}

/// What clients may ask of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerLimits {
    /// Running and waiting builds.
    pub(crate) queue: QueueLimits,
    /// One context.
    pub(crate) upload: Upload,
    /// How long builds may go on once the service is asked to end.
    pub(crate) shutdown: Duration,
}

impl ServerTable {
    /// Fills in what the file leaves out.
    pub(crate) fn limits(&self) -> ServerLimits {
        let builds = self.max_builds.unwrap_or(MAX_BUILDS);
        let queue = QueueLimits {
            builds,
            builds_per_client: self.max_builds_per_client.unwrap_or(builds),
            waiting: self.max_queue.unwrap_or(MAX_QUEUE),
        };
        let upload = Upload {
            bytes: self.max_context.map_or(MAX_CONTEXT, |Size(bytes)| bytes),
            time: self.upload_time.map_or(UPLOAD_TIME, |Age(time)| time),
        };
        let shutdown = self.shutdown_time.map_or(SHUTDOWN_TIME, |Age(time)| time);
        ServerLimits { queue, upload, shutdown }
    }

    /// Returns what builds may do beyond the sandbox.
    pub(crate) fn allowed(&self) -> Entitlements {
        self.allow.iter().map(|word| word.0.clone()).collect()
    }
}

/// An entitlement as configuration files have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct AllowedWord(Entitlement);

impl TryFrom<String> for AllowedWord {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        Entitlement::parse(&word).map(Self)
    }
}

/// Bytes, such as `20g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Size(u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        bytes(&text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_files_or_the_defaults() {
        let limits = |text: &str| toml::from_str::<ServerTable>(text).map(|table| table.limits());
        let defaults = ServerTable::default().limits();
        assert_eq!(defaults.queue.builds_per_client, defaults.queue.builds);
        let text = "max_builds = 3\nmax_queue = 0\nmax_context = \"1g\"\nupload_time = \"5m\"\n\
                    shutdown_time = \"1h\"";
        let got = limits(text).unwrap();
        let three = NonZeroUsize::new(3).unwrap();
        assert_eq!((got.queue.builds, got.queue.builds_per_client), (three, three));
        let want = Upload { bytes: 1 << 30, time: Duration::from_secs(300) };
        assert_eq!((got.queue.waiting, got.upload), (0, want));
        assert_eq!(got.shutdown, Duration::from_secs(3600));
        for wrong in
            ["max_builds = 0", "max_context = \"much\"", "builds = 3", "upload_time = \"0\""]
        {
            assert!(limits(wrong).is_err(), "{wrong}");
        }
    }
}
