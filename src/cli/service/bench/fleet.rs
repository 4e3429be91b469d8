//! Endpoints that have no tasks and say every half a minute that they are there: what a facility's controller does all
//! day.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::site::Site;
use crate::cli::exit::Failure;
use crate::cli::service::ServiceError;
use crate::endpoint::controller_link::{ControllerConnection, DialController};
use crate::protocol::session::{FromEndpoint, Registration};
use crate::rpc::controller_link::{ControllerDial, ControllerSource};
use crate::runtime::files::open_as_many_as_allowed;
use crate::runtime::ids;
use crate::runtime::tasks::Tasks;
use crate::task::names::EndpointName;
use crate::task::pool::{Lane, PoolKey};

/// Processors that the controller needs for so many endpoints. Their heartbeats are spread, as those of endpoints are
/// that were not started together.
pub(super) async fn cores(site: &Site, endpoints: usize, time: Duration) -> Result<Option<f64>, Failure> {
    open_as_many_as_allowed();
    let dial = ControllerDial { controller: ControllerSource::Known(site.target.clone()) };
    let tasks = Tasks::default();
    let begun = Instant::now();
    for number in 0..endpoints {
        let line = dial.dial(&registration(number)?).await.map_err(|error| ServiceError::Bench(error.to_string()))?;
        let first = line.heartbeat.mul_f64(number as f64 / endpoints as f64);
        let stopping = tasks.stopping();
        tasks.spawn("simulated endpoint", async move {
            stopping.run_until_cancelled(stay(line, begun + first)).await;
        });
    }
    let (begun, before) = (Instant::now(), site.controller.worked());
    sleep(time).await;
    let (after, took) = (site.controller.worked(), begun.elapsed());
    tasks.stop();
    tasks.join().await;
    Ok(after.zip(before).map(|(after, before)| (after - before).as_secs_f64() / took.as_secs_f64()))
}

fn registration(number: usize) -> Result<Registration, ServiceError> {
    let name: EndpointName = format!("endpoint-{number}").parse().map_err(ServiceError::Name)?;
    let (endpoint, session) = (ids::endpoint(), ids::session());
    Ok(Registration { endpoint, name, group: None, session, host: "simulated".into(), replaces: Vec::new() })
}

/// Says once what it takes, and then for ever that it is there.
async fn stay(line: ControllerConnection, first: Instant) {
    let ControllerConnection { heartbeat, say, mut hear, .. } = line;
    let status = status();
    let credit = FromEndpoint::Credit([(Lane::Login, 4), (Lane::Pool(PoolKey::DEFAULT), 4)].into());
    let mut due = first.max(Instant::now());
    // a controller that has gone away is noticed by its silence
    let _gone = say.send((0, credit)).await;
    for number in 1.. {
        sleep_until(due).await;
        due += heartbeat;
        let beat = FromEndpoint::Heartbeat { status: status.clone(), attempts: Vec::new() };
        if say.send((number, beat)).await.is_err() {
            return;
        }
        while hear.try_recv().is_ok() {}
    }
}

/// About as long as that of an endpoint with four workers.
fn status() -> String {
    let worker = serde_json::json!({ "worker": ids::worker(), "host": "nid000001", "connected": true, "since_s": 1000,
        "slots": [4, 2], "login_slots": [4, 0], "pid": 4242, "block": ids::block() });
    serde_json::json!({ "workers": vec![worker; 4], "uptime_s": 1000, "service": "open" }).to_string()
}
