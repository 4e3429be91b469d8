//! The client's side: a channel to a controller, and its calls with our types.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::certificate::ServerIdentity;
use super::convert::WireError;
use super::service::{KEEPALIVE, KEEPALIVE_TIMEOUT, LARGEST_MESSAGE};
use super::view::{ActionView, EndpointView, EventView, TaskView};
use super::wire;
use super::wire::endpoints_client::EndpointsClient;
use super::wire::tasks_client::TasksClient;
use crate::controller::{Receipt, Submission};
use crate::ids::{ActionId, TaskId};
use crate::store::{StateName, TaskFilter};
use crate::task::failure::chain;
use crate::task::names::printable;

/// Until a controller that does not answer is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Until a call that is not a stream is given up: a submission of ten thousand tasks on a slow disk.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a controller is and who asks.
#[derive(Clone)]
pub struct Target {
    /// `https://host:port`, or `http://` for a loopback.
    pub url: String,
    /// The CA that signed the controller's certificate, PEM; None with `http://`.
    pub ca: Option<Vec<u8>>,
    /// The token.
    pub token: String,
    /// What is shown to a controller that asks for a certificate.
    pub identity: Option<ServerIdentity>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the token is nobody's business
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why a controller could not be asked, or what it answered.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address.
    #[error("{url:?} is not a controller's address; give it as https://host:7460")]
    Url {
        /// What was given.
        url: String,
    },
    /// Plain text over a network would show the token to everybody.
    #[error("{url} is neither TLS nor a loopback address; use https:// with the controller's CA (--ca)")]
    Plain {
        /// What was given.
        url: String,
    },
    /// No CA.
    #[error("{url} needs the controller's CA; give the ca.pem that `speckled controller init` made (--ca)")]
    NoCa {
        /// What was given.
        url: String,
    },
    /// The token cannot be sent.
    #[error("the token is no token; give one that `speckled token create` printed")]
    Token,
    /// Nobody answers.
    #[error("no controller answers at {url}; is it running?")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: transport::Error,
    },
    /// It wants to know who connects.
    #[error(
        "the controller asks for a certificate; give one that `speckled controller certify` made (--certificate, --key)"
    )]
    NoCertificate,
    /// It does not believe who connects.
    #[error("the controller does not accept the certificate; `speckled controller certify` makes one of its own CA")]
    Certificate,
    /// The connection ended in the middle of a call.
    #[error(
        "the connection with the controller broke; it may have ended, or asks for a certificate (--certificate, --key)"
    )]
    Broken(#[source] Status),
    /// The controller says no; its words come from elsewhere and are shown on terminals.
    #[error("the controller refuses: {}", printable(.0.message(), usize::MAX))]
    Refused(Status),
    /// It answers in another language.
    #[error("the controller's answer cannot be read")]
    Answer(#[from] WireError),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match certificate_refused(&status) {
            Some(error) => error,
            None if status.source().is_some_and(|source| source.is::<transport::Error>()) => Self::Broken(status),
            None => Self::Refused(status),
        }
    }
}

/// What a TLS alert says of our certificate (RFC 8446, 6.2): it comes with whatever is sent first, and nothing but its
/// text travels through the layers between.
fn certificate_refused(error: &dyn Error) -> Option<ClientError> {
    let words = chain(error);
    let alert = words.split_once("received fatal alert: ")?.1;
    if alert.starts_with("CertificateRequired") {
        return Some(ClientError::NoCertificate);
    }
    let refused = ["UnknownCA", "BadCertificate", "DecryptError", "CertificateUnknown", "CertificateExpired"];
    refused.iter().any(|word| alert.starts_with(word)).then_some(ClientError::Certificate)
}

/// Adds the token to each call.
#[derive(Debug, Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Bearer>;

