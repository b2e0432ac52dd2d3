//! How to reach a server: URL, credentials, TLS, timeouts, retry.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion};
use tokio::time::timeout;
use url::form_urlencoded;

use super::address::Address;
use super::cluster::{ClusterOptions, split_seeds};
use super::credentials::{Credentials, CredentialsProvider, Provider};
use super::secret::Secret;
use super::sentinel::Sentinels;
use crate::error::{Error, ErrorKind, Result};

/// How to reach a server. Two equal options share a pool of connections.
///
/// ```
/// use redfloe::ConnectionOptions;
///
/// let options = ConnectionOptions::parse("redis://user:secret@localhost:6379/2?protocol=resp3")?;
/// assert_eq!(options.to_string(), "redis://user:***@localhost:6379/2?protocol=resp3");
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ConnectionOptions {
    pub(crate) address: Address,
    pub(super) credentials: Credentials,
    /// Asked for each connection, instead of the credentials above.
    pub(super) provider: Option<Provider>,
    pub(crate) database: i64,
    pub(crate) resp3: bool,
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) client_name: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// `None`: a bounded call gives up after [`ConnectionOptions::MAX_RETRIES`], a reader that never
    /// ends does not.
    pub(crate) max_retries: Option<u32>,
    pub(crate) retry_base_delay: Duration,
    pub(crate) retry_max_delay: Duration,
    pub(super) cluster: ClusterOptions,
}

/// Files in PEM format. Without `ca` the system's roots are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    /// Certificates of the authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain.
    pub cert: Option<PathBuf>,
    /// The client certificate's private key.
    pub key: Option<PathBuf>,
}

const SCHEMES: &str = "redis://, rediss:// (TLS), unix://, redis+unix://, and redis+sentinel://, redis+cluster:// or the \
     same with rediss+";

const ENCODE: &str = "characters such as / ? # @ in a password are percent-encoded";

impl ConnectionOptions {
    /// The retries of a bounded call where nobody says otherwise.
    pub(crate) const MAX_RETRIES: u32 = 5;

