//! The door for workers of other computers: TCP with TLS, by the endpoint's own CA, behind which there is the service for
//! workers alone. Decides nothing about blocks.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{self, Server, ServerTlsConfig};

use super::door::Door;
use super::limits::{DoorLimits, LARGEST_HEADERS, WINDOW};
use super::workers::{Entrance, WorkerService};
use super::{KEEPALIVE, KEEPALIVE_TIMEOUT, LARGEST_MESSAGE, ServeError};
use crate::config::endpoint::WorkerOptions;
use crate::config::worker_link::{LinkHost, WorkerLink};
use crate::endpoint::block_files::{self, BlockError, BlockFiles, LinkAddress};
use crate::endpoint::inbox::Inbox;
use crate::endpoint::state_dir::{StateDir, StateDirError};
use crate::endpoint::status::LinkStatus;
use crate::rpc::certificate::{self, Authority, CertificateError, ServerIdentity};
use crate::rpc::wire::workers_server::WorkersServer;
use crate::runtime::files::most_open;
use crate::runtime::network;

/// Calls at once on a connection: a worker has one, and another for a moment when it connects anew.
const CALLS: u32 = 4;

/// Why there is no door for workers of other computers.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The address.
    #[error("cannot listen for workers at {address}; correct worker_link.listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The computer's own addresses.
    #[error("this computer's addresses are not known; say under which workers find it, in worker_link.advertise")]
    Addresses(#[source] io::Error),
    /// The CA.
    #[error("cannot read {}", path.display())]
    Ca {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate.
    #[error("the endpoint's certificate cannot be used; delete link-ca.pem and link-ca.key for a new one")]
    Tls(#[source] transport::Error),
    /// The blocks.
    #[error(transparent)]
    Blocks(#[from] BlockError),
}

/// The door, for those who open and end blocks and who tell how it is.
#[derive(Debug, Clone)]
pub struct Link {
    pub(super) blocks: BlockFiles,
    listen: SocketAddr,
    door: Door,
}

/// The door before anybody can come in.
#[derive(Debug)]
pub struct LinkListener {
    link: Link,
    listener: TcpListener,
    server: Server,
}

impl LinkListener {
    /// Listens; blocks of an earlier process of the endpoint are told where. `host` is this computer's name. Blocks on
    /// the file system.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn open(
        state_dir: &StateDir,
        configured: &WorkerLink,
        worker: WorkerOptions,
        host: &str,
    ) -> Result<Self, LinkError> {
        let WorkerLink { listen, advertise: _ } = configured;
        let remembered = block_files::remembered(state_dir)?;
        let listener = bind(*listen, remembered.first().map(|file| file.address.port)).await?;
        let local = listener.local_addr().map_err(|source| LinkError::Listen { address: *listen, source })?;
        let hosts = advertised(configured, local.ip(), host)?;
        let Authority { certificate: ca, key } = authority(state_dir)?;
        // as old as this process: nothing of it is kept
        let ServerIdentity { certificates, key } = certificate::certify_endpoint(&key)?;
        let tls = ServerTlsConfig::new().identity(transport::Identity::from_pem(certificates, key));
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(LARGEST_HEADERS)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            .max_concurrent_streams(CALLS)
            .tls_config(tls)
            .map_err(LinkError::Tls)?;
        let address = LinkAddress { hosts, port: local.port(), ca };
        let blocks = BlockFiles::new(state_dir.clone(), address, worker, remembered)?;
        Ok(Self {
            link: Link { blocks, listen: local, door: Door::new(DoorLimits::workers(most_open())) },
            listener,
            server,
        })
    }

    /// For those who open and end blocks.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn serve(self, inbox: Inbox, stopping: CancellationToken) -> Result<(), ServeError> {
        let Self { link, listener, mut server } = self;
        let accepted = link.door.accept(listener, stopping.clone());
        let workers = WorkerService { inbox, entrance: Entrance::Link(link), stopping: stopping.clone() };
        server
            .add_service(WorkersServer::new(workers).max_decoding_message_size(LARGEST_MESSAGE))
            .serve_with_incoming_shutdown(accepted, stopping.cancelled_owned())
            .await
            .map_err(ServeError::Serve)
    }
}

impl Link {
    /// How it is.
    pub fn status(&self) -> LinkStatus {
        let (workers, waiting, refused) = self.door.counts();
        let hosts = self.blocks.address().hosts.clone();
        LinkStatus { listen: self.listen, hosts, blocks: self.blocks.open(), workers, waiting, refused }
    }
}

/// At the port that workers of open blocks know, if any will do and it is free.
async fn bind(listen: SocketAddr, known: Option<u16>) -> Result<TcpListener, LinkError> {
    if let Some(port) = known.filter(|_| listen.port() == 0)
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(listen.ip(), port)).await
    {
        return Ok(listener);
    }
    TcpListener::bind(listen).await.map_err(|source| LinkError::Listen { address: listen, source })
}

/// Under what workers find the endpoint that listens at an address: what is configured; or the computer's name first, and
/// then its addresses.
///
/// # Errors
/// The system does not tell them, or there is none.
pub fn advertised(configured: &WorkerLink, listen: IpAddr, host: &str) -> Result<Vec<LinkHost>, LinkError> {
    if !configured.advertise.is_empty() {
        return Ok(configured.advertise.clone());
    }
    if !listen.is_unspecified() {
        return Ok(vec![listen.into()]);
    }
    let addresses = network::addresses().map_err(LinkError::Addresses)?;
    let of_family = addresses.into_iter().filter(|address| listen.is_ipv6() || address.is_ipv4());
    Ok(host.parse().ok().into_iter().chain(of_family.map(LinkHost::from)).collect())
}

/// The CA in the endpoint's directory, made if there is none.
fn authority(state_dir: &StateDir) -> Result<Authority, LinkError> {
    let read = |path: std::path::PathBuf| match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LinkError::Ca { path, source }),
    };
    let [certificate_file, key_file] = state_dir.link_ca();
    if let (Some(certificate), Some(key)) = (read(certificate_file.clone())?, read(key_file.clone())?) {
        return Ok(Authority { certificate, key });
    }
    let made = certificate::make_endpoint_ca()?;
    state_dir.replace(&key_file, made.key.as_bytes())?;
    state_dir.replace(&certificate_file, made.certificate.as_bytes())?;
    Ok(made)
}
