//! Attempts: their ids, how they end, what they leave, the leases that begin them.

use std::time::Duration;

use super::{WireError, known, named, required};
use crate::ids::{AttemptId, AttemptNumber};
use crate::protocol::session::{Offer, Reported};
use crate::rpc::wire;
use crate::task::estimate::Measure;
use crate::task::failure::{Failure, Fault, Lack, Loss, Unfit};
use crate::task::life::Outcome;
use crate::task::pool::PoolKey;
use crate::task::result::{LARGEST_DOCUMENT, LogTail, TaskResult};
use crate::task::time::whole_millis;

/// Bytes of a log's tail: some screens.
const LONGEST_TAIL: usize = 64 << 10;

/// Files of one result.
const MOST_FILES: usize = 10_000;

impl TryFrom<wire::AttemptId> for AttemptId {
    type Error = WireError;

    fn try_from(attempt: wire::AttemptId) -> Result<Self, WireError> {
        let wire::AttemptId { task, number } = attempt;
        let number =
            AttemptNumber::new(number).ok_or_else(|| WireError::new("number", "is 0; attempts count from 1"))?;
        Ok(Self { task: named("task", task)?, number })
    }
}

impl From<AttemptId> for wire::AttemptId {
    fn from(attempt: AttemptId) -> Self {
        let AttemptId { task, number } = attempt;
        Self { task: task.to_string(), number: number.get() }
    }
}

impl TryFrom<wire::Report> for Reported {
    type Error = WireError;

    fn try_from(report: wire::Report) -> Result<Self, WireError> {
        use wire::report::Outcome as Wire;
        let wire::Report { attempt, outcome, result } = report;
        let outcome = match required("outcome", outcome)? {
            Wire::Succeeded(wire::Succeeded {}) => Outcome::Succeeded,
            Wire::Failed(failure) => Outcome::Failed(Failure::try_from(failure).map_err(|e| e.within("failed"))?),
            Wire::Cancelled(wire::Cancelled {}) => Outcome::Cancelled,
            Wire::Lost(loss) => Outcome::Lost(known::<wire::Loss>("lost", loss)?.into()),
            Wire::Unfit(unfit) => Outcome::Lost(Loss::Unfit(Unfit::try_from(unfit)?)),
        };
        let attempt = AttemptId::try_from(required("attempt", attempt)?).map_err(|error| error.within("attempt"))?;
        let result = TaskResult::try_from(result.unwrap_or_default()).map_err(|error| error.within("result"))?;
        Ok(Self { attempt, outcome, result })
    }
}

impl From<Reported> for wire::Report {
    fn from(report: Reported) -> Self {
        use wire::report::Outcome as Wire;
        let Reported { attempt, outcome, result } = report;
        let outcome = match outcome {
            Outcome::Succeeded => Wire::Succeeded(wire::Succeeded {}),
            Outcome::Failed(failure) => Wire::Failed(failure.into()),
            Outcome::Cancelled => Wire::Cancelled(wire::Cancelled {}),
            Outcome::Lost(loss) => lost(loss),
        };
        Self { attempt: Some(attempt.into()), outcome: Some(outcome), result: Some(result.into()) }
    }
}

impl TryFrom<wire::Failure> for Failure {
    type Error = WireError;

    fn try_from(failure: wire::Failure) -> Result<Self, WireError> {
        let wire::Failure { fault, message } = failure;
        let fault = match known::<wire::Fault>("fault", fault)? {
            wire::Fault::Unspecified => return Err(WireError::new("fault", "is missing")),
            wire::Fault::Input => Fault::Input,
            wire::Fault::Program => Fault::Program,
            wire::Fault::Deadline => Fault::Deadline,
            wire::Fault::Crashes => Fault::Crashes,
        };
        Ok(Self::new(fault, &message))
    }
}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        let fault = match failure.fault {
            Fault::Input => wire::Fault::Input,
            Fault::Program => wire::Fault::Program,
            Fault::Deadline => wire::Fault::Deadline,
            Fault::Crashes => wire::Fault::Crashes,
        };
        Self { fault: fault.into(), message: failure.message().to_owned() }
    }
}

impl From<wire::Loss> for Loss {
    fn from(loss: wire::Loss) -> Self {
        match loss {
            // an endpoint that does not say why gives the task back
            wire::Loss::Unspecified | wire::Loss::Returned => Self::Returned,
            wire::Loss::LeaseExpired => Self::LeaseExpired,
            wire::Loss::Walltime => Self::Walltime,
            wire::Loss::Preempted => Self::Preempted,
            wire::Loss::NodeLost => Self::NodeLost,
            wire::Loss::GpuFault => Self::GpuFault,
            wire::Loss::Stopped => Self::Stopped,
            wire::Loss::Crashed => Self::Crashed,
        }
    }
}

