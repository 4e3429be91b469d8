//! Makes a controller's own CA and certificate, for sites that have none. Writes no file.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use thiserror::Error;

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

fn made(hosts: &[String]) -> Result<Certificates, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "speckled controller CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&ca_key)?.pem();
    let server_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(hosts.to_vec())?;
    leaf.distinguished_name.push(DnType::CommonName, "speckled controller");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = ca_key.serialize_pem();
    let server = leaf.signed_by(&server_key, &Issuer::new(params, ca_key))?.pem();
    Ok(Certificates { server: format!("{server}{ca}"), ca, ca_key: key, server_key: server_key.serialize_pem() })
}
