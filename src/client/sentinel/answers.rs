//! What sentinels and servers say of the master.

use redis::Value;

use crate::client::address::Address;
use crate::error::{Error, ErrorKind, Remedy, Result, ServerCode};
use crate::resp::{Info, text};

/// The master's address, as SENTINEL GET-MASTER-ADDR-BY-NAME (Redis 2.8) gives it; `None` where the
/// sentinel knows no master of that name.
pub(super) fn master_address(answer: &Value) -> Result<Option<Address>> {
    let parts = match answer {
        Value::Nil => return Ok(None),
        Value::Array(parts) => parts.as_slice(),
        _ => &[],
    };
    let texts: Vec<&str> =
        parts.iter().filter_map(|part| std::str::from_utf8(text(part)?).ok()).collect();
    match texts[..] {
        [host, port] if !host.is_empty() => {
            let port = port.parse().map_err(|_| Error::protocol("a master's port is no number"))?;
            Ok(Some(Address::Tcp { host: host.to_owned(), port }))
        }
        _ => Err(Error::protocol("a sentinel's answer is no host and port")),
    }
}

/// The role that a server says it has: ROLE (Redis 2.8.12) has it first, HELLO (6.0) by name.
/// `None` where it does not say.
pub(super) fn role(answer: &Value) -> Option<&[u8]> {
    let first = match answer {
        Value::Array(parts) => parts.first().and_then(text),
        _ => None,
    };
    match first {
        Some(role @ (b"master" | b"slave" | b"sentinel")) => Some(role),
        _ => Info(answer).text("role"),
    }
}

/// A server that is no master is not used: asked for again, the sentinels name another one soon.
pub(super) fn check_role(answer: &Value) -> Result<()> {
    let role = match role(answer) {
        Some(b"master") | None => return Ok(()),
        Some(b"slave" | b"replica") => "a replica",
        Some(b"sentinel") => "a sentinel",
        Some(_) => "something else",
    };
    let message = format!("the server that a sentinel named as the master is {role}");
    Err(Error::new(ErrorKind::Connection, message).with_remedy(Remedy::Reconnect))
}

/// An error of a sentinel, with what to do about it.
pub(super) fn explained(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Authentication => error.with_advice(
            "it is a sentinel's, which has a login of its own: sentinel_username and \
             sentinel_password",
        ),
        _ if error.server_code().is_some_and(ServerCode::is_unknown_command) => error.with_advice(
            "is it a sentinel? these listen on port 26379 by default, and servers on 6379",
        ),
        _ => error,
    }
}

/// No sentinel that answered knows a master of that name.
pub(super) fn unknown_master(name: &str) -> Error {
    Error::new(ErrorKind::Connection, format!("the sentinel knows no master named {name:?}"))
        .with_advice(
            "check the name after the hosts in the URL; SENTINEL MASTERS, sent to a sentinel, lists \
             the names that it knows",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn an_address_is_a_host_and_a_port() -> Result<()> {
        let address = master_address(&Value::Array(vec![bulk("::1"), bulk("6379")]))?;
        assert_eq!(address, Some(Address::Tcp { host: "::1".to_owned(), port: 6379 }));
        assert_eq!(master_address(&Value::Nil)?, None);
        for parts in
            [vec![], vec![bulk("h")], vec![bulk("h"), bulk("x")], vec![bulk(""), bulk("1")]]
        {
            assert!(master_address(&Value::Array(parts)).is_err());
        }
        assert!(master_address(&Value::Okay).is_err());
        Ok(())
    }

    #[test]
    fn only_a_master_will_do() {
        let of_role = |role| Value::Array(vec![bulk(role), Value::Int(0), Value::Array(vec![])]);
        assert!(check_role(&of_role("master")).is_ok());
        let error = check_role(&of_role("slave")).unwrap_err();
        assert_eq!((error.remedy(), error.kind()), (Remedy::Reconnect, ErrorKind::Connection));
        assert!(check_role(&of_role("sentinel")).is_err());
        let of_hello =
            |role| Value::Array(vec![bulk("server"), bulk("redis"), bulk("role"), bulk(role)]);
        assert!(check_role(&of_hello("master")).is_ok());
        assert!(check_role(&of_hello("replica")).is_err());
        // A proxy may answer anything.
        assert!(check_role(&Value::Okay).is_ok());
    }
}
