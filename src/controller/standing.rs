//! Whether somebody whose stream is open may go on: his token is looked at again several times a lease, and when it
//! expires. What he may do is decided in `access`.

use tokio::time::sleep;

use super::access::{Caller, Denied};
use super::{Controller, ControllerError};
use crate::store::Store;

impl<S: Store> Controller<S> {
    /// Waits until a caller may not go on: his token was revoked or changed, has expired, or cannot be looked at. Nothing
    /// is lost when it is dropped.
    pub async fn until_denied(&self, caller: &Caller) -> ControllerError {
        // so that a change counts within a heartbeat
        let period = self.policy.heartbeat / 2;
        loop {
            let left = caller.expires().map(|end| end.since(self.store.now()));
            sleep(left.map_or(period, |left| left.min(period))).await;
            match self.still(caller).await {
                Ok(()) => {}
                Err(error) => return error,
            }
        }
    }

    async fn still(&self, caller: &Caller) -> Result<(), ControllerError> {
        let record = self.store.token(caller.digest()).await?;
        match Caller::new(record, self.store.now())? == *caller {
            true => Ok(()),
            false => Err(Denied::Changed(caller.subject().clone()).into()),
        }
    }
}
