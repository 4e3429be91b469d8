//! The client's side: a channel to a controller, and its calls with our types.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use super::certificate::ServerIdentity;
use super::client_error::{Called, certificate_refused};
use super::convert::named;
use super::dial::{CONNECT_AGAIN, DialError, dial};
use super::service::{KEEPALIVE, KEEPALIVE_TIMEOUT, LARGEST_MESSAGE};
use super::view::{ActionView, EndpointView, EventView, TaskView};
use super::wire;
use super::wire::endpoints_client::EndpointsClient;
use super::wire::tasks_client::TasksClient;
use crate::config::endpoint::ControllerAddress;
use crate::controller::{Receipt, Submission};
use crate::ids::{ActionId, EndpointId, SessionId, TaskId};
use crate::runtime::files::read_small;
use crate::store::{StateName, TaskFilter};

pub use super::client_error::ClientError;

/// Until a short question is given up: some thousand rows are looked up for it. What follows tasks has no such time: the
/// connection is asked whether it is there.
const QUESTION: Duration = Duration::from_secs(10);

/// Until a long one is: a submission of ten thousand tasks on a slow disk, a page of a long list.
const LONG_QUESTION: Duration = Duration::from_secs(60);

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

/// Bytes of a token's or certificates' file: some hundred CAs.
const LARGEST_FILE: u64 = 1 << 20;

/// A file that says who asks cannot be read.
#[derive(Debug, Error)]
#[error("cannot read {}", path.display())]
pub struct TargetError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

impl Target {
    /// As an endpoint's configuration has it. Blocks on the file system.
    ///
    /// # Errors
    /// A file that it names cannot be read.
    pub fn read(address: &ControllerAddress) -> Result<Self, TargetError> {
        let ControllerAddress { url, ca, token_file, identity } = address;
        let read = |path: &PathBuf| {
            read_small(path, LARGEST_FILE).map_err(|source| TargetError { path: path.clone(), source })
        };
        let token = String::from_utf8_lossy(&read(token_file)?).trim().to_owned();
        let identity = match identity {
            Some(files) => Some(ServerIdentity { certificates: read(&files.certificate)?, key: read(&files.key)? }),
            None => None,
        };
        Ok(Self { url: url.clone(), ca: ca.as_ref().map(read).transpose()?, token, identity })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the token is nobody's business
        f.debug_struct("Target").field("url", &self.url).finish_non_exhaustive()
    }
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
    called: Arc<CalledController>,
}

/// To whom calls are made.
#[derive(Debug)]
struct CalledController {
    url: String,
    /// Whether the other side may refuse for a certificate: until its first answer.
    may_concern_certificate: AtomicBool,
}

impl CalledController {
    /// What was answered.
    fn told<T>(&self, answer: Result<T, Status>, deadline: Duration) -> Result<T, ClientError> {
        let may_concern_certificate = self.may_concern_certificate.load(Ordering::Relaxed);
        if answer.as_ref().err().is_none_or(|status| status.source().is_none()) {
            self.may_concern_certificate.store(false, Ordering::Relaxed);
        }
        answer.map_err(|status| ClientError::of(status, Called { url: &self.url, deadline, may_concern_certificate }))
    }

    fn answered<T>(&self, answer: Result<Response<T>, Status>, deadline: Duration) -> Result<T, ClientError> {
        self.told(answer.map(Response::into_inner), deadline)
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// A wrong address or token, nobody answers.
    pub async fn connect(target: &Target) -> Result<Self, ClientError> {
        let Target { url, ca, token, identity } = target;
        let bearer = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
        let endpoint = endpoint(url, ca.as_deref(), identity.as_ref())?;
        let may_concern_certificate = endpoint.uri().scheme_str() == Some("https");
        let channel = dial(url, endpoint).await.map_err(|error| {
            // the other side may refuse in the middle of the handshake
            certificate_refused(&error).unwrap_or_else(|| error.into())
        })?;
        let called =
            CalledController { url: url.clone(), may_concern_certificate: AtomicBool::new(may_concern_certificate) };
        let service = InterceptedService::new(channel, Bearer(bearer));
        Ok(Self {
            tasks: TasksClient::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE),
            endpoints: EndpointsClient::new(service).max_decoding_message_size(LARGEST_MESSAGE),
            called: Arc::new(called),
        })
    }

