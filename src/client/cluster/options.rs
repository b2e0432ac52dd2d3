//! What is said of a cluster when it is named.

use std::collections::BTreeMap;

use super::slot_map::redirected_to;
use crate::client::address::Address;
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
    /// The addresses to use instead of those that nodes announce.
    address_map: BTreeMap<String, String>,
    pub(in crate::client) read_from: ReadFrom,
    /// These are options of one node, which is read from as a replica.
    pub(in crate::client) is_replica: bool,
}

impl ClusterOptions {
    /// # Errors
    ///
    /// `InvalidArgument` for what is not `host:port`.
    pub(in crate::client) fn set_address_map(
        &mut self,
        map: BTreeMap<String, String>,
    ) -> Result<()> {
        for address in map.iter().flat_map(|(announced, used)| [announced, used]) {
            if parse(address).is_none() {
                return Err(Error::invalid(format!(
                    "address_map takes addresses as host:port, and {address:?} is none"
                )));
            }
        }
        self.address_map = map;
        Ok(())
    }

    #[cfg(feature = "python")]
    pub(in crate::client) fn address_map(&self) -> &BTreeMap<String, String> {
        &self.address_map
    }

    /// Those of one node.
    pub(in crate::client) fn of_node(replica: bool) -> Self {
        ClusterOptions { is_replica: replica, ..ClusterOptions::default() }
    }

    /// Where to connect to for a node that announces this address.
    pub(super) fn mapped(&self, announced: Address) -> Address {
        match self.address_map.get(&announced.to_string()).and_then(|used| parse(used)) {
            Some(used) => used,
            None => announced,
        }
    }
}

impl ConnectionOptions {
    /// Other addresses of a cluster's nodes than those that they announce, as `host:port`, where these
    /// lead nowhere: behind NAT, or outside of the nodes' containers.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is not `host:port`.
    pub fn with_address_map(mut self, map: BTreeMap<String, String>) -> Result<Self> {
        self.cluster.set_address_map(map)?;
        Ok(self)
    }

    /// As [`with_address_map`](Self::with_address_map) has it.
    #[cfg(feature = "python")]
    pub(crate) fn address_map(&self) -> &BTreeMap<String, String> {
        self.cluster.address_map()
    }

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

fn parse(address: &str) -> Option<Address> {
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
        let address = if has_port { parse(host) } else { parse(&format!("{host}:6379")) };
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

    #[test]
    fn addresses_are_mapped() -> Result<()> {
        let mut options = ClusterOptions::default();
        options
            .set_address_map(BTreeMap::from([("10.0.0.1:7000".into(), "localhost:1".into())]))?;
        assert_eq!(options.mapped(at("10.0.0.1", 7000)), at("localhost", 1));
        assert_eq!(options.mapped(at("10.0.0.1", 7001)), at("10.0.0.1", 7001));
        let odd = BTreeMap::from([("10.0.0.1".into(), "localhost:1".into())]);
        assert!(options.set_address_map(odd).is_err());
        Ok(())
    }
}