    /// Reads a URL: `redis://[user[:password]@]host[:port][/database][?protocol=resp3]`, the same
    /// with `rediss://` for TLS, or `unix:///path[?db=..&user=..&pass=..&protocol=..]`. Where
    /// sentinels know the master, `redis+sentinel://[user[:password]@]host[:port][,...]/master[/database]`
    /// with `sentinel_username`, `sentinel_password` and `protocol` as parameters, or the same with
    /// `rediss+sentinel://`. Nodes of a Redis Cluster are
    /// `redis+cluster://[user[:password]@]host[:port][,...]`, or `rediss+cluster://`; any one node may be
    /// named by a plain URL as well.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for anything else. The message never
    /// quotes the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        if let Some(options) = Sentinels::parse(url)? {
            return Ok(options);
        }
        if let Some((first, seeds)) = split_seeds(url)? {
            let mut options = Self::parse(&first)?;
            if options.database != 0 {
                return Err(Error::invalid("a cluster has database 0 only"));
            }
            options.cluster.seeds = Some(seeds);
            return Ok(options);
        }
        let mut parsed = redis::parse_redis_url(url).ok_or_else(|| {
            Error::invalid(match url.split_once("://") {
                Some((scheme, _)) if !is_known(scheme) => {
                    format!("the URL's scheme is unknown; use {SCHEMES}")
                }
                _ => format!("the URL is malformed; it begins with {SCHEMES}; {ENCODE}"),
            })
        })?;
        // redis-rs reads a TLS address only with its own TLS inside; the scheme is all we need.
        let tls = matches!(parsed.scheme(), "rediss" | "valkeys");
        if tls && parsed.set_scheme("redis").is_err() {
            return Err(Error::invalid("the URL is malformed"));
        }
        if parsed.fragment().is_some() {
            return Err(Error::invalid(
                "the URL has a fragment (#...), which has no meaning here; certificates are always \
                 verified, and tls_ca names your own authority; a # in a password is written %23",
            ));
        }
        let is_unix = parsed.scheme().ends_with("unix");
        if is_unix && url.split_once("://").is_some_and(|(_, rest)| !rest.starts_with('/')) {
            return Err(Error::invalid(
                "the URL of a Unix socket has three slashes, and names the user in its parameters: \
                 unix:///path?user=..&pass=..",
            ));
        }
        let known: &[&str] =
            if is_unix { &["db", "user", "pass", "protocol"] } else { &["protocol"] };
        // Not even its name is quoted: it may be the rest of a password with a question mark.
        if parsed.query_pairs().any(|(name, _)| !known.contains(&&*name)) {
            return Err(Error::invalid(format!(
                "the URL has a parameter that is not known; it takes {}, and everything else is a \
                 parameter of RedisConnection; {ENCODE}",
                known.join(", ")
            )));
        }
        let info = parsed.into_connection_info().map_err(|error| {
            // "Invalid database number - InvalidClientConfig"
            let why = error.to_string().to_lowercase();
            let why = why.split(" - ").next().unwrap_or_default();
            Error::invalid(format!("the URL is malformed: {why}; {ENCODE}"))
        })?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address::Tcp { host: host.clone(), port: *port },
            ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
            _ => return Err(Error::invalid(format!("the URL's scheme is unknown; use {SCHEMES}"))),
        };
        let settings = info.redis_settings();
        if settings.db() < 0 {
            return Err(Error::invalid("the URL's database number is negative"));
        }
        Ok(ConnectionOptions {
            address,
            credentials: Credentials {
                username: settings.username().map(str::to_owned),
                password: settings.password().map(Secret::new),
            },
            provider: None,
            database: settings.db(),
            resp3: matches!(settings.protocol(), ProtocolVersion::RESP3),
            tls: tls.then(TlsOptions::default),
            client_name: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(30),
            max_retries: None,
            retry_base_delay: Duration::from_millis(100),
            retry_max_delay: Duration::from_secs(30),
            cluster: ClusterOptions::default(),
        })
    }

    /// Names files for TLS.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the URL is not `rediss://`, or
    /// only one of certificate and key is given.
    pub fn with_tls(mut self, tls: TlsOptions) -> Result<Self> {
        if tls == TlsOptions::default() {
            return Ok(self);
        }
        if self.tls.is_none() {
            return Err(Error::invalid(
                "tls_ca, tls_cert and tls_key need a rediss:// or rediss+sentinel:// URL",
            ));
        }
        if tls.cert.is_some() != tls.key.is_some() {
            return Err(Error::invalid("tls_cert and tls_key need each other"));
        }
        self.tls = Some(tls);
        Ok(self)
    }

    /// Logs in as a user, or with the password of the default user; nothing is percent-encoded.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the URL has credentials too.
    pub fn with_login(mut self, username: Option<&str>, password: Option<&str>) -> Result<Self> {
        let credentials = Credentials {
            username: username.map(str::to_owned),
            password: password.map(Secret::new),
        };
        if credentials != Credentials::default() {
            self.check_no_login()?;
            self.credentials = credentials;
        }
        Ok(self)
    }

    /// The sentinels that know the master, where there are any.
    pub(super) fn sentinels(&self) -> Option<&Sentinels> {
        match &self.address {
            Address::Sentinel(sentinels) => Some(sentinels),
            _ => None,
        }
    }

    /// Has credentials asked for whenever a connection is opened, because they change.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the URL has credentials too.
    pub fn with_credentials(mut self, provider: Arc<dyn CredentialsProvider>) -> Result<Self> {
        self.check_no_login()?;
        self.provider = Some(Provider(provider));
        Ok(self)
    }

    fn check_no_login(&self) -> Result<()> {
        match self.credentials == Credentials::default() {
            true => Ok(()),
            false => Err(Error::invalid(
                "the login is given once: in the URL, by username and password, or by credentials",
            )),
        }
    }

    /// What to log in with now; a provider gives it within `limit`.
    pub(super) async fn current_credentials(&self, limit: Duration) -> Result<Credentials> {
        let Some(Provider(provider)) = &self.provider else {
            return Ok(self.credentials.clone());
        };
        match timeout(limit, provider.credentials()).await {
            Ok(given) => {
                given.map_err(|error| error.with_context("address", self.address.to_string()))
            }
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("no credentials were given within {limit:?} (connect_timeout)"),
            )),
        }
    }

    /// The name that CLIENT LIST shows.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the server could not take it.
    pub fn with_client_name(mut self, name: Option<&str>) -> Result<Self> {
        if name.is_some_and(|name| name.bytes().any(|byte| !byte.is_ascii_graphic())) {
            return Err(Error::invalid("client_name takes printable ASCII without spaces"));
        }
        self.client_name = name.map(str::to_owned);
        Ok(self)
    }

    /// How long a connection may take, from the name's look-up to the login.
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may be silent while it owes an answer.
    pub fn with_response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// How often a transient failure is tried again, and the first and longest pause before it.
    ///
    /// `None`, the default, is 5 times, but without limit in a [`tail`](crate::tail) that never ends
    /// and in a [`Producer`](crate::Producer), once the server has answered. There a timeout is
    /// tried again, too.
    pub fn with_retries(
        mut self,
        max_retries: impl Into<Option<u32>>,
        base: Duration,
        max: Duration,
    ) -> Self {
        self.max_retries = max_retries.into();
        self.retry_base_delay = base;
        self.retry_max_delay = max;
        self
    }
}

