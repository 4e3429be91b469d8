//! Before anything of a call is read: whose token it shows, and whether that one has as much in progress as he may. A call
//! that is refused here costs its headers. Handlers find the caller in the call's extensions; what he may do is not
//! decided here.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Bytes, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::door::{Full, Inside, Visitor};
use super::limits::{BYTES_OF_TOKEN, LONGEST_CALL, SESSIONS_OF_TOKEN, SHORT_CALLS_OF_TOKEN, WATCHES_OF_TOKEN};
use super::refusal;
use crate::controller::Controller;
use crate::controller::access::Caller;
use crate::ids::TokenId;
use crate::store::Store;

/// A service behind the gate.
#[derive(Debug)]
pub(super) struct Gate<S, T> {
    pub(super) service: T,
    pub(super) controller: Arc<Controller<S>>,
    pub(super) callers: Callers,
}

/// What each token has in progress.
#[derive(Debug, Clone, Default)]
pub(super) struct Callers(Arc<Mutex<HashMap<TokenId, InProgress>>>);

/// Of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct InProgress {
    short: usize,
    watches: usize,
    sessions: usize,
    /// Of messages that are being received or answered.
    bytes: usize,
}

/// How long a call lasts, and what it takes meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallKind {
    Short,
    Watch,
    Session,
}

/// A call that was let in, until its answer has been sent or nobody wants it any more.
#[derive(Debug, Clone)]
pub(super) struct Admitted(Arc<AdmittedCall>);

#[derive(Debug)]
struct AdmittedCall {
    caller: Caller,
    callers: Callers,
    kind: CallKind,
    /// Bytes of its message that were received.
    bytes: Mutex<usize>,
    _inside: Inside,
}

impl Admitted {
    /// Who calls.
    pub(super) fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Notes that more was received; false when the token has too much in progress.
    fn received(&self, more: usize) -> bool {
        let AdmittedCall { caller, callers, bytes, .. } = &*self.0;
        let fits = callers.with(caller.token(), |used| {
            let fits = used.bytes.saturating_add(more) <= BYTES_OF_TOKEN;
            if fits {
                used.bytes += more;
            }
            fits
        });
        if fits {
            *bytes.lock().unwrap_or_else(PoisonError::into_inner) += more;
        }
        fits
    }
}

impl Drop for AdmittedCall {
    fn drop(&mut self) {
        let bytes = *self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = self.kind;
        self.callers.with(self.caller.token(), |used| {
            used.bytes -= bytes;
            *used.count(kind) -= 1;
        });
    }
}

impl InProgress {
    fn count(&mut self, kind: CallKind) -> &mut usize {
        match kind {
            CallKind::Short => &mut self.short,
            CallKind::Watch => &mut self.watches,
            CallKind::Session => &mut self.sessions,
        }
    }
}

impl CallKind {
    fn of(path: &str) -> Self {
        match path.rsplit('/').next() {
            Some("Watch") => Self::Watch,
            Some("Session") => Self::Session,
            Some(_) | None => Self::Short,
        }
    }

    /// The most of a token, and what they are called.
    fn most(self) -> (usize, &'static str) {
        match self {
            Self::Short => (SHORT_CALLS_OF_TOKEN, "calls"),
            Self::Watch => (WATCHES_OF_TOKEN, "watches"),
            Self::Session => (SESSIONS_OF_TOKEN, "sessions"),
        }
    }
}

impl Callers {
    fn with<T>(&self, token: TokenId, change: impl FnOnce(&mut InProgress) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.entry(token).or_default();
        let answer = change(used);
        if *used == InProgress::default() {
            all.remove(&token);
        }
        answer
    }

