//! `rbuild doctor`.

use std::process::ExitCode;

use builder::{Finding, Health, IdMapping, UsernsError, blocking};
use clap::Args;

use super::print;
use crate::config::Settings;
use crate::fault::{Fault, exit_code};
use crate::format::printable;

/// Tell what this machine lets rbuild do, and what would help
///
/// Exits 4 if RUN steps cannot run at all.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What came of entering a user namespace, where that was tried.
pub(super) type Mapping = Option<Result<IdMapping, UsernsError>>;

/// Looks at the machine and tells.
pub(super) async fn doctor(
    args: DoctorArgs,
    settings: Settings,
    mapping: Mapping,
) -> Result<ExitCode, Fault> {
    if let Some(address) = &settings.host {
        let what = format!("`rbuild doctor` looks at this machine, not at that of {address}");
        let help = "run it on the machine of the service, or here without --host and RBUILD_HOST";
        return Err(Fault::user(what).with_help(help));
    }
    let root = settings.builder.root;
    let findings = blocking::run(move || builder::doctor(&root, mapping.as_ref())).await;
    let text = if args.json {
        serde_json::to_string_pretty(&findings).expect("names and sentences are JSON") + "\n"
    } else {
        findings.iter().map(line).collect()
    };
    print(&text)?;
    let is_missing = findings.iter().any(|finding| finding.health == Health::Missing);
    let code = if is_missing { exit_code(builder::ErrorKind::Host) } else { 0 };
    Ok(ExitCode::from(code))
}

/// One finding, with what would help below it.
fn line(finding: &Finding) -> String {
    let word = match finding.health {
        Health::Good => "ok",
        Health::Limited => "limited",
        Health::Missing => "MISSING",
    };
    let found = printable(&finding.found);
    let help = finding.help.as_deref();
    let help = help.map(|help| format!("{:26}help: {}\n", "", printable(help)));
    format!("{word:8} {:16} {found}\n{}", finding.name, help.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_stands_below() {
        let finding = Finding {
            name: "overlay",
            health: Health::Limited,
            found: "none".to_owned(),
            help: Some("modprobe".to_owned()),
        };
        let want = "limited  overlay          none\n                          help: modprobe\n";
        assert_eq!(line(&finding), want);
        let good = Finding { health: Health::Good, help: None, ..finding };
        assert_eq!(line(&good), "ok       overlay          none\n");
    }
}