fn is_known(scheme: &str) -> bool {
    matches!(
        scheme,
        "redis" | "rediss" | "valkey" | "valkeys" | "unix" | "redis+unix" | "valkey+unix"
    )
}

/// The URL, its password struck out.
impl fmt::Display for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = Vec::new();
        let Credentials { username, password } = &self.credentials;
        match &self.address {
            Address::Tcp { .. } | Address::Sentinel(_) => {
                f.write_str(if self.tls.is_some() { "rediss" } else { "redis" })?;
                f.write_str(match (self.sentinels(), &self.cluster.seeds) {
                    (Some(_), _) => "+sentinel://",
                    (None, Some(_)) => "+cluster://",
                    (None, None) => "://",
                })?;
                match (username, password) {
                    (Some(user), Some(password)) => write!(f, "{user}:{password}")?,
                    (None, Some(password)) => write!(f, ":{password}")?,
                    // redis-cli takes it for the password, and so may the URL's author.
                    (Some(_), None) => f.write_str(Secret::SHOWN)?,
                    (None, None) => {}
                }
                if username.is_some() || password.is_some() {
                    f.write_str("@")?;
                }
                write!(f, "{}", self.address)?;
                for seed in self.cluster.seeds.iter().flatten() {
                    write!(f, ",{seed}")?;
                }
                if self.database != 0 {
                    write!(f, "/{}", self.database)?;
                }
            }
            Address::Unix(_) => {
                write!(f, "unix://{}", self.address)?;
                if self.database != 0 {
                    query.push(format!("db={}", self.database));
                }
                query.extend(username.as_ref().map(|name| format!("user={name}")));
                query.extend(password.as_ref().map(|password| format!("pass={password}")));
            }
        }
        if let Some(Sentinels { login: Credentials { username, password }, .. }) = self.sentinels()
        {
            let user = username.as_ref().map(|name| match password {
                Some(_) => form_urlencoded::byte_serialize(name.as_bytes()).collect(),
                None => Secret::SHOWN.to_owned(),
            });
            query.extend(user.map(|name| format!("sentinel_username={name}")));
            query.extend(password.as_ref().map(|secret| format!("sentinel_password={secret}")));
        }
        if self.resp3 {
            query.push("protocol=resp3".to_owned());
        }
        match query.is_empty() {
            true => Ok(()),
            false => write!(f, "?{}", query.join("&")),
        }
    }
}

