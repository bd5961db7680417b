//! The query of `POST /v1/builds`, both ways: that of Docker's `/build`, and what the command line can
//! do beyond it.

use std::collections::BTreeMap;

use builder::{Annotations, BuildRequest, CachePlace, NamedTarget, OutputSpec};
use frontend::Platform;
use serde::{Deserialize, Serialize};

use crate::server::error::ApiError;
use crate::server::query::{BuildQuery, platform};

/// A context that was sent before: `context://ID`.
pub(crate) const SENT: &str = "context://";
/// An OCI image layout that was sent as one: `oci-layout://ID[:TAG|@DIGEST]`.
pub(crate) const SENT_LAYOUT: &str = "oci-layout://";

/// What `POST /v1/builds` is asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NativeQuery {
    /// Whose `platform` is not used: there may be several. Directories of caches are what the client
    /// calls them, or contexts that were sent.
    pub(crate) build: BuildQuery,
    /// The id of the main context, where it was sent before.
    pub(crate) context: Option<String>,
    pub(crate) platforms: Vec<Platform>,
    /// Beside the `target` of [`BuildQuery`].
    pub(crate) more_targets: Vec<NamedTarget>,
    pub(crate) annotations: Annotations,
    /// Their destinations are the client's, which fetches them from here.
    pub(crate) outputs: Vec<OutputSpec>,
    /// Named contexts: what `--build-context` takes, directories as [`SENT`] or [`SENT_LAYOUT`].
    pub(crate) contexts: BTreeMap<String, String>,
    /// Agents for `RUN --mount=type=ssh` by the ids of the Dockerfile, as they were announced.
    pub(crate) agents: BTreeMap<String, String>,
}

/// A further target, on its way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    stage: String,
    #[serde(default)]
    tags: Vec<String>,
}

impl NativeQuery {
    /// Reads the parameters of `POST /v1/builds`.
    ///
    /// # Errors
    ///
    /// As [`BuildQuery::parse`].
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let mut query = Self::default();
        let mut rest = Vec::new();
        for (name, value) in pairs {
            if !query.set(name, value)? {
                rest.push((name.clone(), value.clone()));
            }
        }
        query.build = BuildQuery::parse_any(&rest)?;
        Ok(query)
    }

    /// Takes a parameter that is not one of Docker's.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, ApiError> {
        let refuse = |reason: String| ApiError::parameter(name, reason);
        let is_known = matches!(
            name,
            "context"
                | "platform"
                | "moretargets"
                | "annotation"
                | "output"
                | "buildcontexts"
                | "ssh"
        );
        if !is_known || value.is_empty() {
            return Ok(is_known);
        }
        match name {
            "context" => self.context = Some(value.to_owned()),
            "platform" => {
                for one in value.split(',') {
                    self.platforms.extend(platform(name, one)?);
                }
            }
            "moretargets" => {
                let targets: Vec<Target> = json(name, value)?;
                let targets = targets.into_iter();
                self.more_targets =
                    targets.map(|Target { stage, tags }| NamedTarget { stage, tags }).collect();
            }
            "annotation" => self.annotations.add_flag(value).map_err(refuse)?,
            "output" => self.outputs.push(OutputSpec::parse(value).map_err(refuse)?),
            "buildcontexts" => self.contexts = json(name, value)?,
            _ => self.agents = json(name, value)?,
        }
        Ok(true)
    }

    /// Puts what [`BuildQuery`] knows nothing of into a request.
    pub(in crate::server) fn complete(self, request: &mut BuildRequest) {
        request.platforms = self.platforms;
        request.more_targets = self.more_targets;
        request.annotations = self.annotations;
    }

    /// Whether results leave for a registry.
    pub(in crate::server) fn pushes(&self) -> bool {
        let is_registry = |place: &CachePlace| matches!(place, CachePlace::Registry(_));
        self.build.cache_to.iter().any(|to| is_registry(&to.place))
            || self.outputs.iter().any(|output| output.push)
    }

    /// Writes the query string that [`NativeQuery::parse`] reads back as this.
    pub(crate) fn encode(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(self.build.encode());
        for platform in &self.platforms {
            query.append_pair("platform", &platform.to_string());
        }
        for annotation in self.annotations.flags() {
            query.append_pair("annotation", &annotation);
        }
        for output in &self.outputs {
            query.append_pair("output", &output.to_string());
        }
        if !self.more_targets.is_empty() {
            let targets = self.more_targets.iter();
            let targets: Vec<_> = targets
                .map(|it| Target { stage: it.stage.clone(), tags: it.tags.clone() })
                .collect();
            query.append_pair("moretargets", &text(&targets));
        }
        for (name, map) in [("buildcontexts", &self.contexts), ("ssh", &self.agents)] {
            if !map.is_empty() {
                query.append_pair(name, &text(map));
            }
        }
        if let Some(id) = &self.context {
            query.append_pair("context", id);
        }
        query.finish()
    }
}

fn json<T: serde::de::DeserializeOwned>(name: &str, value: &str) -> Result<T, ApiError> {
    serde_json::from_str(value).map_err(|error| ApiError::parameter(name, error.to_string()))
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::query::pairs;

    #[test]
    fn what_the_client_writes_is_read_back() {
        let mut annotations = Annotations::default();
        annotations.add_flag("index:a=b, c").unwrap();
        let query = NativeQuery {
            build: BuildQuery { tags: vec!["a:1".to_owned()], ..BuildQuery::default() },
            context: Some("0a1b".to_owned()),
            platforms: ["linux/amd64", "linux/arm/v7"]
                .map(|it| Platform::parse(it).unwrap())
                .into(),
            more_targets: vec![NamedTarget { stage: "x".to_owned(), tags: vec!["y:1".to_owned()] }],
            annotations,
            outputs: ["type=oci,dest=/a b/c.tar", "type=registry,compression=zstd", "out"]
                .map(|text| OutputSpec::parse(text).unwrap())
                .into(),
            contexts: [("n".to_owned(), "context://0a".to_owned())].into(),
            agents: [("default".to_owned(), "0b".to_owned())].into(),
        };
        assert_eq!(NativeQuery::parse(&pairs(Some(&query.encode()))).unwrap(), query);
        assert_eq!(NativeQuery::default().encode(), "");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (text, want) in [
            ("platform=a/b/c/d", "`platform`"),
            ("moretargets=%5B%7B%22stages%22%3A1%7D%5D", "`moretargets`"),
            ("annotation=x", "`annotation`"),
            ("output=type%3Dzip", "`output`"),
            ("buildcontexts=%5B%5D", "`buildcontexts`"),
            ("ssh=1", "`ssh`"),
            ("colour=red", "`colour`"),
        ] {
            let error = NativeQuery::parse(&pairs(Some(text))).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        let empty = "platform=&moretargets=&annotation=&output=&buildcontexts=&ssh=&context=";
        assert_eq!(NativeQuery::parse(&pairs(Some(empty))).unwrap(), NativeQuery::default());
    }
}
