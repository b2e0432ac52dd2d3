//! TLS by rustls: the system's roots or the user's own authority, and client certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::options::TlsOptions;
use crate::error::{Error, ErrorKind, Result};

/// The configuration of all connections with these options. Reads files.
pub(crate) fn configure(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "TLS is not available").with_source(error)
        })?
        .with_root_certificates(roots(options)?);
    let config = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates("tls_cert", cert)?;
            let key =
                PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("tls_key", key, e))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::invalid(format!("tls_cert and tls_key do not belong together: {error}"))
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(options: &TlsOptions) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &options.ca {
        Some(path) => {
            for certificate in certificates("tls_ca", path)? {
                roots.add(certificate).map_err(|error| unreadable("tls_ca", path, error))?;
            }
        }
        // A system may carry certificates that rustls cannot read; the others still count.
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(parameter: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(parameter, path, error))?;
    match read.is_empty() {
        true => Err(unreadable(parameter, path, "it holds no certificate")),
        false => Ok(read),
    }
}

fn unreadable(parameter: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{parameter} {} cannot be used: {why}", path.display()))
}

/// The name that the server's certificate must bear.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Error::invalid("the URL's host is not a name that a certificate can bear"))
}
