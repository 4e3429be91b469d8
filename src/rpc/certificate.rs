//! Makes CAs and certificates of them: a controller's, for sites that have none, and an endpoint's. Writes no file.

use std::fmt;

use rcgen::ExtendedKeyUsagePurpose::{self, ClientAuth, ServerAuth};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use thiserror::Error;

/// What an endpoint's certificate calls it.
pub(super) const ENDPOINT_NAME: &str = "endpoint.speckled";

const CONTROLLER_CA: &str = "speckled controller CA";
const ENDPOINT_CA: &str = "speckled endpoint CA";

/// A certificate chain and its private key, PEM: what one shows to prove who one is.
#[derive(Clone)]
pub struct ServerIdentity {
    /// The chain, leaf first.
    pub certificates: Vec<u8>,
    /// Of the leaf.
    pub key: Vec<u8>,
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the key is nobody's business
        f.debug_struct("ServerIdentity").finish_non_exhaustive()
    }
}

/// What [`make`] makes, each PEM.
pub struct Certificates {
    /// The CA, which clients are given.
    pub ca: String,
    /// Its private key.
    pub ca_key: String,
    /// The controller's certificate, and the CA after it.
    pub server: String,
    /// Its private key.
    pub server_key: String,
}

/// A CA.
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
}

/// A certificate that was issued, and its private key, PEM.
struct Issued {
    certificate: String,
    key: String,
}

impl From<Issued> for ServerIdentity {
    fn from(Issued { certificate, key }: Issued) -> Self {
        Self { certificates: certificate.into_bytes(), key: key.into_bytes() }
    }
}

/// No certificate can be made.
#[derive(Debug, Error)]
#[error("cannot make a certificate for {}", hosts.join(", "))]
pub struct CertificateError {
    hosts: Vec<String>,
    #[source]
    source: rcgen::Error,
}

/// A CA (X.509, ECDSA P-256), and a certificate of it for these names and addresses.
///
/// # Errors
/// A name that cannot stand in a certificate.
pub fn make(hosts: &[String]) -> Result<Certificates, CertificateError> {
    let made = || {
        let authority = authority(CONTROLLER_CA)?;
        let server = issued(CONTROLLER_CA, &authority.key, "speckled controller", hosts, ServerAuth)?;
        Ok((authority, server))
    };
    let (Authority { certificate, key }, server) =
        made().map_err(|source| CertificateError { hosts: hosts.to_vec(), source })?;
    let Issued { certificate: leaf, key: server_key } = server;
    Ok(Certificates { server: format!("{leaf}{certificate}"), ca: certificate, ca_key: key, server_key })
}

/// A certificate for a client or an endpoint, signed by the CA that [`make`] made.
///
/// # Errors
/// The key is not the CA's, or the name cannot stand in a certificate.
pub fn certify(name: &str, ca_key: &str) -> Result<ServerIdentity, CertificateError> {
    let issued = issued(CONTROLLER_CA, ca_key, name, &[], ClientAuth);
    issued.map(Into::into).map_err(|source| CertificateError { hosts: vec![name.to_owned()], source })
}

/// An endpoint's own CA, by which its workers know it.
///
/// # Errors
/// The system gives no random numbers.
pub fn make_endpoint_ca() -> Result<Authority, CertificateError> {
    authority(ENDPOINT_CA).map_err(|source| CertificateError { hosts: vec![ENDPOINT_NAME.to_owned()], source })
}

/// A certificate of that CA for the endpoint itself, by the CA's private key. It has one name, whatever the names of
/// its computer: the CA is what tells endpoints apart.
///
/// # Errors
/// The key is no private key.
pub fn certify_endpoint(ca_key: &str) -> Result<ServerIdentity, CertificateError> {
    let issued = issued(ENDPOINT_CA, ca_key, ENDPOINT_NAME, &[ENDPOINT_NAME.to_owned()], ServerAuth);
    issued.map(Into::into).map_err(|source| CertificateError { hosts: vec![ENDPOINT_NAME.to_owned()], source })
}

fn authority(name: &str) -> Result<Authority, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(name)?.self_signed(&key)?.pem();
    Ok(Authority { certificate, key: key.serialize_pem() })
}

fn issued(
    authority: &str,
    ca_key: &str,
    name: &str,
    hosts: &[String],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<Issued, rcgen::Error> {
    let issuer = Issuer::new(authority_params(authority)?, KeyPair::from_pem(ca_key)?);
    let key = KeyPair::generate()?;
    let certificate = leaf(hosts, name, purpose)?.signed_by(&key, &issuer)?.pem();
    Ok(Issued { certificate, key: key.serialize_pem() })
}

/// CAs of one kind have one name; which one it is its key tells.
fn authority_params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn leaf(hosts: &[String], name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    Ok(params)
}
