//! Options of `docker buildx build`, buildah and kaniko that rbuild has not: what to do instead.
//!
//! Some are accepted where they ask for what is so anyway; all others are refused by name.

use clap::Args;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What options of other builders become here; each with the sentence that an error ends with.
const REFUSED: [(&str, &str); 77] = [
    // docker buildx build
    ("--builder", "name a service with --host"),
    ("--cgroup-parent", "steps have cgroups below rbuild's own: start rbuild in the one you mean"),
    ("--compress", "contexts are not compressed; what a service has already is not sent again"),
    ("--debug", "RBUILD_LOG=debug shows what rbuild does; `rbuild shell` opens a failed step"),
    ("--isolation", "there is one sandbox; `rbuild doctor` tells what it needs"),
    ("--policy", "there are no policies; pin base images by their digests"),
    ("--resource", "see --memory, --cpus and their like"),
    ("--source-policy-file", "there are no policies; pin base images by their digests"),
    // buildah
    ("--all-platforms", "name the platforms with --platform"),
    ("--arch", "name the platform: --platform OS/ARCH"),
    ("--os", "name the platform: --platform OS/ARCH"),
    ("--variant", "name the platform: --platform OS/ARCH/VARIANT"),
    ("--authfile", "credentials are those of `rbuild login` and of docker's configuration"),
    ("--creds", "credentials are those of `rbuild login` and of docker's configuration"),
    ("--cert-dir", "registries need a certificate that this machine believes"),
    ("--tls-verify", "name registries without TLS in the configuration file"),
    ("--cap-add", "steps have docker's capabilities; RUN --security=insecure has all"),
    ("--cap-drop", "steps have docker's capabilities; --security-opt no-new-privileges takes more"),
    ("--device", "use RUN --device with --allow device"),
    ("--userns", "steps are in a user namespace where rbuild is not root"),
    ("--ipc", "steps have an IPC namespace of their own"),
    ("--pid", "steps have a PID namespace of their own"),
    ("--uts", "steps have a UTS namespace of their own"),
    ("--compression-format", "choose it with the output: -o type=image,compression=zstd"),
    ("--compression-level", "choose it with the output: -o type=image,compression-level=9"),
    ("--force-compression", "choose it with the output: -o type=image,force-compression=true"),
    ("--cw", "confidential workloads are not supported"),
    ("--cpp-flag", "run the preprocessor yourself, and pipe its output: -f -"),
    ("--decryption-key", "encrypted images are not supported"),
    ("--env", "write ENV into the Dockerfile; --build-arg gives it a value"),
    ("--unsetenv", "write `ENV NAME=` into the Dockerfile"),
    ("--unsetlabel", "write `LABEL NAME=` into the Dockerfile, or give --label NAME="),
    ("--unsetannotation", "annotations are those of --annotation alone"),
    ("--format", "choose it with the output: -o type=oci or -o type=docker"),
    ("--from", "put an image in another's place: --build-context NAME=docker-image://IMAGE"),
    ("--hooks-dir", "OCI hooks are not supported"),
    ("--http-proxy", "proxies reach steps by --build-arg HTTP_PROXY, and no image keeps them"),
    ("--identity-label", "images carry no label of their builder"),
    ("--iidfile-raw", "--iidfile holds `sha256:` and the digits: cut -d: -f2"),
    ("--layer-label", "layers carry no labels; --annotation is for manifests"),
    ("--layers", "each step is a layer, and cached"),
    ("--logfile", "redirect standard error"),
    ("--logsplit", "redirect standard error"),
    ("--manifest", "an index is made of several --platform"),
    ("--mount", "write RUN --mount into the Dockerfile"),
    ("--no-hosts", "/etc/hosts of steps is in no layer"),
    ("--omit-history", "an image's history tells how it was made"),
    ("--rewrite-timestamp", "times of files are those of --timestamp, where it is given"),
    ("--retry", "requests to registries are tried again without being asked"),
    ("--retry-delay", "the delays follow from what the registry answers"),
    ("--runtime", "steps run in rbuild's own sandbox"),
    ("--save-stages", "build the stage you mean: --target"),
    ("--skip-unused-stages", "stages that the target does not need are never built"),
    ("--source-date-epoch", "it is called --timestamp here"),
    ("--stage-labels", "a stage's LABEL is in the images made of it"),
    ("--sign-by", "images are not signed; sign what was pushed by its digest"),
    ("--volume", "use RUN --mount=type=bind, with a directory of --build-context"),
    // kaniko
    ("--cache", "steps are cached; --no-cache looks nothing up"),
    ("--cache-dir", "pulled images are in the store"),
    ("--cache-repo", "--cache-to and --cache-from name a cache at a registry"),
    ("--cleanup", "nothing is left to clean up"),
    ("--context", "the context stands behind the options: rbuild build PATH"),
    ("--custom-platform", "name the platform: --platform OS/ARCH"),
    ("--destination", "name the image with --tag, and give --push"),
    ("--digest-file", "--metadata-file holds the digests, --iidfile the image's ID"),
    ("--dockerfile", "name it with --file"),
    ("--image-name-with-digest-file", "--metadata-file holds names and digests"),
    ("--insecure", "name registries without TLS in the configuration file"),
    ("--no-push", "nothing is pushed without --push"),
    ("--oci-layout-path", "-o type=oci,dest=FILE writes a layout as an archive"),
    ("--push-retry", "requests to registries are tried again without being asked"),
    ("--reproducible", "builds are, where SOURCE_DATE_EPOCH is given"),
    ("--single-snapshot", "it is called --squash here"),
    ("--snapshot-mode", "what a step changed is known without comparing files"),
    ("--skip-tls-verify", "name registries without TLS in the configuration file"),
    ("--verbosity", "RBUILD_LOG=debug shows what rbuild does"),
    ("--tar-path", "-o type=docker,dest=FILE writes an archive"),
];

