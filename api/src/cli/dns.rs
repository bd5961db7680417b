//! The options on how commands resolve names, of `build` and `run` alike.

use std::net::IpAddr;

use builder::Dns;
use clap::Args;

/// What `/etc/resolv.conf` says.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DnsArgs {
    /// Resolver of commands, in place of this machine's (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Domain in which commands look for names; `.` for none (repeatable)
    #[arg(long, value_name = "DOMAIN", value_parser = crate::server::parse_word)]
    dns_search: Vec<String>,
    /// Option of resolv.conf, such as ndots:2 (repeatable)
    #[arg(long, value_name = "OPTION", value_parser = crate::server::parse_word)]
    dns_option: Vec<String>,
}

impl DnsArgs {
    /// What was asked for.
    pub(crate) fn dns(&self) -> Dns {
        Dns {
            servers: self.dns.clone(),
            search: self.dns_search.clone(),
            options: self.dns_option.clone(),
        }
    }
}