    /// Lets a call in.
    fn admit(&self, caller: Caller, kind: CallKind, inside: Inside) -> Result<Admitted, Status> {
        let (most, what) = kind.most();
        let fits = self.with(caller.token(), |used| {
            let count = used.count(kind);
            let fits = *count < most;
            *count += usize::from(fits);
            fits
        });
        if !fits {
            let words =
                format!("the token has {most} {what} in progress, and may have no more; end some of them first");
            return Err(Status::resource_exhausted(words));
        }
        let callers = self.clone();
        Ok(Admitted(Arc::new(AdmittedCall { caller, callers, kind, bytes: Mutex::new(0), _inside: inside })))
    }
}

/// What a call shows before it is read.
struct Shown {
    visitor: Visitor,
    token: String,
    kind: CallKind,
}

impl Shown {
    fn by(request: &http::Request<Body>) -> Result<Self, Status> {
        let no_visitor = || Status::internal("the connection does not tell from where it comes");
        let visitor: &Visitor = request.extensions().get().ok_or_else(no_visitor)?;
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else {
            visitor.refuse("a call had no token");
            let words = "the call has no token; give one with --token-file or SPECKLED_TOKEN";
            return Err(Status::unauthenticated(words));
        };
        let kind = CallKind::of(request.uri().path());
        Ok(Self { visitor: visitor.clone(), token: token.to_owned(), kind })
    }

    /// Lets the call in if its token is valid, and has not too much in progress.
    async fn enter<S: Store>(self, controller: &Controller<S>, callers: &Callers) -> Result<Admitted, Status> {
        let Self { visitor, token, kind } = self;
        let caller = controller.caller(&token).await.map_err(refusal).inspect_err(|status| {
            if status.code() == Code::Unauthenticated {
                visitor.refuse("it showed no token that is valid");
            }
        })?;
        let inside = visitor.enter().map_err(|Full| Status::resource_exhausted("there is no room for more calls"))?;
        callers.admit(caller, kind, inside)
    }
}

impl<S, T: Clone> Clone for Gate<S, T> {
    fn clone(&self) -> Self {
        let Self { service, controller, callers } = self;
        Self { service: service.clone(), controller: Arc::clone(controller), callers: callers.clone() }
    }
}

impl<S, T: NamedService> NamedService for Gate<S, T> {
    const NAME: &'static str = T::NAME;
}

impl<S, T> Service<http::Request<Body>> for Gate<S, T>
where
    S: Store,
    T: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    T::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // the one that is ready is used, and its clone asked the next time
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        let (controller, callers) = (Arc::clone(&self.controller), self.callers.clone());
        let shown = Shown::by(&request);
        Box::pin(async move {
            let call = match shown {
                Ok(shown) => shown.enter(&controller, &callers).await,
                Err(status) => Err(status),
            };
            let call = match call {
                Ok(call) => call,
                // its body is dropped unread
                Err(status) => return Ok(status.into_http()),
            };
            let mut request = request;
            request.extensions_mut().insert(call.clone());
            let request = match call.0.kind {
                CallKind::Short | CallKind::Watch => {
                    request.map(|body| Body::new(Counted { body, call: call.clone() }))
                }
                // what a session says is read as it comes, a message at a time
                CallKind::Session => request,
            };
            // a stream's answer begins at once; it may last
            match tokio::time::timeout(LONGEST_CALL, service.call(request)).await {
                Ok(Ok(response)) => Ok(response.map(|body| Body::new(Held { body, _call: call }))),
                Ok(Err(never)) => match never {},
                Err(_) => {
                    let words = format!("the call was not over in {} s", LONGEST_CALL.as_secs());
                    Ok(Status::deadline_exceeded(words).into_http())
                }
            }
        })
    }
}

/// A message while it is received.
struct Counted {
    body: Body,
    call: Admitted,
}

/// An answer while it is sent: until then the call is in progress.
struct Held {
    body: Body,
    _call: Admitted,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && !self.call.received(frame.data_ref().map_or(0, Bytes::len))
        {
            let words = "the token sends more at once than it may; send less at a time";
            return Poll::Ready(Some(Err(Status::resource_exhausted(words))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
