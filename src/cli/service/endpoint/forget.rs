//! `speckled endpoint forget`: has the controller forget an endpoint that is not used any more.

use clap::Args;
use serde_json::json;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::service::{FormArg, OutputForm, RemoteArgs, ServiceError};

#[derive(Debug, Args)]
pub(in crate::cli) struct ForgetArgs {
    /// Its id or name
    endpoint: String,
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Forgets it.
pub(super) async fn forget(ForgetArgs { endpoint, form, remote }: ForgetArgs) -> Result<Exit, Failure> {
    let mut client = remote.connect().await?;
    let id = client.forget_endpoint(&endpoint, &[]).await.map_err(ServiceError::Client)?;
    match form.output {
        OutputForm::Json => output::json(&json!({ "id": id }))?,
        OutputForm::Quiet => output::stdout(id)?,
        OutputForm::Human => output::note(format_args!("endpoint {endpoint} ({id}) is forgotten")),
    }
    Ok(Exit::Success)
}
