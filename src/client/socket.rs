//! Sockets of each kind, and how they fail.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::Address;
use super::options::ConnectionOptions;
use super::tls::server_name;
use crate::error::{Error, ErrorKind, Remedy, Result};

/// What a connection reads and writes.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// Connects: TCP, TLS, or a Unix socket.
pub(super) async fn open_socket(
    options: &ConnectionOptions,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Socket>> {
    match &options.address {
        #[cfg(unix)]
        Address::Unix(path) => {
            let socket = tokio::net::UnixStream::connect(path).await.map_err(unreachable_server)?;
            Ok(Box::new(socket))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(Error::invalid("this platform has no Unix sockets")),
        Address::Sentinel(_) => {
            Err(Error::new(ErrorKind::Internal, "the sentinels were not asked for the master"))
        }
        Address::Tcp { host, port } => {
            let socket =
                TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable_server)?;
            socket.set_nodelay(true).map_err(lost)?;
            // A peer that vanished without a word is noticed even in a wait without limit.
            let keepalive = TcpKeepalive::new()
                .with_time(Duration::from_secs(30))
                .with_interval(Duration::from_secs(10));
            SockRef::from(&socket).set_tcp_keepalive(&keepalive).map_err(lost)?;
            match tls {
                None => Ok(Box::new(socket)),
                Some(config) => {
                    let handshake = TlsConnector::from(config).connect(server_name(host)?, socket);
                    Ok(Box::new(handshake.await.map_err(lost)?))
                }
            }
        }
    }
}

fn unreachable_server(error: io::Error) -> Error {
    Error::new(ErrorKind::Connection, format!("the server cannot be reached: {error}"))
        .with_source(error)
        .with_remedy(Remedy::Reconnect)
}

/// The error of a socket that failed in use.
pub(super) fn lost(error: io::Error) -> Error {
    // What TLS objects to, such as a certificate, it will object to the next time too.
    let refused = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    let message = match error.kind() {
        _ if refused => format!("TLS failed: {error}"),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ => format!("the connection was lost: {error}"),
    };
    let remedy = if refused { Remedy::No } else { Remedy::Reconnect };
    Error::new(ErrorKind::Connection, message).with_source(error).with_remedy(remedy)
}

pub(super) fn silent(what: &str, patience: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the server did not {what} within {patience:?}"))
}