fn lost(loss: Loss) -> wire::report::Outcome {
    let loss = match loss {
        Loss::LeaseExpired => wire::Loss::LeaseExpired,
        Loss::Returned => wire::Loss::Returned,
        Loss::Walltime => wire::Loss::Walltime,
        Loss::Preempted => wire::Loss::Preempted,
        Loss::NodeLost => wire::Loss::NodeLost,
        Loss::GpuFault => wire::Loss::GpuFault,
        Loss::Stopped => wire::Loss::Stopped,
        Loss::Crashed => wire::Loss::Crashed,
        Loss::Unfit(unfit) => {
            let lack = match unfit.lack {
                Lack::Root => wire::Lack::Root,
                Lack::Scratch => wire::Lack::Scratch,
                Lack::Executor => wire::Lack::Executor,
            };
            let message = unfit.message().to_owned();
            return wire::report::Outcome::Unfit(wire::Unfit { lack: lack.into(), message });
        }
    };
    wire::report::Outcome::Lost(loss.into())
}

impl TryFrom<wire::Unfit> for Unfit {
    type Error = WireError;

    fn try_from(unfit: wire::Unfit) -> Result<Self, WireError> {
        let wire::Unfit { lack, message } = unfit;
        let lack = match known::<wire::Lack>("unfit.lack", lack)? {
            wire::Lack::Unspecified => return Err(WireError::new("unfit.lack", "is missing")),
            wire::Lack::Root => Lack::Root,
            wire::Lack::Scratch => Lack::Scratch,
            wire::Lack::Executor => Lack::Executor,
        };
        Ok(Self::new(lack, &message))
    }
}

impl TryFrom<wire::TaskResult> for TaskResult {
    type Error = WireError;

    fn try_from(result: wire::TaskResult) -> Result<Self, WireError> {
        let wire::TaskResult { files, document, log_file, log_tail, gpu_energy_mj, measure } = result;
        if files.len() > MOST_FILES {
            return Err(WireError::new("files", format!("{} files; at most {MOST_FILES} are allowed", files.len())));
        }
        if document.len() > LARGEST_DOCUMENT {
            let reason =
                format!("{} bytes; at most {LARGEST_DOCUMENT} are allowed, keep more in a file", document.len());
            return Err(WireError::new("document", reason));
        }
        if !document.is_empty() {
            serde_json::from_str::<serde::de::IgnoredAny>(&document)
                .map_err(|error| WireError::new("document", format!("is not JSON: {error}")))?;
        }
        if log_tail.len() > LONGEST_TAIL {
            let reason = format!("{} bytes; at most {LONGEST_TAIL} are allowed", log_tail.len());
            return Err(WireError::new("log_tail", reason));
        }
        let log = (!log_file.is_empty()).then(|| LogTail { file: log_file.into(), lines: log_tail });
        Ok(Self {
            files: files.into_iter().map(Into::into).collect(),
            log,
            document: (!document.is_empty()).then_some(document),
            gpu_energy_mj,
            measure: measure.map(|wire::Measure { bytes, frames, duration_ms }| Measure {
                bytes,
                frames,
                millis: duration_ms,
            }),
        })
    }
}

impl From<TaskResult> for wire::TaskResult {
    fn from(result: TaskResult) -> Self {
        let TaskResult { files, log, document, gpu_energy_mj, measure } = result;
        let (log_file, log_tail) =
            log.map_or_else(Default::default, |LogTail { file, lines }| (file.to_string_lossy().into_owned(), lines));
        Self {
            files: files.iter().map(|file| file.to_string_lossy().into_owned()).collect(),
            document: document.unwrap_or_default(),
            log_file,
            log_tail,
            gpu_energy_mj,
            measure: measure.map(|Measure { bytes, frames, millis }| wire::Measure {
                bytes,
                frames,
                duration_ms: millis,
            }),
        }
    }
}

/// What is left of a time, on the wire: 0 stands for no limit, so that one that is over is a millisecond.
pub(super) fn time_left_ms(left: Option<Duration>) -> u64 {
    left.map_or(0, |left| whole_millis(left).max(1))
}

