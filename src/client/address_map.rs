//! Other addresses of servers than those that are announced.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::address::Address;
use super::cluster::parse_address;
use super::options::ConnectionOptions;
use crate::error::{Error, ErrorKind, Result};

/// What an [`AddressMapper`] is asked for.
pub type AddressFuture<'a> = Pin<Box<dyn Future<Output = Result<(String, u16)>> + Send + 'a>>;

/// Gives the addresses at which servers are reached, for those that they announce.
///
/// It is asked whenever a connection is opened, within the connect timeout. Its errors are those of
/// the connection: mark one as [retryable](crate::Error::with_retryable) where it should be asked again
/// after a pause.
pub trait AddressMapper: Send + Sync {
    /// The host and the port to connect to.
    fn mapped(&self, host: &str, port: u16) -> AddressFuture<'_>;

    /// Connections whose mappers have the same identity share a pool; by default each mapper has its
    /// own.
    fn identity(&self) -> usize {
        std::ptr::from_ref(self).cast::<()>() as usize
    }
}

/// The addresses to use instead of those that are announced.
#[derive(Clone)]
pub(super) enum AddressMap {
    Table(BTreeMap<String, String>),
    Mapper(Arc<dyn AddressMapper>),
}

impl AddressMap {
    fn table(map: BTreeMap<String, String>) -> Result<Self> {
        for address in map.iter().flat_map(|(announced, used)| [announced, used]) {
            if parse_address(address).is_none() {
                return Err(Error::invalid(format!(
                    "address_map takes addresses as host:port, and {address:?} is none"
                )));
            }
        }
        Ok(AddressMap::Table(map))
    }

    /// Where to connect to for a server that announces this address; a mapper tells within `limit`.
    pub(super) async fn mapped(&self, announced: &Address, limit: Duration) -> Result<Address> {
        let mapper = match self {
            AddressMap::Table(map) => {
                let used = map.get(&announced.to_string()).and_then(|used| parse_address(used));
                return Ok(used.unwrap_or_else(|| announced.clone()));
            }
            AddressMap::Mapper(mapper) => mapper,
        };
        let Address::Tcp { host, port } = announced else { return Ok(announced.clone()) };
        let used = match timeout(limit, mapper.mapped(host, *port)).await {
            Ok(used) => used,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("address_map gave no address within {limit:?} (connect_timeout)"),
            )),
        };
        let (host, port) =
            used.map_err(|error| error.with_context("address", announced.to_string()))?;
        Ok(Address::Tcp { host, port })
    }
}

impl ConnectionOptions {
    /// Other addresses of servers than those that they announce, as `host:port`, where these lead
    /// nowhere: behind NAT, or outside of the servers' containers. For the nodes of a cluster, and what
    /// sentinels name.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is not `host:port`.
    pub fn with_address_map(mut self, map: BTreeMap<String, String>) -> Result<Self> {
        self.cluster.address_map = AddressMap::table(map)?;
        Ok(self)
    }

    /// The same by what a mapper says.
    pub fn with_address_mapper(mut self, mapper: Arc<dyn AddressMapper>) -> Self {
        self.cluster.address_map = AddressMap::Mapper(mapper);
        self
    }

    /// As [`with_address_map`](Self::with_address_map) has it.
    #[cfg(feature = "python")]
    pub(crate) fn address_table(&self) -> Option<&BTreeMap<String, String>> {
        match &self.cluster.address_map {
            AddressMap::Table(map) if !map.is_empty() => Some(map),
            _ => None,
        }
    }
}

impl Default for AddressMap {
    fn default() -> Self {
        AddressMap::Table(BTreeMap::new())
    }
}

impl PartialEq for AddressMap {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (AddressMap::Table(one), AddressMap::Table(two)) => one == two,
            (AddressMap::Mapper(one), AddressMap::Mapper(two)) => one.identity() == two.identity(),
            _ => false,
        }
    }
}

impl Eq for AddressMap {}

impl Hash for AddressMap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            AddressMap::Table(map) => map.hash(state),
            AddressMap::Mapper(mapper) => mapper.identity().hash(state),
        }
    }
}

impl fmt::Debug for AddressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressMap::Table(map) => map.fmt(f),
            AddressMap::Mapper(_) => f.write_str("AddressMapper"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    struct Shift;

    impl AddressMapper for Shift {
        fn mapped(&self, host: &str, port: u16) -> AddressFuture<'_> {
            let host = format!("{host}.example.com");
            Box::pin(async move {
                match port {
                    0 => std::future::pending().await,
                    _ => Ok((host, port + 1)),
                }
            })
        }
    }

    #[tokio::test]
    async fn addresses_are_mapped() -> Result<()> {
        const LIMIT: Duration = Duration::from_millis(50);
        let table = BTreeMap::from([("10.0.0.1:7000".into(), "localhost:1".into())]);
        let map = AddressMap::table(table)?;
        assert_eq!(map.mapped(&at("10.0.0.1", 7000), LIMIT).await?, at("localhost", 1));
        assert_eq!(map.mapped(&at("10.0.0.1", 7001), LIMIT).await?, at("10.0.0.1", 7001));
        let odd = BTreeMap::from([("10.0.0.1".into(), "localhost:1".into())]);
        assert!(AddressMap::table(odd).is_err());
        let map = AddressMap::Mapper(Arc::new(Shift));
        assert_eq!(map.mapped(&at("a", 1), LIMIT).await?, at("a.example.com", 2));
        let error = map.mapped(&at("a", 0), LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        Ok(())
    }
}
