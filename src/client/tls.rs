//! TLS by rustls: the system's roots or the user's own authority, and client certificates.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::PerProcess;
use super::options::TlsOptions;
use crate::error::{Error, ErrorKind, Result};

/// The files of one client, and what was last read from them.
pub(super) struct TlsFiles {
    options: TlsOptions,
    loaded: PerProcess<Mutex<Option<Loaded>>>,
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ClientConfig>,
    versions: Versions,
}

/// What tells that a file was replaced.
type Versions = Vec<Option<(SystemTime, u64)>>;

impl TlsFiles {
    pub(super) fn new(options: TlsOptions) -> Self {
        TlsFiles { options, loaded: PerProcess::new() }
    }

    /// The configuration for a new connection. Reads the files where they have changed, as they do
    /// when a certificate is renewed.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>> {
        let loaded = self.loaded.get(|| Ok::<_, Error>(Mutex::default()))?;
        let loaded = || loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let before = loaded().clone();
        // Looked at first: a file that is replaced while it is read is read again the next time.
        let versions = self.versions();
        if let Some(before) = &before
            && before.versions == versions
        {
            return Ok(Arc::clone(&before.config));
        }
        match (configure(&self.options), before) {
            (Ok(config), _) => {
                *loaded() = Some(Loaded { config: Arc::clone(&config), versions });
                Ok(config)
            }
            // A certificate is there before its key, or a file is half written.
            (Err(_), Some(before)) => Ok(before.config),
            (Err(error), None) => Err(error),
        }
    }

    fn versions(&self) -> Versions {
        let TlsOptions { ca, cert, key } = &self.options;
        let version = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len()))
        };
        [ca, cert, key].map(|path| path.as_ref().and_then(version)).to_vec()
    }
}

/// The configuration of connections with these options. Reads files.
fn configure(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Error::new(ErrorKind::Internal, "TLS is not available").with_source(error)
        })?;
    let builder = match &options.ca {
        Some(path) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OwnAuthorities::read(path, provider)?)),
        None => builder.with_root_certificates(system_roots()),
    };
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

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // A system may carry certificates that rustls cannot read; the others still count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Trusts the certificates of a file, and those that they have signed.
///
/// rustls takes a trusted certificate for an authority's only. A server without an authority has a
/// certificate that it signed itself, which its users give as `tls_ca`: exactly that one is accepted
/// from the server, too.
#[derive(Debug)]
struct OwnAuthorities {
    trusted: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl OwnAuthorities {
    fn read(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self> {
        let unusable = |error: &dyn std::fmt::Display| unreadable("tls_ca", path, error);
        let trusted = certificates("tls_ca", path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &trusted {
            roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(OwnAuthorities { trusted, chains })
    }
}

impl ServerCertVerifier for OwnAuthorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verify = WebPkiServerVerifier::verify_server_cert;
        match verify(&self.chains, end_entity, intermediates, server_name, ocsp_response, now) {
            // Its period of validity was looked at before: webpki does that first. `Other` is
            // webpki's `CaUsedAsEndEntity`.
            Err(TlsError::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) if self.trusted.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
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
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Error::invalid("the URL's host is not a name that a certificate can bear"))
}
