//! `speckled token`: makes, lists and revokes tokens, in the controller's directory. Whoever may write there is its
//! administrator; nothing of this goes over the wire.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::controller::open_store;
use super::{FormArg, OutputForm, ServiceError, file, wait};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::controller::token::Secret;
use crate::ids::TokenId;
use crate::runtime::clock::Clock;
use crate::runtime::ids;
use crate::store::{Role, Store, TokenRecord};
use crate::task::names::{Group, Subject};
use crate::task::time::Moment;

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// Tokens: who may do what
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TokenCommand {
    /// Make a token; its secret is printed once
    Create(CreateArgs),
    /// List tokens, without their secrets
    List(ListArgs),
    /// End a token
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// The controller's directory
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Whose it is
    #[arg(long, value_name = "NAME")]
    subject: Subject,
    /// What it allows
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    role: Vec<RoleName>,
    /// Groups whose tasks and endpoints it is for
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    group: Vec<Group>,
    /// Days until it ends by itself
    #[arg(long, value_name = "N")]
    days: Option<u32>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// The controller's directory
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    form: FormArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArgs {
    /// The controller's directory
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Its id, as `list` shows it
    id: TokenId,
}

/// A role on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Submit tasks and cancel one's own
    Submit,
    /// See tasks and endpoints
    View,
    /// Cancel anybody's tasks and stop endpoints
    Operate,
    /// Be an endpoint
    Endpoint,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Submit => Self::Submit,
            RoleName::View => Self::View,
            RoleName::Operate => Self::Operate,
            RoleName::Endpoint => Self::Endpoint,
        }
    }
}

/// Runs the command.
pub(in crate::cli) fn run(command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Create(args) => wait(create(args)),
        TokenCommand::List(args) => wait(list(args)),
        TokenCommand::Revoke(args) => wait(revoke(args)),
    }
}

/// Makes a token and keeps what finds it.
pub(super) async fn make(
    store: &impl Store,
    subject: Subject,
    roles: Vec<Role>,
    groups: Vec<Group>,
    days: Option<u32>,
) -> Result<(TokenId, Secret), ServiceError> {
    let (id, secret, made) = (ids::token(), Secret::generate()?, Clock::start().now());
    let expires = days.map(|days| made.after(Duration::from_secs(u64::from(days) * DAY)));
    let digest = secret.digest();
    store.add_token(TokenRecord { id, digest, subject, roles, groups, made, expires, revoked: None }).await?;
    Ok((id, secret))
}

async fn create(args: CreateArgs) -> Result<Exit, Failure> {
    let CreateArgs { directory, subject, role, group, days } = args;
    let store = existing(&directory).await?;
    let roles = role.into_iter().map(Role::from).collect();
    let (id, secret) = make(&store, subject, roles, group, days).await?;
    output::note(format_args!("token {id}; its secret is shown this once"));
    output::stdout(secret.reveal())?;
    Ok(Exit::Success)
}

async fn list(ListArgs { directory, form: FormArg { output: form } }: ListArgs) -> Result<Exit, Failure> {
    let tokens = existing(&directory).await?.tokens().await.map_err(ServiceError::Store)?;
    let now = Clock::start().now();
    match form {
        OutputForm::Json => {
            let all: Vec<_> = tokens.iter().map(|token| shown(token, now)).collect();
            output::json(&json!(all))?;
        }
        OutputForm::Quiet => tokens.iter().try_for_each(|token| output::stdout(token.id))?,
        OutputForm::Human => {
            for token in &tokens {
                let roles = token.roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect::<Vec<_>>();
                let groups = token.groups.iter().map(Group::as_str).collect::<Vec<_>>();
                let state = state(token, now);
                output::stdout(format_args!(
                    "{}  {:<16} {:<8} {:<28} {}",
                    token.id,
                    token.subject.as_str(),
                    state,
                    roles.join(","),
                    groups.join(",")
                ))?;
            }
        }
    }
    Ok(Exit::Success)
}

async fn revoke(RevokeArgs { directory, id }: RevokeArgs) -> Result<Exit, Failure> {
    let now = Clock::start().now();
    if !existing(&directory).await?.revoke_token(id, now).await.map_err(ServiceError::Store)? {
        return Err(ServiceError::NoTokenOf(id).into());
    }
    Ok(Exit::Success)
}

/// The store of a directory that is a controller's: a mistyped one is not to become one.
async fn existing(directory: &std::path::Path) -> Result<impl Store, ServiceError> {
    if !directory.is_dir() {
        let source = std::io::ErrorKind::NotFound.into();
        return Err(file("open the controller's directory", directory, source));
    }
    open_store(directory).await
}

fn state(token: &TokenRecord, now: Moment) -> &'static str {
    match (token.revoked, token.expires) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now => "expired",
        (None, Some(_) | None) => "valid",
    }
}

fn shown(token: &TokenRecord, now: Moment) -> serde_json::Value {
    let TokenRecord { id, digest: _, subject, roles, groups, made, expires, revoked } = token;
    json!({
        "id": id, "subject": subject, "roles": roles, "groups": groups, "state": state(token, now),
        "made_ms": made, "expires_ms": expires, "revoked_ms": revoked,
    })
}
