//! `speckled endpoint list`: the endpoints that a controller knows.

use clap::Args;
use serde_json::json;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::service::{FormArg, OutputForm, RemoteArgs, ServiceError};
use crate::rpc::view::EndpointView;
use crate::runtime::clock::Clock;
use crate::task::time::Moment;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Lists them.
pub(super) async fn list(ListArgs { form, remote }: ListArgs) -> Result<Exit, Failure> {
    let endpoints = remote.connect().await?.list_endpoints().await.map_err(ServiceError::Client)?;
    let now = Clock::start().now();
    match form.output {
        OutputForm::Json => output::json(&json!(endpoints))?,
        OutputForm::Quiet => endpoints.iter().try_for_each(|endpoint| output::stdout(endpoint.id))?,
        OutputForm::Human => endpoints.iter().try_for_each(|endpoint| output::stdout(line(endpoint, now)))?,
    }
    Ok(Exit::Success)
}

fn line(endpoint: &EndpointView, now: Moment) -> String {
    let EndpointView { id, name, owner, group, online, host, seen, status: _ } = endpoint;
    let group = group.as_ref().map(|group| format!(" for {group}")).unwrap_or_default();
    let state = match online {
        true => format!("online on {host}"),
        false => format!("offline, last heard {} s ago", now.since(*seen).as_secs()),
    };
    format!("{id}  {:<20} {state}; {owner}'s{group}", name.as_str())
}
