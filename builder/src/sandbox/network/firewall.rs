//! Rules that let steps out and keep them from this machine: scripts for iptables or nft.
//!
//! With iptables the rules stand in chains of their own, before all others: Docker's policy for
//! forwarded packets is to drop them, and what another table accepts does not change that. Without
//! iptables there is no Docker, and a table of nftables does the same.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::error::{At as _, Fault};
use super::find_program;
use super::plan::{PREFIX, Plan};

/// Never routed: among them is the address at which clouds hand out credentials.
pub(super) const LINK_LOCAL: &str = "169.254.0.0/16";

/// Where system programs are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// What applies the rules.
#[derive(Clone, Debug)]
pub(super) enum Firewall {
    Iptables(PathBuf),
    Nftables(PathBuf),
}

impl Firewall {
    /// Finds the program of this machine.
    pub(super) fn find() -> Option<Self> {
        let iptables = find_program("iptables-restore").map(Self::Iptables);
        iptables.or_else(|| find_program("nft").map(Self::Nftables))
    }

    /// Adds the rules; all or none.
    pub(super) fn install(&self, plan: &Plan, guard: bool) -> Result<(), Fault> {
        match self {
            Self::Iptables(program) => {
                // An older kernel may lack a match; then none of it is applied.
                apply(program, &["--noflush", "--wait"], &iptables_rules(plan, guard))
            }
            Self::Nftables(program) => apply(program, &["-f", "-"], &nftables_rules(plan, guard)),
        }
    }

    /// Takes the rules away.
    pub(super) fn remove(&self, plan: &Plan) -> Result<(), Fault> {
        match self {
            Self::Iptables(program) => {
                // Apart, so that a table without ours does not keep the other from being cleaned.
                let [filter, nat] = iptables_removal(plan);
                let args = ["--noflush", "--wait"];
                apply(program, &args, &filter).and(apply(program, &args, &nat))
            }
            Self::Nftables(program) => {
                let table = table(plan);
                // Declared first, so that the deletion finds it.
                let script = format!("table ip {table} {{}}\ndelete table ip {table}\n");
                apply(program, &["-f", "-"], &script)
            }
        }
    }
}

/// Runs `program` with `script` as its input.
fn apply(program: &Path, args: &[&str], script: &str) -> Result<(), Fault> {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .at(program.display())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early tells why.
        drop(stdin.write_all(script.as_bytes()));
    }
    let output = child.wait_with_output().at(program.display())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(Fault::network(format!("{}: {}", program.display(), said.join("; "))))
}

fn forward_chain(plan: &Plan) -> String {
    format!("RBUILD-{}", plan.block)
}

fn input_chain(plan: &Plan) -> String {
    format!("RBUILD-IN-{}", plan.block)
}

/// All addresses that any builder of this machine gives.
fn all_blocks(plan: &Plan) -> String {
    format!("10.{}.0.0/16", plan.network)
}

