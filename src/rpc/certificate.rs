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

/// As [`make`], for these years.
#[cfg(test)]
pub(super) fn make_dated(hosts: &[String], from: i32, to: i32) -> Certificates {
    let Authority { certificate: ca, key: ca_key } = authority(CONTROLLER_CA).expect("made");
    let mut params = leaf(hosts, "speckled controller", ServerAuth).expect("names");
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
    let key = KeyPair::generate().expect("a key");
    let issuer = authority_params(CONTROLLER_CA).expect("a name");
    let issuer = Issuer::new(issuer, KeyPair::from_pem(&ca_key).expect("ours"));
    let server = params.signed_by(&key, &issuer).expect("signed").pem();
    Certificates { ca, ca_key, server, server_key: key.serialize_pem() }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use tonic::service::Routes;
    use tonic::transport::server::TcpIncoming;
    use tonic::transport::{Identity, Server, ServerTlsConfig};

    use super::*;
    use crate::config::endpoint::WorkerOptions;
    use crate::endpoint::block_files::{BlockFile, LinkAddress};
    use crate::protocol::worker::{Joining, Room};
    use crate::rpc::endpoint_link::{EndpointDial, LinkDial};
    use crate::runtime::ids;
    use crate::runtime::secret::SecretBytes;
    use crate::task::failure::chain;
    use crate::worker::endpoint_link::{DialEndpoint, EndpointLinkError};

    /// Why a worker does not connect to whoever has this certificate, if its block's file has this CA.
    async fn answered(ca: &Authority, shown: Issued) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(shown.certificate, shown.key));
        let mut server = Server::builder().tls_config(tls).expect("a certificate");
        let stopping = CancellationToken::new();
        let served = crate::runtime::tasks::spawn("server", {
            let (incoming, stopping) = (TcpIncoming::from(listener), stopping.clone());
            async move {
                let routes = server.add_routes(Routes::default());
                routes.serve_with_incoming_shutdown(incoming, stopping.cancelled_owned()).await
            }
        });
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("link.json");
        let address =
            LinkAddress { hosts: vec!["127.0.0.1".parse().expect("a host")], port, ca: ca.certificate.clone() };
        let secret = SecretBytes::generate().expect("random numbers").reveal("speckled_block_");
        let (block, secret) = (ids::block(), secret.parse().expect("a secret"));
        let file = BlockFile { block, address, secret, worker: WorkerOptions::default() };
        std::fs::write(&path, serde_json::to_string(&file).expect("JSON")).expect("written");
        let (host, room) = ("nid001".to_owned(), Room::default());
        let joining = Joining { worker: ids::worker(), block, host, pid: 1, room, attempts: Vec::new() };
        let answer = EndpointDial::Link(LinkDial::new(path)).dial(joining).await;
        stopping.cancel();
        served.await.expect("ends").expect("serves");
        match answer.expect_err("nobody has the service") {
            EndpointLinkError::Unreachable(error) => chain(&*error),
            EndpointLinkError::Refused(words) => words,
        }
    }

    #[tokio::test]
    async fn an_endpoint_is_known_by_a_valid_certificate_of_its_own_ca() {
        let (own, other) = (make_endpoint_ca().expect("made"), make_endpoint_ca().expect("made"));
        let certified = |ca: &Authority, name: &str| {
            issued(ENDPOINT_CA, &ca.key, name, &[name.to_owned()], ServerAuth).expect("issued")
        };
        // a call came through
        let words = answered(&own, certified(&own, ENDPOINT_NAME)).await;
        assert!(!words.contains("certificate"), "{words}");
        let words = answered(&own, certified(&other, ENDPOINT_NAME)).await;
        assert!(words.contains("invalid peer certificate"), "{words}");
        let words = answered(&own, certified(&own, "another.speckled")).await;
        assert!(words.contains("invalid peer certificate"), "{words}");
        let mut old = leaf(&[ENDPOINT_NAME.to_owned()], ENDPOINT_NAME, ServerAuth).expect("a name");
        (old.not_before, old.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let issuer = KeyPair::from_pem(&own.key).expect("ours");
        let issuer = Issuer::new(authority_params(ENDPOINT_CA).expect("a name"), issuer);
        let certificate = old.signed_by(&key, &issuer).expect("signed").pem();
        let words = answered(&own, Issued { certificate, key: key.serialize_pem() }).await;
        assert!(words.contains("expired"), "{words}");
        let words = answered(&own, certified(&own, ENDPOINT_NAME)).await;
        assert!(!words.contains("certificate"), "{words}");
    }
}