impl fmt::Debug for ConnectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionOptions")
            .field("url", &self.to_string())
            .field("tls", &self.tls)
            .field("client_name", &self.client_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("max_retries", &self.max_retries)
            .field("retry_base_delay", &self.retry_base_delay)
            .field("retry_max_delay", &self.retry_max_delay)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_and_print_back_without_the_password() -> Result<()> {
        for (url, printed) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://h:1/3", "redis://h:1/3"),
            ("redis://:p%40ss@h", "redis://:***@h:6379"),
            ("rediss://u:p@h:1", "rediss://u:***@h:1"),
            ("redis://[::2]:7", "redis://[::2]:7"),
            ("redis+cluster://u:p@a,b:2,[::2]", "redis+cluster://u:***@a:6379,b:2,[::2]:6379"),
            ("rediss+cluster://a:1/0", "rediss+cluster://a:1"),
            ("unix:///tmp/r.sock?db=2&user=u&pass=p", "unix:///tmp/r.sock?db=2&user=u&pass=***"),
            ("redis+unix:///tmp/r.sock?protocol=resp3", "unix:///tmp/r.sock?protocol=resp3"),
        ] {
            let options = ConnectionOptions::parse(url)?;
            assert_eq!(options.to_string(), printed);
            assert!(!format!("{options:?}").contains("p%40ss"));
        }
        let options = ConnectionOptions::parse("redis://:p%40ss@h")?;
        assert_eq!(options.credentials, Credentials::new(None, "p@ss"));
        let options = ConnectionOptions::parse("redis://hunter2@h")?;
        assert_eq!(options.to_string(), "redis://***@h:6379");
        Ok(())
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_quoted() {
        for url in [
            "",
            "localhost:6379",
            "http://:hunter2@localhost",
            "redis://:hunter2@",
            "redis://:hunter2@h:99999",
            "redis://:hunter2@h/x",
            "redis://:hunter2@h/-1",
            "redis://:hunter2@h?timeout=5",
            "redis://:hunter2@h?protocol=9",
            "rediss://:hunter2@h/#insecure",
            "redis://:hunter2@0.0.0.0",
            "redis+cluster://:hunter2@a:1,b:x",
            "redis+cluster://:hunter2@a:1,b:2/3",
            "unix+cluster://:hunter2@a:1",
            "unix://user:hunter2@/r.sock",
        ] {
            let error = ConnectionOptions::parse(url).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn tls_files_need_tls_and_each_other() -> Result<()> {
        let ca = TlsOptions { ca: Some("ca.pem".into()), ..TlsOptions::default() };
        assert!(ConnectionOptions::parse("redis://h")?.with_tls(ca.clone()).is_err());
        assert!(ConnectionOptions::parse("rediss://h")?.with_tls(ca).is_ok());
        let cert = TlsOptions { cert: Some("c.pem".into()), ..TlsOptions::default() };
        assert!(ConnectionOptions::parse("rediss://h")?.with_tls(cert).is_err());
        Ok(())
    }

    /// Whether a text shows a part of the password that is long enough to mean something.
    fn shows(text: &str, password: &str) -> bool {
        let password: Vec<char> = password.chars().collect();
        let text = text.to_lowercase();
        password.windows(4).any(|piece| {
            let letters = piece.iter().filter(|letter| letter.is_alphanumeric()).count();
            let piece: String = piece.iter().collect();
            letters >= 2 && text.contains(&piece.to_lowercase())
        })
    }

    proptest::proptest! {
        /// Whatever of the URL is wrong, and wherever the password is cut by what it contains.
        #[test]
        fn no_text_shows_a_part_of_the_password(
            scheme in "(redis|rediss|valkey|http|redis\\+sentinel|redis\\+cluster)",
            user in "(|user|us:er|u@r)",
            // Letters that no message has in a row.
            password in "[XQZVJ790/?#@:&%+ \\[\\]\\\\.,;<>\"'|^~-]{4,16}",
            rest in "(h|h:1|h:x|\\[::1|localhost:6379/0|h/x|h,i/m/0|h\\?protocol=resp3|h\\?x=1|)",
        ) {
            let urls = [
                format!("{scheme}://{user}:{password}@{rest}"),
                // Taken for a user's name; behind a colon it would be a user's name.
                format!("{scheme}://{}@{rest}", password.replace(':', "")),
                format!("unix://{user}:{password}@/{rest}"),
                format!("unix:///{rest}?user={user}&pass={password}"),
                format!("redis+unix:///r?pass={password}&protocol=resp3"),
                format!("{scheme}://{user}:123?{password}@{rest}"),
                format!("{scheme}://{user}:12/{password}@{rest}"),
                format!("{user}:{password}@{rest}"),
            ];
            for url in urls {
                let texts = match ConnectionOptions::parse(&url) {
                    Ok(options) => [options.to_string(), format!("{options:?}")],
                    Err(error) => [error.to_string(), format!("{error:?}")],
                };
                for text in texts {
                    proptest::prop_assert!(!shows(&text, &password), "{url} gives {text}");
                }
            }
        }
    }
}
