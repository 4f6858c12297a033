//! TLS to etcd and to the object store: whom to trust, and how to show who this node is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::WantsClientCert;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, ConfigBuilder, RootCertStore, crypto};

use crate::config;

/// Why TLS can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or isn't PEM.
    #[error("reading {} ({key})", path.display())]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("there is no certificate in {} ({key})", path.display())]
    Empty {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// What they say doesn't fit together.
    #[error("the certificates can't be used")]
    Unusable(#[from] rustls::Error),
}

/// For etcd, as configured: the authorities of `etcd.tls.ca`, else those that the machine trusts.
pub(super) fn client(config: &config::Etcd) -> Result<ClientConfig, TlsError> {
    let ca = config.ca.as_deref().map(|path| ("etcd.tls.ca", path));
    let builder = trusting(ca, config.uses_tls())?;
    match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("etcd.tls.certificate", certificate)?;
            let private = PrivateKeyDer::from_pem_file(key);
            let private = private.map_err(|source| TlsError::File {
                key: "etcd.tls.key",
                path: key.clone(),
                source,
            })?;
            Ok(builder.with_client_auth_cert(chain, private)?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// Trusts the authorities in the file that a setting names, else those that the machine trusts.
pub(crate) fn trusting(
    ca: Option<(&'static str, &Path)>,
    uses_tls: bool,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let mut store = RootCertStore::empty();
    match ca {
        Some((key, path)) => {
            for certificate in certificates(key, path)? {
                store.add(certificate)?;
            }
        }
        // Reading them takes a while, and without TLS nobody looks.
        None if uses_tls => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
        None => {}
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(store))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File {
        key,
        path: path.to_owned(),
        source,
    };
    let read = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() {
        let path = path.to_owned();
        return Err(TlsError::Empty { key, path });
    }
    Ok(certificates)
}
