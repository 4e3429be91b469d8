//! `speckled controller`: makes a controller's directory, serves it, copies its store.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use tokio::net::TcpListener;

use super::store_mark::StoreMark;
use super::{PORT, ServiceError, file, identity, read, several, text, token, until_signalled, wait};
use crate::cli::exit::{Exit, Failure};
use crate::cli::logging;
use crate::cli::output::{self, Form};
use crate::controller::bus::LocalBus;
use crate::controller::{Controller, Policy};
use crate::dataset::result::host_name;
use crate::rpc::certificate::{self, Certificates, ServerIdentity};
use crate::rpc::service::{Services, Tls};
use crate::runtime::clock::Clock;
use crate::runtime::files::open_as_many_as_allowed;
use crate::runtime::lock::{Lock, LockError};
use crate::runtime::memory::give_back_what_is_free;
use crate::runtime::tasks::Tasks;
use crate::store::{Role, SqliteStore, backup_sqlite, open_sqlite, restore_sqlite};
use crate::task::names::{EndpointName, Subject};

/// The store's file in a controller's directory.
const STORE: &str = "controller.db";

/// The administrator's token there.
const ADMIN_TOKEN: &str = "admin.token";

/// The controller's own CA, which clients are given, and its private key.
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// The controller's certificate and private key.
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// Until calls that end have given the store back.
const CLOSING: Duration = Duration::from_secs(2);

/// Between two looks whether they have.
const LOOK: Duration = Duration::from_millis(10);

/// Held by the process that serves.
const LOCK: &str = "lock";

/// Accepts tasks from flows and people, leases them to endpoints, keeps results
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ControllerCommand {
    /// Make a controller's directory: store, own CA and certificate, an administrator's token
    Init(InitArgs),
    /// Serve until SIGTERM or Ctrl-C
    Serve(ServeArgs),
    /// Make a certificate of the controller's own CA, for a client or an endpoint
    Certify(CertifyArgs),
    /// Copy the store, also while the controller serves
    Backup(BackupArgs),
    /// Put a copy in the place of the store of a controller that does not serve
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BackupArgs {
    /// The controller's directory
    directory: PathBuf,
    /// The new file
    #[arg(value_name = "FILE")]
    into: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The controller's directory
    directory: PathBuf,
    /// The copy that `backup` made
    #[arg(value_name = "FILE")]
    copy: PathBuf,
}

impl ControllerCommand {
    /// Whether it runs on when whoever started it has gone.
    pub(in crate::cli) fn is_lasting(&self) -> bool {
        matches!(self, Self::Serve(_))
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CertifyArgs {
    /// The controller's directory
    directory: PathBuf,
    /// Whose it is
    #[arg(long)]
    name: EndpointName,
    /// Where NAME.pem and NAME.key are made
    #[arg(long, value_name = "DIR", default_value = ".")]
    into: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InitArgs {
    /// Where the controller keeps its state
    directory: PathBuf,
    /// Who the administrator's token is for
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: Subject,
    /// Names and addresses under which the controller is reached, for its certificate; localhost, 127.0.0.1 and this
    /// computer's name are added
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    host: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// The directory that `init` made
    directory: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], PORT)))]
    listen: SocketAddr,
    /// Certificate chain, PEM; with --key [default: the one that `init` made]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Have whoever connects show a certificate of this CA besides the token, PEM: mutual TLS; `ca.pem` of the directory
    /// for those that `certify` made
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Leases on tasks last so long: attempts that are not renewed, since their endpoint is gone, are stopped then and
    /// their tasks given out anew
    #[arg(long, value_name = "SECONDS", default_value_t = Policy::default().lease.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    lease: u64,
    /// Serve without TLS, on a loopback address only: for demos and tests
    #[arg(long, conflicts_with_all = ["certificate", "client_ca"])]
    plain: bool,
}

/// Runs the command.
pub(in crate::cli) fn run(command: &ControllerCommand) -> Result<Exit, Failure> {
    match command {
        ControllerCommand::Init(args) => wait(init(args)),
        ControllerCommand::Serve(args) => several(serving(args)),
        ControllerCommand::Certify(args) => certify(args),
        ControllerCommand::Backup(BackupArgs { directory, into }) => {
            backup_sqlite(&store_of(directory)?, into).map_err(ServiceError::Store)?;
            output::stdout(into.display())?;
            Ok(Exit::Success)
        }
        ControllerCommand::Restore(RestoreArgs { directory, copy }) => {
            let place = store_of(directory)?;
            let _nobody_serves = lock(directory)?;
            restore_sqlite(copy, &place).map_err(ServiceError::Store)?;
            output::note("tokens are as they were then: revoke again what was revoked since");
            output::stdout(place.display())?;
            Ok(Exit::Success)
        }
    }
}

/// The store's file of a directory that is a controller's.
fn store_of(directory: &Path) -> Result<PathBuf, ServiceError> {
    let place = directory.join(STORE);
    match place.exists() {
        true => Ok(place),
        false => Err(ServiceError::NoDirectory { path: directory.to_owned() }),
    }
}

async fn init(InitArgs { directory, admin, host }: &InitArgs) -> Result<Exit, Failure> {
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(ServiceError::Exists { path: directory.clone() }.into());
    }
    // made beside it, and renamed when it is whole: nothing is in the way of another try
    let whole = std::path::absolute(directory).map_err(|e| file("find", directory, e))?;
    let parent = whole.parent().unwrap_or(&whole);
    fs::create_dir_all(parent).map_err(|e| file("create", parent, e))?;
    // for its owner alone: whoever reads the store sees everybody's tasks
    let private = fs::Permissions::from_mode(0o700);
    let new = tempfile::Builder::new().prefix(".controller-").permissions(private).tempdir_in(parent);
    let new = new.map_err(|e| file("create a directory in", parent, e))?;
    fill(new.path(), admin, host).await?;
    let renamed = fs::rename(new.path(), &whole).and_then(|()| File::open(parent)?.sync_all());
    renamed.map_err(|e| file("create", directory, e))?;
    // under its name it stays
    let _under_its_first_name = new.keep();
    output::note(format_args!("the administrator's token is in {}", directory.join(ADMIN_TOKEN).display()));
    output::stdout(directory.display())?;
    Ok(Exit::Success)
}

