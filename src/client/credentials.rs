//! Who logs in. Managed services rotate what they accept, so a provider is asked for each connection.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use super::secret::Secret;
use crate::error::Result;

/// A user's name and a password, as AUTH takes them. Neither Debug nor Display shows the password.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

impl Credentials {
    /// The password of a user; of the default user where there is no name.
    pub fn new(username: Option<&str>, password: &str) -> Self {
        Credentials { username: username.map(str::to_owned), password: Some(Secret::new(password)) }
    }

    /// What AUTH is sent: a user without a password may be one that needs none (ACL nopass), which
    /// the default user is without AUTH.
    pub(super) fn password_sent(&self) -> Option<&str> {
        self.password.as_ref().map(Secret::expose).or(self.username.as_deref().map(|_| ""))
    }
}

/// What a provider is asked for.
pub type CredentialsFuture<'a> = Pin<Box<dyn Future<Output = Result<Credentials>> + Send + 'a>>;

/// Gives the credentials of the next connection, such as a token that is valid for some minutes.
///
/// It is asked within the connect timeout. Its errors are those of the connection: mark one as
/// [retryable](crate::Error::with_retryable) where it should be asked again after a pause.
pub trait CredentialsProvider: Send + Sync {
    /// The credentials to log in with now.
    fn credentials(&self) -> CredentialsFuture<'_>;

    /// Connections whose providers have the same identity share a pool; by default each provider
    /// has its own.
    fn identity(&self) -> usize {
        std::ptr::from_ref(self).cast::<()>() as usize
    }
}

/// A provider among the options of a connection.
#[derive(Clone)]
pub(super) struct Provider(pub(super) Arc<dyn CredentialsProvider>);

impl PartialEq for Provider {
    fn eq(&self, other: &Self) -> bool {
        self.0.identity() == other.0.identity()
    }
}

impl Eq for Provider {}

impl Hash for Provider {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.identity().hash(state);
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}
