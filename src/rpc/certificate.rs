//! Makes a controller's own CA and certificate, for sites that have none. Writes no file.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;

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
    made(hosts).map_err(|source| CertificateError { hosts: hosts.to_vec(), source })
}

/// A certificate for a client or an endpoint, signed by the CA that [`make`] made.
///
/// # Errors
/// The key is not the CA's, or the name cannot stand in a certificate.
pub fn certify(name: &str, ca_key: &str) -> Result<ServerIdentity, CertificateError> {
    certified(name, ca_key).map_err(|source| CertificateError { hosts: vec![name.to_owned()], source })
}

fn made(hosts: &[String]) -> Result<Certificates, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let ca = authority()?;
    let certificate = ca.self_signed(&ca_key)?.pem();
    let server_key = KeyPair::generate()?;
    let leaf = leaf(hosts, "speckled controller", ExtendedKeyUsagePurpose::ServerAuth)?;
    let key = ca_key.serialize_pem();
    let server = leaf.signed_by(&server_key, &Issuer::new(ca, ca_key))?.pem();
    Ok(Certificates {
        server: format!("{server}{certificate}"),
        ca: certificate,
        ca_key: key,
        server_key: server_key.serialize_pem(),
    })
}

fn certified(name: &str, ca_key: &str) -> Result<ServerIdentity, rcgen::Error> {
    let issuer = Issuer::new(authority()?, KeyPair::from_pem(ca_key)?);
    let key = KeyPair::generate()?;
    let leaf = leaf(&[], name, ExtendedKeyUsagePurpose::ClientAuth)?;
    let certificate = leaf.signed_by(&key, &issuer)?.pem();
    Ok(ServerIdentity { certificates: certificate.into_bytes(), key: key.serialize_pem().into_bytes() })
}

/// Every CA of ours has this name; which one it is its key tells.
fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "speckled controller CA");
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