/// Says what to do where `error` is about an option of another builder; `None` for any other.
pub(super) fn explain(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = given.split('=').next().unwrap_or(given);
    let name = if name == "-D" { "--debug" } else { name };
    let (name, help) = REFUSED.iter().find(|(refused, _)| *refused == name)?;
    Some(format!("error: rbuild build has no option {name}\n\n  tip: {help}\n"))
}

/// Options that may ask for what is so anyway, and for nothing else.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct HabitArgs {
    /// Remove what a step leaves; always so
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = always)]
    rm: Option<()>,
    /// Remove what a failed step leaves; always so
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = always)]
    force_rm: Option<()>,
    /// Whether to attest how the image was made; never so
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = no_attestation)]
    provenance: Option<()>,
    /// Whether to attest what is in the image; never so
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = no_attestation)]
    sbom: Option<()>,
    /// Attestations; only disabled ones
    #[arg(long, hide = true, value_parser = no_attestation)]
    attest: Vec<()>,
}

fn always(text: &str) -> Result<(), String> {
    if text == "true" { Ok(()) } else { Err("nothing of a step is kept but its layer".to_owned()) }
}

fn no_attestation(text: &str) -> Result<(), String> {
    let is_off = text == "false" || text.split(',').any(|field| field == "disabled=true");
    let what = "attestations are not made; leave the option out, or give false";
    if is_off { Ok(()) } else { Err(what.to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::Cli;

    #[test]
    fn options_of_others_are_refused_by_name() {
        for (name, help) in REFUSED {
            let error = Cli::try_parse_from(["rbuild", "build", name, "x", "."]).unwrap_err();
            let told = explain(&error).unwrap_or_else(|| panic!("{name} is an option: {error}"));
            assert!(told.contains(name) && told.contains(help), "{told}");
        }
        let error = Cli::try_parse_from(["rbuild", "build", "--arch=arm64", "."]).unwrap_err();
        assert!(explain(&error).unwrap().contains("--platform OS/ARCH"));
        let error = Cli::try_parse_from(["rbuild", "build", "--nonsense", "."]).unwrap_err();
        assert_eq!(explain(&error), None);
    }

    #[test]
    fn what_is_so_anyway_may_be_asked_for() {
        #[rustfmt::skip]
        let cases = [
            ("--rm", true), ("--rm=true", true), ("--rm=false", false), ("--force-rm", true),
            ("--provenance=false", true), ("--provenance", false), ("--provenance=mode=max", false),
            ("--sbom=false", true), ("--sbom=true", false),
            ("--attest=type=provenance,disabled=true", true), ("--attest=type=sbom", false),
            ("--pull", true), ("--pull=always", true), ("--pull=missing", true), ("--pull=never", false),
        ];
        for (option, want) in cases {
            let parsed = Cli::try_parse_from(["rbuild", "build", option, "."]);
            assert_eq!(parsed.is_ok(), want, "{option}: {parsed:?}");
        }
    }
}
