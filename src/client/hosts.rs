//! URLs that name several hosts, such as `redis+sentinel://user:password@a:1,b:2/rest?query`. The
//! URL standard knows one host, so what surrounds the hosts is read with each of them in turn.

use crate::error::{Error, Result};

/// The parts of such a URL, as they are spelled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ManyHosts<'u> {
    pub(super) scheme: &'u str,
    /// `user:password@`, or nothing.
    pub(super) login: &'u str,
    /// Each `host` or `host:port`.
    pub(super) hosts: Vec<&'u str>,
    /// What follows the first slash, without the query.
    pub(super) path: &'u str,
    pub(super) query: Vec<&'u str>,
}

impl<'u> ManyHosts<'u> {
    /// Takes a URL apart; `None` where it is none.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where a password may have been cut by
    /// what it contains. No error quotes the URL.
    pub(super) fn split(url: &'u str) -> Result<Option<Self>> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Ok(None);
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        // A password's part, most likely: no name or setting has an @ that is not encoded.
        if rest.contains(['@', '#']) {
            return Err(Error::invalid(
                "the URL has a @ or # after its hosts; characters such as / ? # @ in a password or \
                 a name are percent-encoded",
            ));
        }
        let (login, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        Ok(Some(ManyHosts {
            scheme,
            login,
            hosts: hosts.split(',').collect(),
            path: path.trim_start_matches('/'),
            query: query.split('&').filter(|pair| !pair.is_empty()).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() -> Result<()> {
        let parts = ManyHosts::split("redis+x://u:p@ss,w@a:1,[::1]:2,b/m/0?k=v&&l=w")?;
        assert_eq!(
            parts,
            Some(ManyHosts {
                scheme: "redis+x",
                login: "u:p@ss,w@",
                hosts: vec!["a:1", "[::1]:2", "b"],
                path: "m/0",
                query: vec!["k=v", "l=w"],
            })
        );
        let parts = ManyHosts::split("redis+x://?k")?;
        let bare =
            ManyHosts { scheme: "redis+x", login: "", hosts: vec![""], path: "", query: vec!["k"] };
        assert_eq!(parts, Some(bare));
        assert_eq!(ManyHosts::split("localhost")?, None);
        Ok(())
    }

    #[test]
    fn what_may_be_cut_out_of_a_password_is_refused() {
        for url in ["x://u:1/hunter2@h", "x://u:1?hunter2@h", "x://u:1#hunter2@h", "x://h/#hunter2"]
        {
            let error = ManyHosts::split(url).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
