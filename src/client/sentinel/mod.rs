//! Sentinels: which server is the master now.
//!
//! Every connection that is opened asks for it, so a session finds the new master after a failover
//! as it finds a server again that was restarted: it opens another connection.

mod answers;
mod discover;
mod failures;
mod url;

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::address::Address;
use super::credentials::Credentials;
use super::secret::Secret;

pub(super) use discover::{Found, Search};

/// The sentinels of a master, and how to log in to them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sentinels {
    /// Each a host and a port.
    pub(super) nodes: Vec<Address>,
    /// The name that the sentinels have for the master and its replicas.
    pub(super) master: String,
    pub(super) login: Credentials,
}

impl Sentinels {
    /// The password for the sentinels.
    pub(super) fn password(&self) -> Option<&Secret> {
        self.login.password.as_ref()
    }
}

/// The sentinels as a URL names them, and the master: `s1:26379,s2:26379/mymaster`.
impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// What a sentinel's configuration allows in a name.
        const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
        for (number, node) in self.nodes.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{node}")?;
        }
        write!(f, "/{}", utf8_percent_encode(&self.master, PLAIN))
    }
}
