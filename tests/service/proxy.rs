//! A way between endpoint and controller that can be cut, or hold back what is said without a word.

use std::net::SocketAddr;

use speckled::runtime::tasks::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the connections that there are; later ones are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Whole,
    Cut,
    Silent,
}

/// The way.
pub(crate) struct Proxy {
    pub(crate) url: String,
    fates: watch::Sender<(u64, Fate)>,
}

impl Proxy {
    /// To the controller at an address such as `http://127.0.0.1:1`.
    pub(crate) async fn new(url: &str) -> Self {
        let target: SocketAddr = url.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let own = format!("http://{}", listener.local_addr().expect("an address"));
        let (fates, _) = watch::channel((0, Fate::Whole));
        let told = fates.clone();
        spawn("proxy", async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                let begun = told.borrow().0;
                spawn("there", pass(near_in, far_out, begun, told.subscribe()));
                spawn("back", pass(far_in, near_out, begun, told.subscribe()));
            }
        });
        Self { url: own, fates }
    }

    /// All connections end.
    pub(crate) fn cut(&self) {
        self.fates.send_modify(|(number, fate)| (*number, *fate) = (*number + 1, Fate::Cut));
    }

    /// Nothing passes on those that there are, and they do not end.
    pub(crate) fn silence(&self) {
        self.fates.send_modify(|(number, fate)| (*number, *fate) = (*number + 1, Fate::Silent));
    }
}

/// What becomes of a connection that began before.
async fn decided(fates: &mut watch::Receiver<(u64, Fate)>, begun: u64) -> Fate {
    fates.wait_for(|(number, _)| *number > begun).await.map_or(Fate::Cut, |told| told.1)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, begun: u64, mut fates: watch::Receiver<(u64, Fate)>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        tokio::select! {
            // what was said before a fate is known is said, nothing after
            biased;
            fate = decided(&mut fates, begun) => {
                if fate == Fate::Silent {
                    // open, and deaf: until the test ends
                    std::future::pending::<()>().await;
                }
                return;
            }
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => {
                    if to.write_all(&buffer[..bytes]).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}
