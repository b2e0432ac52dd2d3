//! `redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0?sentinel_password=...`

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::Sentinels;
use crate::client::address::Address;
use crate::client::credentials::Credentials;
use crate::client::hosts::ManyHosts;
use crate::client::options::ConnectionOptions;
use crate::client::secret::Secret;
use crate::error::{Error, Result};

/// Each scheme, and that of the servers behind the sentinels.
const SCHEMES: &[(&str, &str)] = &[
    ("redis+sentinel", "redis"),
    ("rediss+sentinel", "rediss"),
    ("valkey+sentinel", "valkey"),
    ("valkeys+sentinel", "valkeys"),
];

const FORM: &str =
    "redis+sentinel://user:password@s1:26379,s2:26379/mymaster/0?sentinel_password=...";

const PORT: u16 = 26379;

impl Sentinels {
    /// The options that a URL of sentinels stands for; `None` where it has another scheme.
    pub(in crate::client) fn parse(url: &str) -> Result<Option<ConnectionOptions>> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        let Some((_, server)) = SCHEMES.iter().find(|(known, _)| Some(*known) == scheme) else {
            return Ok(None);
        };
        let Some(parts) = ManyHosts::split(url)? else {
            return Ok(None);
        };
        let (master, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
        let master = percent_decode_str(master).decode_utf8();
        let master = master.map_err(|_| invalid("its master's name is no UTF-8"))?;
        if master.is_empty() {
            return Err(invalid("it names no master after the hosts"));
        }
        let mut login = Credentials::default();
        let mut others = Vec::new();
        for pair in parts.query {
            match form_urlencoded::parse(pair.as_bytes()).next() {
                Some((name, value)) if name == "sentinel_password" => {
                    login.password = Some(Secret::new(value));
                }
                Some((name, value)) if name == "sentinel_username" => {
                    login.username = Some(value.into_owned());
                }
                Some((name, _)) if name == "protocol" => others.push(pair),
                // Not even its name is quoted: it may be the rest of a password.
                _ => {
                    return Err(invalid(
                        "it has a parameter that is not known; it takes sentinel_username, \
                         sentinel_password and protocol, and everything else is a parameter of \
                         RedisConnection",
                    ));
                }
            }
        }
        let nodes = parts.hosts.iter().map(|host| node(host)).collect::<Result<_>>()?;
        // The login, the database and the protocol are those of any URL.
        let first = parts.hosts.first().copied().unwrap_or_default();
        let ManyHosts { login: user, .. } = parts;
        let plain = format!("{server}://{user}{first}/{database}?{}", others.join("&"));
        let options = ConnectionOptions::parse(plain.trim_end_matches(['?', '/']))?;
        let sentinels = Sentinels { nodes, master: master.into_owned(), login };
        Ok(Some(ConnectionOptions { address: Address::Sentinel(sentinels), ..options }))
    }
}

impl ConnectionOptions {
    /// Logs in to the sentinels as a user, or with the password of their default user; nothing is
    /// percent-encoded.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the URL names no sentinels, or
    /// has credentials for them too.
    pub fn with_sentinel_login(
        mut self,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self> {
        if username.is_none() && password.is_none() {
            return Ok(self);
        }
        let Address::Sentinel(sentinels) = &mut self.address else {
            return Err(Error::invalid(
                "sentinel_username and sentinel_password need a redis+sentinel:// URL",
            ));
        };
        if sentinels.login != Credentials::default() {
            return Err(Error::invalid(
                "the sentinels' login is given once: in the URL, or by sentinel_username and \
                 sentinel_password",
            ));
        }
        sentinels.login = Credentials {
            username: username.map(str::to_owned),
            password: password.map(Secret::new),
        };
        Ok(self)
    }
}

/// A sentinel's host and port.
fn node(host: &str) -> Result<Address> {
    if host.is_empty() {
        return Err(invalid("a sentinel's host is empty"));
    }
    let url = format!("redis://{host}");
    let has_port = redis::parse_redis_url(&url).is_some_and(|url| url.port().is_some());
    match ConnectionOptions::parse(&url)?.address {
        Address::Tcp { host, .. } if !has_port => Ok(Address::Tcp { host, port: PORT }),
        address => Ok(address),
    }
}

fn invalid(what: &str) -> Error {
    Error::invalid(format!("the URL of sentinels is malformed: {what}; write {FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_and_print_back_without_either_password() -> Result<()> {
        for (url, printed) in [
            ("redis+sentinel://s1/m", "redis+sentinel://s1:26379/m"),
            ("valkey+sentinel://s1,s2:1/m/", "redis+sentinel://s1:26379,s2:1/m"),
            (
                "rediss+sentinel://u:hunter2@[::1],[::2]:7/my-m.1/3?protocol=resp3",
                "rediss+sentinel://u:***@[::1]:26379,[::2]:7/my-m.1/3?protocol=resp3",
            ),
            (
                "redis+sentinel://:hunter2@s/m?sentinel_password=hunter2&sentinel_username=a%26b",
                "redis+sentinel://:***@s:26379/m?sentinel_username=a%26b&sentinel_password=***",
            ),
            ("redis+sentinel://hunter2@s/a%40b%2F", "redis+sentinel://***@s:26379/a%40b%2F"),
            (
                "redis+sentinel://s/m?sentinel_username=hunter2",
                "redis+sentinel://s:26379/m?sentinel_username=***",
            ),
        ] {
            let options = ConnectionOptions::parse(url)?;
            assert_eq!(options.to_string(), printed);
            assert!(!format!("{options:?}").contains("hunter2"));
        }
        let options = ConnectionOptions::parse("redis+sentinel://s/a%40b?sentinel_password=p%2Bq")?;
        let Address::Sentinel(sentinels) = options.address else { panic!() };
        assert_eq!(sentinels.master, "a@b");
        assert_eq!(sentinels.login, Credentials::new(None, "p+q"));
        Ok(())
    }

    #[test]
    fn what_is_malformed_is_refused_and_the_form_shown() {
        for url in [
            "redis+sentinel://",
            "redis+sentinel://s1",
            "redis+sentinel://s1:26379/",
            "redis+sentinel:///m",
            "redis+sentinel://:hunter2@s1,,s2/m",
            "redis+sentinel://s1/m?sentinel=hunter2",
            "redis+sentinel://s1/%FF",
        ] {
            let error = ConnectionOptions::parse(url).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{url}");
            assert!(error.to_string().contains("s1:26379,s2:26379/mymaster/0"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for url in [
            "redis+sentinel://u:hunter2@s1:99999/m",
            "redis+sentinel://u:hunter2@s1/m/x",
            "redis+sentinel://u:hunter2@s1/m/0/1",
            "redis+sentinel://u:12/hunter2@s1/m",
            "redis+sentinel://s1/m?protocol=hunter2",
        ] {
            let error = ConnectionOptions::parse(url).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
