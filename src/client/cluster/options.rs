//! What is said of a cluster when it is named.

use super::nodes::Known;
use super::slot_map::redirected_to;
use crate::client::address::Address;
use crate::client::address_map::AddressMap;
use crate::client::options::ConnectionOptions;
use crate::error::{Error, Result};

/// Which nodes of a cluster serve reads without a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadFrom {
    /// The master of the stream's slot.
    #[default]
    Master,
    /// A replica, where there is one. It may lack the newest entries.
    Replica,
}

/// How the nodes of a cluster are found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(in crate::client) struct ClusterOptions {
    /// The nodes to ask first, beside the one that the URL names first; `None` where nobody has said
    /// that the server is a cluster.
    pub(in crate::client) seeds: Option<Vec<Address>>,
    pub(in crate::client) address_map: AddressMap,
    pub(in crate::client) read_from: ReadFrom,
    /// These are options of one node, which is read from as a replica.
    pub(in crate::client) is_replica: bool,
    /// Its address is one that it announces, rather than the user's.
    pub(in crate::client) is_announced: bool,
}

impl ClusterOptions {
    /// Those of one node.
    pub(in crate::client) fn of_node(&self, known: Known) -> Self {
        ClusterOptions {
            address_map: self.address_map.clone(),
            is_replica: known == Known::Replica,
            is_announced: known != Known::Given,
            ..ClusterOptions::default()
        }
    }
}

impl ConnectionOptions {
    /// As [`with_read_from`](Self::with_read_from) has it.
    #[cfg(feature = "python")]
    pub(crate) fn read_from(&self) -> ReadFrom {
        self.cluster.read_from
    }

    /// Which nodes of a cluster serve reads without a group.
    pub fn with_read_from(mut self, read_from: ReadFrom) -> Self {
        self.cluster.read_from = read_from;
        self
    }
}

/// What is written as `host:port`.
pub(in crate::client) fn parse_address(address: &str) -> Option<Address> {
    let nowhere = Address::Tcp { host: String::new(), port: 0 };
    let parsed = redirected_to(address, &nowhere)?;
    matches!(&parsed, Address::Tcp { host, .. } if !host.is_empty()).then_some(parsed)
}

/// Takes the nodes after the first out of `redis+cluster://user:password@a:7000,b:7001`: what is left
/// is the URL of one server. `None` where it is no URL of a cluster.
///
/// # Errors
///
/// `InvalidArgument` where one of them is no address.
pub(in crate::client) fn split_seeds(url: &str) -> Result<Option<(String, Vec<Address>)>> {
    let Some((scheme, rest)) = url.split_once("+cluster://") else {
        return Ok(None);
    };
    if !matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys") {
        return Ok(None);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    let mut hosts = hosts.split(',');
    let first = hosts.next().unwrap_or_default();
    let others = hosts.map(|host| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address =
            if has_port { parse_address(host) } else { parse_address(&format!("{host}:6379")) };
        // It may be the rest of a password with a comma.
        address.ok_or_else(|| {
            Error::invalid(
                "the URL of a cluster names its nodes as host:port, with commas between them; \
                 characters such as / ? # @ in a password are percent-encoded",
            )
        })
    });
    let others = others.collect::<Result<_>>()?;
    Ok(Some((format!("{scheme}://{login}{first}{path}"), others)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn the_nodes_of_a_url() -> Result<()> {
        for (url, rest, seeds) in [
            ("redis+cluster://a:7000", "redis://a:7000", vec![]),
            (
                "rediss+cluster://u:p@a:1,b:2,[::1]:3,[::2],c/0?protocol=resp3",
                "rediss://u:p@a:1/0?protocol=resp3",
                vec![at("b", 2), at("::1", 3), at("::2", 6379), at("c", 6379)],
            ),
        ] {
            assert_eq!(split_seeds(url)?, Some((rest.to_owned(), seeds)), "{url}");
        }
        assert_eq!(split_seeds("redis://a,b")?, None);
        assert_eq!(split_seeds("unix+cluster://a")?, None);
        let error = split_seeds("redis+cluster://a:1,hunter2:x").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!(split_seeds("redis+cluster://a:1,b:x").is_err());
        assert!(split_seeds("redis+cluster://a:1,").is_err());
        Ok(())
    }
}