/// A connection to a controller.
#[derive(Debug, Clone)]
pub struct Client {
    tasks: TasksClient<Service>,
    endpoints: EndpointsClient<Service>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// A wrong address or token, nobody answers.
    pub async fn connect(target: &Target) -> Result<Self, ClientError> {
        let Target { url, ca, token, identity } = target;
        let bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
        let channel = endpoint(url, ca.as_deref(), identity.as_ref())?.connect().await.map_err(|source| {
            certificate_refused(&source).unwrap_or(ClientError::Connect { url: url.clone(), source })
        })?;
        let service = InterceptedService::new(channel, Bearer(bearer));
        Ok(Self {
            tasks: TasksClient::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE),
            endpoints: EndpointsClient::new(service).max_decoding_message_size(LARGEST_MESSAGE),
        })
    }

    /// Submits tasks.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn submit(&mut self, order: Submission) -> Result<Receipt, ClientError> {
        let answer = self.tasks.submit(timed(wire::SubmitRequest::from(order))).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// Tasks by id; those that cannot be seen are left out.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn get(&mut self, ids: &[TaskId]) -> Result<Vec<TaskView>, ClientError> {
        let ids = ids.iter().map(ToString::to_string).collect();
        views(self.tasks.get(timed(wire::GetRequest { ids })).await?.into_inner().tasks)
    }

    /// The newest tasks that a filter lets through, at most `most`, in pages as they come.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn list(&mut self, filter: &TaskFilter, most: usize) -> Result<Vec<TaskView>, ClientError> {
        /// The largest page of the service.
        const PAGE: u32 = 1000;
        let (mut all, mut page) = (Vec::new(), String::new());
        while all.len() < most {
            let wanted = u32::try_from(most - all.len()).map_or(PAGE, |left| left.min(PAGE));
            let request = wire::ListRequest { filter: Some(filter.clone().into()), most: wanted, page };
            let wire::ListResponse { tasks, next } = self.tasks.list(timed(request)).await?.into_inner();
            all.extend(views(tasks)?);
            if next.is_empty() {
                break;
            }
            page = next;
        }
        Ok(all)
    }

    /// How many tasks of each state a filter lets through.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn count(&mut self, filter: &TaskFilter) -> Result<Vec<(StateName, u64)>, ClientError> {
        let request = wire::ListRequest { filter: Some(filter.clone().into()), most: 0, page: String::new() };
        let answer = self.tasks.count(timed(request)).await?.into_inner();
        let counts = answer.counts.into_iter().map(|count| Ok((count.state().try_into()?, count.tasks)));
        counts.collect()
    }

    /// Follows tasks.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn watch(&mut self, filter: &TaskFilter) -> Result<Changes, ClientError> {
        let request = wire::WatchRequest { filter: Some(filter.clone().into()) };
        Ok(Changes(self.tasks.watch(request).await?.into_inner()))
    }

    /// Cancels tasks; returns how each is now.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn cancel(&mut self, ids: &[TaskId]) -> Result<Vec<TaskView>, ClientError> {
        let ids = ids.iter().map(ToString::to_string).collect();
        views(self.tasks.cancel(timed(wire::CancelRequest { ids })).await?.into_inner().tasks)
    }

    /// Actions by id; those that may not be seen are left out.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn actions(&mut self, ids: &[ActionId]) -> Result<Vec<ActionView>, ClientError> {
        let ids = ids.iter().map(ToString::to_string).collect();
        let answer = self.tasks.get_actions(timed(wire::GetActionsRequest { ids })).await?.into_inner();
        answer.actions.into_iter().map(|action| Ok(action.try_into()?)).collect()
    }

    /// What happened to a task.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn timeline(&mut self, task: TaskId) -> Result<Vec<EventView>, ClientError> {
        let request = wire::TimelineRequest { task: task.to_string() };
        let answer = self.tasks.timeline(timed(request)).await?.into_inner();
        answer.events.into_iter().map(|event| Ok(event.try_into()?)).collect()
    }

    /// Endpoints that may be seen.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn list_endpoints(&mut self) -> Result<Vec<EndpointView>, ClientError> {
        let answer = self.tasks.list_endpoints(timed(wire::ListEndpointsRequest {})).await?.into_inner();
        answer.endpoints.into_iter().map(|endpoint| Ok(endpoint.try_into()?)).collect()
    }

    /// The calls of an endpoint.
    pub fn endpoints(&mut self) -> &mut EndpointsClient<Service> {
        &mut self.endpoints
    }
}

/// Changes of tasks that are followed.
#[derive(Debug)]
pub struct Changes(tonic::Streaming<wire::Task>);

impl Changes {
    /// The next; None when the controller ends.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn next(&mut self) -> Result<Option<TaskView>, ClientError> {
        Ok(self.0.message().await?.map(TryInto::try_into).transpose()?)
    }
}

fn views(tasks: Vec<wire::Task>) -> Result<Vec<TaskView>, ClientError> {
    tasks.into_iter().map(|task| Ok(task.try_into()?)).collect()
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn endpoint(url: &str, ca: Option<&[u8]>, identity: Option<&ServerIdentity>) -> Result<Endpoint, ClientError> {
    let wrong = || ClientError::Url { url: url.to_owned() };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
    let uri = endpoint.uri().clone();
    let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']');
    let endpoint = match (uri.scheme_str(), ca) {
        (Some("https"), Some(ca)) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            let tls = match identity {
                Some(ServerIdentity { certificates, key }) => {
                    tls.identity(transport::Identity::from_pem(certificates, key))
                }
                None => tls,
            };
            endpoint.tls_config(tls).map_err(|source| ClientError::Connect { url: url.to_owned(), source })?
        }
        (Some("https"), None) => return Err(ClientError::NoCa { url: url.to_owned() }),
        (Some("http"), _) if loopback(host) => endpoint,
        (Some("http"), _) => return Err(ClientError::Plain { url: url.to_owned() }),
        (Some(_) | None, _) => return Err(wrong()),
    };
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .tcp_nodelay(true))
}

fn loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_never_travel_in_the_clear() {
        let refused = |url: &str, ca: Option<&[u8]>| endpoint(url, ca, None).expect_err("refused").to_string();
        assert!(refused("http://controller.example:7460", None).contains("neither TLS nor a loopback"));
        assert!(refused("http://10.0.0.1:7460", Some(b"x")).contains("neither TLS nor a loopback"));
        assert!(refused("https://controller.example:7460", None).contains("ca.pem"));
        for nonsense in ["controller", "ftp://controller", "", "http:///x"] {
            assert!(refused(nonsense, None).contains("not a controller's address"), "{nonsense}");
        }
        for fine in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(endpoint(fine, None, None).is_ok(), "{fine}");
        }
    }
}
