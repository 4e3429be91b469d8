//! Tests: each reason why there is no connection is told by its type, with real sockets and real certificates.

use std::net::TcpListener as Listener;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig};

use super::*;
use crate::rpc::certificate::{self, Certificates};
use crate::runtime::tasks::spawn;
use crate::task::failure::chain;

/// Somebody who speaks HTTP/2 at a port of this computer.
struct Someone {
    port: u16,
    stopping: CancellationToken,
    served: JoinHandle<Result<(), transport::Error>>,
}

impl Someone {
    async fn new(shown: Option<&Certificates>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let server = Server::builder();
        let mut server = match shown {
            Some(Certificates { server: certificate, server_key, .. }) => {
                let identity = Identity::from_pem(certificate, server_key);
                server.tls_config(ServerTlsConfig::new().identity(identity)).expect("a certificate")
            }
            None => server,
        };
        let stopping = CancellationToken::new();
        let stopped = stopping.clone().cancelled_owned();
        let served = spawn("server", async move {
            let routes = server.add_routes(Routes::default());
            routes.serve_with_incoming_shutdown(TcpIncoming::from(listener), stopped).await
        });
        Self { port, stopping, served }
    }

    async fn end(self) {
        self.stopping.cancel();
        self.served.await.expect("does not panic").expect("serves");
    }
}

fn made(hosts: &[&str]) -> Certificates {
    certificate::make(&hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("made")
}

async fn plain(port: u16) -> Result<Channel, DialError> {
    let url = format!("http://127.0.0.1:{port}");
    dial(&url, Endpoint::from_shared(url.clone()).expect("an address")).await
}

async fn secured(host: &str, port: u16, ca: &str) -> Result<Channel, DialError> {
    let url = format!("https://{host}:{port}");
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(url.clone()).expect("an address").tls_config(tls).expect("a CA");
    dial(&url, endpoint).await
}

fn fault(answer: Result<Channel, DialError>) -> CertificateFault {
    let error = answer.expect_err("not trusted");
    let DialError::Certificate { fault, .. } = error else { panic!("not the certificate: {}", chain(&error)) };
    fault
}

#[tokio::test]
async fn nobody_listens_no_such_name_and_no_way() {
    let port = Listener::bind("127.0.0.1:0").expect("listens").local_addr().expect("an address").port();
    let refused = plain(port).await.expect_err("nobody listens");
    assert!(matches!(refused, DialError::Refused { .. }) && refused.is_passing(), "{refused:?}");
    let ca = made(&["localhost"]).ca;
    let refused = secured("127.0.0.1", port, &ca).await.expect_err("nobody listens");
    assert!(matches!(refused, DialError::Refused { .. }), "{refused:?}");
    let nameless = secured("nowhere.invalid", port, &ca).await.expect_err("no such name");
    assert!(matches!(nameless, DialError::Name { .. }), "{nameless:?}");
    // of all computers at once: there is no way by TCP
    let unreachable = secured("255.255.255.255", port, &ca).await.expect_err("no such computer");
    assert!(matches!(unreachable, DialError::Unreachable { .. }), "{unreachable:?}");
}

#[tokio::test(start_paused = true)]
async fn who_accepts_and_does_not_answer_is_silent() {
    let listener = Listener::bind("127.0.0.1:0").expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let ca = made(&["127.0.0.1"]).ca;
    for silent in [plain(port).await, secured("127.0.0.1", port, &ca).await] {
        let silent = silent.expect_err("it says nothing");
        assert!(matches!(silent, DialError::Silent { .. }) && silent.is_passing(), "{silent:?}");
        assert!(chain(&silent).contains("has not answered in 10 s"), "{}", chain(&silent));
    }
}

#[tokio::test]
async fn tls_and_none_are_told_apart() {
    let made = made(&["127.0.0.1"]);
    let (secret, open) = (Someone::new(Some(&made)).await, Someone::new(None).await);
    secured("127.0.0.1", secret.port, &made.ca).await.expect("it speaks TLS");
    plain(open.port).await.expect("it speaks none");
    let wrong = plain(secret.port).await.expect_err("it speaks TLS");
    assert!(matches!(wrong, DialError::SpeaksTls { .. }) && !wrong.is_passing(), "{wrong:?}");
    let wrong = secured("127.0.0.1", open.port, &made.ca).await.expect_err("it speaks none");
    assert!(matches!(wrong, DialError::SpeaksNoTls { .. }) && !wrong.is_passing(), "{wrong:?}");
    secret.end().await;
    open.end().await;
}

#[tokio::test]
async fn another_program_is_no_controller() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let served = spawn("web server", async move {
        for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
            let (mut stream, _) = listener.accept().await.expect("comes");
            let mut heard = [0; 4096];
            assert!(stream.read(&mut heard).await.expect("it listens") > 0, "it speaks first");
            stream.write_all(answer.as_bytes()).await.expect("it listens");
            stream.shutdown().await.expect("it listens");
            // what is not read would take the answer with it
            while let Ok(1..) = stream.read(&mut heard).await {}
        }
    });
    let wrong = plain(port).await.expect_err("it is none");
    assert!(matches!(wrong, DialError::NoController { .. }), "{wrong:?}");
    let wrong = secured("127.0.0.1", port, &made(&["127.0.0.1"]).ca).await.expect_err("it is none");
    assert!(matches!(wrong, DialError::SpeaksNoTls { .. }), "{wrong:?}");
    // without a word: it may be a controller that has no room
    let ended = plain(port).await.expect_err("it ends");
    assert!(matches!(ended, DialError::Broken { .. }) && ended.is_passing(), "{ended:?}");
    served.await.expect("does not panic");
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told() {
    let hosts = ["127.0.0.1".to_owned()];
    let (ours, theirs, elsewhere) = (made(&["127.0.0.1"]), made(&["127.0.0.1"]), made(&["controller.example"]));
    let old = certificate::make_dated(&hosts, 2020, 2021);
    let new = certificate::make_dated(&hosts, 4000, 4001);
    for (shown, ca, expected, words) in [
        (&ours, &theirs.ca, CertificateFault::UnknownIssuer, "another CA; give the ca.pem"),
        (&elsewhere, &elsewhere.ca, CertificateFault::WrongName, "for other names"),
        (&old, &old.ca, CertificateFault::Expired, "has expired"),
        (&new, &new.ca, CertificateFault::NotYetValid, "not valid yet"),
    ] {
        let someone = Someone::new(Some(shown)).await;
        let found = fault(secured("127.0.0.1", someone.port, ca).await);
        assert!(found == expected && found.words().contains(words), "{found:?}");
        someone.end().await;
    }
}