/// The same from the wire.
pub(super) fn time_left(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

impl TryFrom<wire::Lease> for Offer {
    type Error = WireError;

    fn try_from(lease: wire::Lease) -> Result<Self, WireError> {
        let wire::Lease { attempt, spec, time_left_ms, crashes, pool } = lease;
        Ok(Self {
            pool: if pool.is_empty() {
                PoolKey::DEFAULT
            } else {
                PoolKey::from_bytes(&pool).map_err(|error| WireError::new("pool", error))?
            },
            attempt: required("attempt", attempt)?.try_into().map_err(|error: WireError| error.within("attempt"))?,
            spec: required("spec", spec)?.try_into().map_err(|error: WireError| error.within("spec"))?,
            time_left: time_left(time_left_ms),
            crashes,
        })
    }
}

impl From<Offer> for wire::Lease {
    fn from(offer: Offer) -> Self {
        let Offer { attempt, spec, pool, time_left, crashes } = offer;
        Self {
            pool: if pool.is_default() { Vec::new() } else { pool.bytes().to_vec() },
            attempt: Some(attempt.into()),
            spec: Some(spec.into()),
            time_left_ms: time_left_ms(time_left),
            crashes,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::TaskId;
    use crate::task::spec::TaskSpec;

    fn attempt() -> AttemptId {
        AttemptId { task: TaskId::new(Uuid::from_u128(7)), number: AttemptNumber::FIRST.next() }
    }

    #[test]
    fn reports_survive_the_wire() {
        let result = TaskResult {
            files: vec!["/data/a_results.hdf".into()],
            log: Some(LogTail { file: "/log/1".into(), lines: "a\nb".into() }),
            document: Some(r#"{"frames":3}"#.into()),
            measure: Some(Measure { bytes: 1 << 40, frames: 7, millis: 9 }),
            gpu_energy_mj: Some(0),
        };
        let losses = [
            Loss::LeaseExpired,
            Loss::Returned,
            Loss::Walltime,
            Loss::Preempted,
            Loss::NodeLost,
            Loss::GpuFault,
            Loss::Stopped,
            Loss::Crashed,
            Loss::Unfit(Unfit::new(Lack::Root, "the root /data is not there")),
            Loss::Unfit(Unfit::new(Lack::Scratch, "no space")),
            Loss::Unfit(Unfit::new(Lack::Executor, "cannot start")),
        ];
        let failures = [Fault::Input, Fault::Program, Fault::Deadline, Fault::Crashes];
        let outcomes = [Outcome::Succeeded, Outcome::Cancelled]
            .into_iter()
            .chain(losses.map(Outcome::Lost))
            .chain(failures.map(|fault| Outcome::Failed(Failure::new(fault, "why"))));
        for outcome in outcomes {
            let report = Reported { attempt: attempt(), outcome, result: result.clone() };
            assert_eq!(Reported::try_from(wire::Report::from(report.clone())).expect("our own"), report);
        }
    }

    #[test]
    fn leases_survive_the_wire() {
        let lease = |time_left| Offer {
            pool: PoolKey::DEFAULT,
            attempt: attempt(),
            spec: TaskSpec::Nothing,
            time_left,
            crashes: 2,
        };
        for left in [None, Some(Duration::from_millis(9))] {
            assert_eq!(Offer::try_from(wire::Lease::from(lease(left))).expect("our own"), lease(left));
        }
        let over = Offer::try_from(wire::Lease::from(lease(Some(Duration::ZERO)))).expect("our own");
        assert_eq!(over.time_left, Some(Duration::from_millis(1)), "not without a limit");
    }

    #[test]
    fn what_is_too_large_or_no_json_is_refused() {
        let error = |result: wire::TaskResult| TaskResult::try_from(result).expect_err("too much").to_string();
        let large = format!("\"{}\"", "a".repeat(LARGEST_DOCUMENT));
        assert!(error(wire::TaskResult { document: large, ..Default::default() }).contains("at most 1048576"));
        let broken = wire::TaskResult { document: "{".into(), ..Default::default() };
        assert!(error(broken).starts_with("document: is not JSON"));
        let tail = wire::TaskResult { log_tail: "a".repeat(LONGEST_TAIL + 1), ..Default::default() };
        assert!(error(tail).starts_with("log_tail: "));
        let zero = wire::AttemptId { task: attempt().task.to_string(), number: 0 };
        assert_eq!(AttemptId::try_from(zero).expect_err("0").to_string(), "number: is 0; attempts count from 1");
    }
}