    /// Submits tasks.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn submit(&mut self, order: Submission) -> Result<Receipt, ClientError> {
        let answer = self.tasks.submit(timed(wire::SubmitRequest::from(order), LONG_QUESTION)).await;
        Ok(self.called.answered(answer, LONG_QUESTION)?.try_into()?)
    }

    /// Tasks by id; those that cannot be seen are left out.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn get(&mut self, ids: &[TaskId]) -> Result<Vec<TaskView>, ClientError> {
        let ids = ids.iter().map(ToString::to_string).collect();
        let answer = self.tasks.get(timed(wire::GetRequest { ids }, QUESTION)).await;
        views(self.called.answered(answer, QUESTION)?.tasks)
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
            let answer = self.tasks.list(timed(request, LONG_QUESTION)).await;
            let wire::ListResponse { tasks, next } = self.called.answered(answer, LONG_QUESTION)?;
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
        let answer = self.called.answered(self.tasks.count(timed(request, QUESTION)).await, QUESTION)?;
        let counts = answer.counts.into_iter().map(|count| Ok((count.state().try_into()?, count.tasks)));
        counts.collect()
    }

    /// Follows tasks.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn watch(&mut self, filter: &TaskFilter) -> Result<Changes, ClientError> {
        let request = wire::WatchRequest { filter: Some(filter.clone().into()) };
        let begun = tokio::time::timeout(QUESTION, self.tasks.watch(request)).await;
        let silent = |_| DialError::Silent { url: self.called.url.clone(), waited: QUESTION };
        let changes = self.called.answered(begun.map_err(silent)?, QUESTION)?;
        Ok(Changes { changes, called: Arc::clone(&self.called) })
    }

    /// Cancels tasks; returns how each is now.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn cancel(&mut self, ids: &[TaskId]) -> Result<Vec<TaskView>, ClientError> {
        let ids = ids.iter().map(ToString::to_string).collect();
        let answer = self.tasks.cancel(timed(wire::CancelRequest { ids }, QUESTION)).await;
        views(self.called.answered(answer, QUESTION)?.tasks)
    }

    /// Actions by id; those that may not be seen are left out.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn actions(&mut self, ids: &[ActionId]) -> Result<Vec<ActionView>, ClientError> {
        let ids = ids.iter().map(ToString::to_string).collect();
        let answer = self.tasks.get_actions(timed(wire::GetActionsRequest { ids }, QUESTION)).await;
        let answer = self.called.answered(answer, QUESTION)?;
        answer.actions.into_iter().map(|action| Ok(action.try_into()?)).collect()
    }

    /// What happened to a task.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn timeline(&mut self, task: TaskId) -> Result<Vec<EventView>, ClientError> {
        let request = wire::TimelineRequest { task: task.to_string() };
        let answer = self.called.answered(self.tasks.timeline(timed(request, QUESTION)).await, QUESTION)?;
        answer.events.into_iter().map(|event| Ok(event.try_into()?)).collect()
    }

    /// Endpoints that may be seen.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn list_endpoints(&mut self) -> Result<Vec<EndpointView>, ClientError> {
        let answer = self.tasks.list_endpoints(timed(wire::ListEndpointsRequest {}, QUESTION)).await;
        let answer = self.called.answered(answer, QUESTION)?;
        answer.endpoints.into_iter().map(|endpoint| Ok(endpoint.try_into()?)).collect()
    }

    /// Has an endpoint forgotten, by id or name, that is offline but for sessions that are known to be dead; returns which it
    /// was.
    ///
    /// # Errors
    /// The controller refuses or cannot be asked.
    pub async fn forget_endpoint(&mut self, endpoint: &str, dead: &[SessionId]) -> Result<EndpointId, ClientError> {
        let dead = dead.iter().map(ToString::to_string).collect();
        let request = wire::ForgetEndpointRequest { endpoint: endpoint.to_owned(), dead };
        let answer = self.tasks.forget_endpoint(timed(request, QUESTION)).await;
        Ok(named("endpoint", self.called.answered(answer, QUESTION)?.endpoint)?)
    }

    /// The calls of an endpoint.
    pub fn endpoints(&mut self) -> &mut EndpointsClient<Service> {
        &mut self.endpoints
    }
}

/// Changes of tasks that are followed.
#[derive(Debug)]
pub struct Changes {
    changes: tonic::Streaming<wire::Task>,
    called: Arc<CalledController>,
}

impl Changes {
    /// The next; None when the controller ends.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn next(&mut self) -> Result<Option<TaskView>, ClientError> {
        let told = self.called.told(self.changes.message().await, KEEPALIVE + KEEPALIVE_TIMEOUT)?;
        Ok(told.map(TryInto::try_into).transpose()?)
    }
}

fn views(tasks: Vec<wire::Task>) -> Result<Vec<TaskView>, ClientError> {
    tasks.into_iter().map(|task| Ok(task.try_into()?)).collect()
}

fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
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
            endpoint.tls_config(tls).map_err(ClientError::Files)?
        }
        (Some("https"), None) => return Err(ClientError::NoCa { url: url.to_owned() }),
        (Some("http"), _) if loopback(host) => endpoint,
        (Some("http"), _) => return Err(ClientError::Plain { url: url.to_owned() }),
        (Some(_) | None, _) => return Err(wrong()),
    };
    Ok(endpoint
        .connect_timeout(CONNECT_AGAIN)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT))
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