/// Makes what is in a controller's directory.
async fn fill(directory: &Path, admin: &Subject, host: &[String]) -> Result<(), Failure> {
    let store = open_store(directory).await?;
    let roles = vec![Role::Submit, Role::View, Role::Operate, Role::Endpoint];
    let (_, secret) = token::make(&store, admin.clone(), roles, Vec::new(), None).await?;
    let local = [host_name(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let hosts: Vec<String> = host.iter().cloned().chain(local).collect();
    let Certificates { ca, ca_key, server, server_key } =
        certificate::make(&hosts).map_err(ServiceError::Certificate)?;
    for (name, content) in [(CA, &ca), (CA_KEY, &ca_key), (CERTIFICATE, &server), (KEY, &server_key)] {
        secret_file(&directory.join(name), content.as_bytes())?;
    }
    secret_file(&directory.join(ADMIN_TOKEN), format!("{}\n", secret.reveal()).as_bytes())?;
    store.close().await;
    Ok(())
}

async fn serving(args: &ServeArgs) -> Result<Exit, Failure> {
    logging::init(false, Form::Human);
    open_as_many_as_allowed();
    give_back_what_is_free();
    if args.plain && !args.listen.ip().is_loopback() {
        return Err(ServiceError::Plain { address: args.listen.to_string() }.into());
    }
    let made = |name: &str| args.directory.join(name);
    store_of(&args.directory)?;
    let tls = if args.plain {
        None
    } else {
        let certificate = args.certificate.clone().unwrap_or_else(|| made(CERTIFICATE));
        let identity = identity(&certificate, args.key.as_deref().unwrap_or(&made(KEY)))?;
        Some(Tls { identity, client_ca: args.client_ca.as_deref().map(read).transpose()? })
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let services = Services::new(tls).map_err(ServiceError::Serve)?;
    let lock = lock(&args.directory)?;
    let policy = Policy::default().with_lease(Duration::from_secs(args.lease));
    let controller = Controller::start(open_store(&args.directory).await?, Arc::new(LocalBus::default()), policy);
    let controller = Arc::new(controller.await.map_err(ServiceError::Store)?);
    let mark = StoreMark::of(&args.directory);
    let newest = controller.newest_event().await.map_err(ServiceError::Store)?;
    if let Err(error) = mark.renew(newest) {
        tracing::warn!(%error, "how far the store has come is not noted");
    }
    let refused = |e| file("listen on", Path::new(&args.listen.to_string()), e);
    let listener = TcpListener::bind(args.listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let tasks = Tasks::default();
    controller.run(&tasks);
    tasks.spawn("store mark", mark.keep(Arc::clone(&controller), tasks.stopping()));
    let stopping = tasks.stopping();
    tasks.spawn("signals", async move { until_signalled("controller", &stopping).await });
    output::stdout(format_args!("{scheme}://{address}"))?;
    let served = services.serve(Arc::clone(&controller), listener, tasks.stopping()).await;
    tasks.stop();
    tasks.join().await;
    close(controller).await;
    drop(lock);
    served.map_err(ServiceError::Serve)?;
    Ok(Exit::Success)
}

/// Closes the store, so that its file is whole without what lies beside it. Sessions that end may have it a moment longer.
async fn close(mut controller: Arc<Controller<SqliteStore>>) {
    let begun = Instant::now();
    while begun.elapsed() < CLOSING {
        match Arc::try_unwrap(controller) {
            Ok(controller) => return controller.into_store().close().await,
            Err(shared) => controller = shared,
        }
        tokio::time::sleep(LOOK).await;
    }
    tracing::info!("somebody still reads: the store's log stays beside it");
}

fn certify(CertifyArgs { directory, name, into }: &CertifyArgs) -> Result<Exit, Failure> {
    let ca_key = text(&directory.join(CA_KEY))?;
    let ServerIdentity { certificates, key } =
        certificate::certify(name.as_str(), &ca_key).map_err(ServiceError::Certificate)?;
    let [certificate_file, key_file] = ["pem", "key"].map(|kind| into.join(format!("{name}.{kind}")));
    secret_file(&key_file, &key)?;
    secret_file(&certificate_file, &certificates)?;
    output::stdout(certificate_file.display())?;
    output::stdout(key_file.display())?;
    Ok(Exit::Success)
}

/// The store of a controller's directory.
pub(super) async fn open_store(directory: &Path) -> Result<SqliteStore, ServiceError> {
    Ok(open_sqlite(&directory.join(STORE), Clock::start()).await?)
}

/// Makes sure that only this process serves the directory.
fn lock(directory: &Path) -> Result<Lock, ServiceError> {
    let path = directory.join(LOCK);
    Lock::take(&path).map_err(|error| match error {
        LockError::Held { holder } => ServiceError::Locked { path: directory.to_owned(), holder },
        LockError::Io(source) => file("lock", &path, source),
    })
}

/// Writes a file that only its owner reads, and that is not there yet.
fn secret_file(path: &Path, content: &[u8]) -> Result<(), ServiceError> {
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut out = new.map_err(|e| file("create", path, e))?;
    out.write_all(content).and_then(|()| out.sync_all()).map_err(|e| file("write", path, e))
}