/// With `guard`, this machine forwards for its steps alone: it did not forward before.
fn iptables_rules(plan: &Plan, guard: bool) -> String {
    let (forward, input) = (forward_chain(plan), input_chain(plan));
    let (own, any) = (format!("{}+", plan.interfaces()), format!("{PREFIX}+"));
    let (gateway, all) = (plan.gateway(), all_blocks(plan));
    let mut rules = format!("*filter\n:{forward} - [0:0]\n:{input} - [0:0]\n");
    let mut add = |chain: &str, rule: String| {
        rules.extend(["-A ", chain, " ", &rule, "\n"]);
    };
    add(&forward, format!("-i {own} -o {any} -j DROP"));
    add(&forward, format!("-i {own} -d {LINK_LOCAL} -j DROP"));
    add(&forward, format!("-i {own} -j ACCEPT"));
    add(&forward, format!("-o {own} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
    add(&forward, format!("-o {own} -j DROP"));
    if let (true, Some(uplink)) = (guard, &plan.uplink) {
        add(&forward, format!("-i {uplink} ! -o {any} -j DROP"));
    }
    if plan.resolver.is_some() {
        for protocol in ["udp", "tcp"] {
            add(&input, format!("-i {own} -d {gateway} -p {protocol} --dport 53 -j ACCEPT"));
        }
    }
    add(&input, format!("-i {own} -d {all} -j DROP"));
    let block = format!("{}/24", plan.address(0));
    rules
        + &format!(
            "-I FORWARD 1 -j {forward}\n-I INPUT 1 -j {input}\nCOMMIT\n\
             *nat\n:{forward} - [0:0]\n-A {forward} -s {block} ! -o {any} -j MASQUERADE\n\
             -I POSTROUTING 1 -j {forward}\nCOMMIT\n"
        )
}

fn iptables_removal(plan: &Plan) -> [String; 2] {
    let (forward, input) = (forward_chain(plan), input_chain(plan));
    // To declare a chain empties it, as is needed to delete it.
    let filter = format!(
        "*filter\n:{forward} - [0:0]\n:{input} - [0:0]\n\
         -D FORWARD -j {forward}\n-D INPUT -j {input}\n-X {forward}\n-X {input}\nCOMMIT\n"
    );
    let nat =
        format!("*nat\n:{forward} - [0:0]\n-D POSTROUTING -j {forward}\n-X {forward}\nCOMMIT\n");
    [filter, nat]
}

fn table(plan: &Plan) -> String {
    format!("rbuild-{}", plan.block)
}

fn nftables_rules(plan: &Plan, guard: bool) -> String {
    let (table, gateway, all) = (table(plan), plan.gateway(), all_blocks(plan));
    let (own, any) = (format!("\"{}*\"", plan.interfaces()), format!("\"{PREFIX}*\""));
    let guard = match (guard, &plan.uplink) {
        (true, Some(uplink)) => format!("    iifname \"{uplink}\" oifname != {any} drop\n"),
        _ => String::new(),
    };
    let resolver = match plan.resolver {
        Some(_) => format!(
            "    iifname {own} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 accept\n"
        ),
        None => String::new(),
    };
    format!(
        "table ip {table} {{
  chain forward {{
    type filter hook forward priority -1
    iifname {own} oifname {any} drop
    iifname {own} ip daddr {LINK_LOCAL} drop
    iifname {own} accept
    oifname {own} ct state related,established accept
    oifname {own} drop
{guard}  }}
  chain input {{
    type filter hook input priority -1
{resolver}    iifname {own} ip daddr {all} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority 100
    ip saddr {}/24 oifname != {any} masquerade
  }}
}}
",
        plan.address(0)
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn plan(resolver: Option<Ipv4Addr>) -> Plan {
        Plan { network: 213, block: 7, uplink: Some("eth0".to_owned()), resolver }
    }

    #[test]
    fn what_is_added_is_taken_away() {
        let plan = plan(Some(Ipv4Addr::LOCALHOST));
        let (rules, removal) = (iptables_rules(&plan, true), iptables_removal(&plan).concat());
        for line in rules.lines().filter_map(|line| line.strip_prefix("-I ")) {
            let rule = line.replacen(" 1 ", " ", 1);
            assert!(removal.contains(&format!("-D {rule}\n")), "{rule}");
        }
        for chain in rules.lines().filter_map(|line| line.strip_prefix(':')) {
            let name = chain.split(' ').next().unwrap();
            assert!(removal.contains(&format!("-X {name}\n")), "{name}");
        }
    }

    #[test]
    fn steps_are_kept_from_this_machine_and_from_each_other() {
        let rules = iptables_rules(&plan(None), false);
        let drops: Vec<&str> = rules.lines().filter(|line| line.ends_with("DROP")).collect();
        let want = [
            "-A RBUILD-7 -i rb7-+ -o rb+ -j DROP",
            "-A RBUILD-7 -i rb7-+ -d 169.254.0.0/16 -j DROP",
            "-A RBUILD-7 -o rb7-+ -j DROP",
            "-A RBUILD-IN-7 -i rb7-+ -d 10.213.0.0/16 -j DROP",
        ];
        assert_eq!(drops, want);
        assert!(!rules.contains("--dport 53"));
        assert!(iptables_rules(&plan(None), true).contains("-i eth0 ! -o rb+ -j DROP"));
        let nft = nftables_rules(&plan(Some(Ipv4Addr::LOCALHOST)), true);
        assert!(nft.contains("th dport 53 accept") && nft.contains("iifname \"eth0\""), "{nft}");
    }
}
