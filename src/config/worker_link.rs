//! Where an endpoint listens for workers of other computers, and under which names those find it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name of a host (RFC 1035, 2.3.4).
const LONGEST: usize = 253;

/// The most names: a worker tries one after the other.
const MOST_HOSTS: usize = 16;

/// `worker_link` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkerLink {
    #[serde(default)]
    listen: Option<String>,
    #[serde(default)]
    advertise: Vec<String>,
}

/// Where an endpoint listens for workers of other computers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerLink {
    /// The address; port 0 takes a free one, and keeps it as long as a block has it.
    pub listen: SocketAddr,
    /// Under what workers find it; empty for all that this computer has.
    pub advertise: Vec<LinkHost>,
}

/// A host's name or address, without a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkHost(String);

/// What is no host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no host; write a name or an address, without a port")]
pub struct HostError(String);

impl RawWorkerLink {
    /// What is said, checked: or the key, and what is wrong with its value.
    pub(super) fn checked(self) -> Result<WorkerLink, (&'static str, String)> {
        let Self { listen, advertise } = self;
        let listen = match listen {
            None => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            Some(text) => text.parse().map_err(|_| {
                ("worker_link.listen", format!("{text:?} is no address; write 0.0.0.0:7461, or port 0 for a free one"))
            })?,
        };
        if advertise.len() > MOST_HOSTS {
            return Err(("worker_link.advertise", format!("has more than {MOST_HOSTS} hosts")));
        }
        let hosts = advertise.iter().map(|host| host.parse()).collect::<Result<_, HostError>>();
        Ok(WorkerLink { listen, advertise: hosts.map_err(|error| ("worker_link.advertise", error.to_string()))? })
    }
}

impl LinkHost {
    /// As it stands in a URL, before the port.
    pub fn in_url(&self) -> String {
        match self.0.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            Ok(IpAddr::V4(_)) | Err(_) => self.0.clone(),
        }
    }
}

impl From<IpAddr> for LinkHost {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for LinkHost {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let is_part = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !part.is_empty() && part.len() <= 63 && part.bytes().all(plain)
        };
        let is_name = text.len() <= LONGEST && text.split('.').all(is_part);
        if is_name || text.parse::<IpAddr>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(HostError(text.chars().take(LONGEST).collect()))
        }
    }
}

impl TryFrom<String> for LinkHost {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        text.parse()
    }
}

impl From<LinkHost> for String {
    fn from(LinkHost(host): LinkHost) -> Self {
        host
    }
}

impl fmt::Display for LinkHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, in_url) in [
            ("login1", "login1"),
            ("login1.hpc.example.org", "login1.hpc.example.org"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:db8::1", "[2001:db8::1]"),
        ] {
            assert_eq!(text.parse::<LinkHost>().expect("a host").in_url(), in_url);
        }
        let long = "a.".repeat(200);
        for text in ["", "login1:7461", "https://login1", "a..b", "a b", "a/b", "user@host", long.as_str()] {
            assert!(text.parse::<LinkHost>().is_err(), "{text:?}");
        }
    }
}
