//! The messages between worker and endpoint.

use std::time::Duration;

use super::attempt::{time_left, time_left_ms};
use super::session::{attempts, progress, stops, wired, wired_progress};
use super::spec::{checked_path, path_text};
use super::{WireError, host_name, named, required};
use crate::protocol::session::Reported;
use crate::protocol::worker::{FromWorker, GpuFacts, Handout, Joining, Room, ToWorker, WorkerFacts};
use crate::rpc::wire;
use crate::task::result::{EarlierResult, FileMark, MOST_FILES, NamedResult};
use crate::task::time::whole_millis;

/// Bytes of the list of a worker's GPUs: some hundred GPUs, and little beside the status that it goes into.
const LARGEST_GPUS: usize = 64 << 10;

/// Attempts of a worker that joins: more than it is ever given before its reports are recorded.
const MOST_ATTEMPTS: usize = 100_000;

/// Attempts of a worker at once, as the configuration has it.
const MOST_SLOTS: u32 = crate::config::endpoint::MOST_SLOTS;

/// Characters of what is wrong with them.
const LONGEST_TROUBLE: usize = 1000;

/// A worker that introduces itself: its attempts may come in parts.
#[derive(Debug)]
pub(in crate::rpc) struct Joined {
    joining: Joining,
    more: bool,
}

impl Joined {
    /// The first part.
    ///
    /// # Errors
    /// A field that is missing or wrong, by its place.
    pub(in crate::rpc) fn begin(joining: wire::Joining) -> Result<Self, WireError> {
        // the versions were agreed on before
        let wire::Joining { versions: _, worker, block, host, pid, room: has, attempts: ids, more } = joining;
        let joining = Joining {
            worker: named("joining.worker", worker)?,
            block: named("joining.block", block)?,
            host: host_name(&host),
            pid,
            room: room("joining.room", has)?,
            attempts: attempts("joining.attempts", ids)?,
        };
        Ok(Self { joining, more })
    }

    /// The next part.
    ///
    /// # Errors
    /// What is no attempt, or too many of them.
    pub(in crate::rpc) fn add(&mut self, part: wire::MoreAttempts) -> Result<(), WireError> {
        let wire::MoreAttempts { attempts: ids, more } = part;
        self.joining.attempts.extend(attempts("more_attempts.attempts", ids)?);
        self.more = more;
        match self.joining.attempts.len() > MOST_ATTEMPTS {
            true => {
                Err(WireError::new("more_attempts.attempts", format!("has more than {MOST_ATTEMPTS} with the others")))
            }
            false => Ok(()),
        }
    }

    /// Whether there is another part.
    pub(in crate::rpc) fn more(&self) -> bool {
        self.more
    }

    /// All that came.
    pub(in crate::rpc) fn whole(self) -> Joining {
        self.joining
    }
}

/// How many attempts run at once: a bounded number, so that no worker has an endpoint take all tasks that there are.
fn room(place: &str, room: Option<wire::Room>) -> Result<Room, WireError> {
    let wire::Room { slots, login } = required(place, room)?;
    match slots.max(login) > MOST_SLOTS {
        true => Err(WireError::new(place, format!("is more than {MOST_SLOTS}"))),
        false => Ok(Room { slots, login }),
    }
}

/// The introduction, with the versions that this program speaks.
pub(in crate::rpc) fn wired_joining(joining: Joining, versions: wire::Versions) -> wire::Joining {
    let Joining { worker, block, host, pid, room: Room { slots, login }, attempts } = joining;
    wire::Joining {
        versions: Some(versions),
        worker: worker.to_string(),
        block: block.to_string(),
        host,
        pid,
        room: Some(wire::Room { slots, login }),
        attempts: wired(attempts),
        more: false,
    }
}

impl TryFrom<wire::FromWorker> for FromWorker {
    type Error = WireError;

    fn try_from(message: wire::FromWorker) -> Result<Self, WireError> {
        use wire::from_worker::Message as Wire;
        Ok(match required("message", message.message)? {
            Wire::Joining(_) => return Err(WireError::new("joining", "comes once, as the first message")),
            Wire::MoreAttempts(_) => return Err(WireError::new("more_attempts", "comes right after joining")),
            Wire::Started(wire::Started { attempts: ids }) => Self::Started(attempts("started.attempts", ids)?),
            Wire::Progress(message) => Self::Progress(progress(message)?),
            Wire::Naming(wire::Naming { attempt, path, file }) => {
                let within = |error: WireError| error.within("naming");
                let attempt = required("attempt", attempt).and_then(TryInto::try_into).map_err(within)?;
                let path = checked_path("path", path).map_err(within)?;
                let file = required("file", file).map_err(within)?.into();
                Self::Naming { attempt, result: NamedResult { path, file } }
            }
            Wire::Reports(wire::Reports { reports }) => {
                let reports = reports.into_iter().map(Reported::try_from).collect::<Result<_, _>>();
                Self::Reports(reports.map_err(|error| error.within("reports"))?)
            }
            Wire::Beat(wire::Beat { number }) => Self::Beat { number },
            Wire::Facts(wire::WorkerFacts { room: has, gpus, trouble }) => {
                let room = room("facts.room", has)?;
                if gpus.len() > LARGEST_GPUS {
                    return Err(WireError::new("facts.gpus", "is too long for a list of a computer's GPUs"));
                }
                let trouble: String = trouble.chars().take(LONGEST_TROUBLE).collect();
                let gpus = serde_json::from_str(&gpus)
                    .map_err(|_| WireError::new("facts.gpus", "is no JSON of a list of GPUs"))?;
                let trouble = Some(trouble).filter(|trouble| !trouble.is_empty());
                Self::Facts(WorkerFacts { room, gpus, trouble })
            }
            Wire::Leaving(wire::Leaving {}) => Self::Leaving,
        })
    }
}

impl From<FromWorker> for wire::FromWorker {
    fn from(message: FromWorker) -> Self {
        use wire::from_worker::Message as Wire;
        let message = match message {
            FromWorker::Started(attempts) => Wire::Started(wire::Started { attempts: wired(attempts) }),
            FromWorker::Progress(progress) => Wire::Progress(wired_progress(progress)),
            FromWorker::Naming { attempt, result: NamedResult { path, file } } => Wire::Naming(wire::Naming {
                attempt: Some(attempt.into()),
                path: path_text(path),
                file: Some(file.into()),
            }),
            FromWorker::Reports(reports) => {
                Wire::Reports(wire::Reports { reports: reports.into_iter().map(Into::into).collect() })
            }
            FromWorker::Beat { number } => Wire::Beat(wire::Beat { number }),
            FromWorker::Facts(WorkerFacts { room: Room { slots, login }, gpus, trouble }) => {
                Wire::Facts(wire::WorkerFacts {
                    room: Some(wire::Room { slots, login }),
                    gpus: gpu_list(gpus),
                    trouble: trouble.unwrap_or_default().chars().take(LONGEST_TROUBLE).collect(),
                })
            }
            FromWorker::Leaving => Wire::Leaving(wire::Leaving {}),
        };
        Self { message: Some(message) }
    }
}

/// The list as JSON, at most as long as it may be: without reasons if it must be, then without the last GPUs.
fn gpu_list(mut gpus: Vec<GpuFacts>) -> String {
    let json = |gpus: &[GpuFacts]| serde_json::to_string(gpus).expect("a list of plain fields is JSON");
    let mut text = json(&gpus);
    if text.len() > LARGEST_GPUS {
        gpus.iter_mut().for_each(|gpu| gpu.reasons.clear());
        text = json(&gpus);
    }
    while text.len() > LARGEST_GPUS && gpus.pop().is_some() {
        text = json(&gpus);
    }
    text
}

impl TryFrom<wire::ToWorker> for ToWorker {
    type Error = WireError;

    fn try_from(message: wire::ToWorker) -> Result<Self, WireError> {
        use wire::to_worker::Message as Wire;
        Ok(match required("message", message.message)? {
            Wire::Welcome(_) => return Err(WireError::new("welcome", "comes once, as the first message")),
            Wire::Work(wire::Work { attempts }) => {
                let handouts = attempts.into_iter().map(Handout::try_from).collect::<Result<_, _>>();
                Self::Work(handouts.map_err(|error| error.within("work"))?)
            }
            Wire::Stop(message) => Self::Stop(stops(message)?),
            Wire::Return(wire::Return { attempts: ids }) => Self::Return(attempts("return.attempts", ids)?),
            Wire::Named(wire::Named { attempts: ids }) => Self::Named(attempts("named.attempts", ids)?),
            Wire::Recorded(wire::Recorded { number: _, attempts: ids }) => {
                Self::Recorded(attempts("recorded.attempts", ids)?)
            }
            Wire::Lease(wire::WorkerLease { number, lasts_ms }) => {
                Self::Lease { number, lasts: Duration::from_millis(lasts_ms) }
            }
            Wire::Leave(wire::Leave {}) => Self::Leave,
        })
    }
}

impl From<ToWorker> for wire::ToWorker {
    fn from(message: ToWorker) -> Self {
        use wire::to_worker::Message as Wire;
        let message = match message {
            ToWorker::Work(handouts) => {
                Wire::Work(wire::Work { attempts: handouts.into_iter().map(Into::into).collect() })
            }
            ToWorker::Stop(stops) => Wire::Stop(wire::Stop { attempts: stops.into_iter().map(Into::into).collect() }),
            ToWorker::Return(attempts) => Wire::Return(wire::Return { attempts: wired(attempts) }),
            ToWorker::Named(attempts) => Wire::Named(wire::Named { attempts: wired(attempts) }),
            ToWorker::Recorded(attempts) => Wire::Recorded(wire::Recorded { number: 0, attempts: wired(attempts) }),
            ToWorker::Lease { number, lasts } => {
                Wire::Lease(wire::WorkerLease { number, lasts_ms: whole_millis(lasts) })
            }
            ToWorker::Leave => Wire::Leave(wire::Leave {}),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<wire::Handout> for Handout {
    type Error = WireError;

    fn try_from(handout: wire::Handout) -> Result<Self, WireError> {
        let wire::Handout { attempt, spec, earlier, time_left_ms } = handout;
        let spec = required("spec", spec)?.try_into().map_err(|error: WireError| error.within("spec"))?;
        let earlier = earlier.map(EarlierResult::try_from).transpose().map_err(|error| error.within("earlier"))?;
        let attempt = required("attempt", attempt)?.try_into()?;
        Ok(Self { attempt, spec, earlier, time_left: time_left(time_left_ms) })
    }
}

impl From<Handout> for wire::Handout {
    fn from(handout: Handout) -> Self {
        let Handout { attempt, spec, earlier, time_left } = handout;
        Self {
            attempt: Some(attempt.into()),
            spec: Some(spec.into()),
            earlier: earlier.map(Into::into),
            time_left_ms: time_left_ms(time_left),
        }
    }
}

impl TryFrom<wire::EarlierResult> for EarlierResult {
    type Error = WireError;

    fn try_from(earlier: wire::EarlierResult) -> Result<Self, WireError> {
        let wire::EarlierResult { path, files } = earlier;
        if files.len() > MOST_FILES {
            return Err(WireError::new("files", format!("are more than {MOST_FILES}")));
        }
        Ok(Self { path: checked_path("path", path)?, files: files.into_iter().map(Into::into).collect() })
    }
}

impl From<EarlierResult> for wire::EarlierResult {
    fn from(earlier: EarlierResult) -> Self {
        let EarlierResult { path, files } = earlier;
        Self { path: path_text(path), files: files.into_iter().map(Into::into).collect() }
    }
}

impl From<wire::FileMark> for FileMark {
    fn from(mark: wire::FileMark) -> Self {
        let wire::FileMark { inode, bytes, modified_ns } = mark;
        Self { inode, bytes, modified_ns }
    }
}

impl From<FileMark> for wire::FileMark {
    fn from(mark: FileMark) -> Self {
        let FileMark { inode, bytes, modified_ns } = mark;
        Self { inode, bytes, modified_ns }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{AttemptId, AttemptNumber, BlockId, TaskId, WorkerId};
    use crate::protocol::session::{Progress, Stop, StopReason};
    use crate::rpc::version;
    use crate::task::life::Outcome;
    use crate::task::result::TaskResult;
    use crate::task::spec::TaskSpec;

    fn attempt() -> AttemptId {
        AttemptId { task: TaskId::new(Uuid::from_u128(7)), number: AttemptNumber::FIRST }
    }

    fn result() -> NamedResult {
        NamedResult { path: "/data/r.hdf".into(), file: FileMark { inode: 1, bytes: 2, modified_ns: -3 } }
    }

    #[test]
    fn what_a_worker_says_survives_the_wire() {
        let joining = Joining {
            worker: WorkerId::new(Uuid::from_u128(1)),
            block: BlockId::new(Uuid::from_u128(2)),
            host: "nid001".into(),
            pid: 42,
            room: Room { slots: 2, login: 1 },
            attempts: vec![attempt()],
        };
        let joined = Joined::begin(wired_joining(joining.clone(), version::own())).expect("our own");
        assert!(!joined.more());
        assert_eq!(joined.whole(), joining);
        let report = Reported { attempt: attempt(), outcome: Outcome::Cancelled, result: TaskResult::default() };
        for message in [
            FromWorker::Started(vec![attempt()]),
            FromWorker::Progress(Progress { attempt: attempt(), step: "correlating".into(), done: 1, total: 2 }),
            FromWorker::Naming { attempt: attempt(), result: result() },
            FromWorker::Reports(vec![report]),
            FromWorker::Beat { number: 3 },
            FromWorker::Facts(WorkerFacts {
                room: Room { slots: 1, login: 2 },
                gpus: Vec::new(),
                trouble: Some("no".into()),
            }),
            FromWorker::Leaving,
        ] {
            assert_eq!(FromWorker::try_from(wire::FromWorker::from(message.clone())).expect("our own"), message);
        }
        assert!(FromWorker::try_from(wire::FromWorker { message: None }).is_err());
    }

    #[test]
    fn what_a_worker_has_is_bounded() {
        let facts = |slots| WorkerFacts { room: Room { slots, login: 0 }, ..WorkerFacts::default() };
        let said = |facts| FromWorker::try_from(wire::FromWorker::from(FromWorker::Facts(facts)));
        assert!(said(facts(4096)).is_ok());
        assert!(said(facts(4097)).expect_err("too many").to_string().starts_with("facts.room"));
        let gpu = |reason: &str| GpuFacts {
            uuid: "GPU-1".into(),
            name: "A100".into(),
            pci: "0".into(),
            state: crate::protocol::worker::GpuState::Healthy,
            reasons: vec![reason.to_owned()],
            utilization_percent: None,
            memory_used: None,
            memory_total: None,
            temperature_c: None,
            power_mw: None,
        };
        for (number, reason, heard) in [(8, "hot", 8), (8, &*"x".repeat(20_000), 8), (5000, "hot", 300)] {
            let facts = WorkerFacts { gpus: vec![gpu(reason); number], trouble: Some("x".repeat(5000)), ..facts(1) };
            let Ok(FromWorker::Facts(WorkerFacts { gpus, .. })) = said(facts) else { panic!("{number} are not heard") };
            assert!(gpus.len() >= heard, "{} of {number}", gpus.len());
        }
        let mut joined = Joined::begin(wired_joining(
            Joining {
                worker: WorkerId::new(Uuid::from_u128(1)),
                block: BlockId::new(Uuid::from_u128(2)),
                host: "nid001".into(),
                pid: 42,
                room: Room::default(),
                attempts: Vec::new(),
            },
            version::own(),
        ))
        .expect("our own");
        let part = wire::MoreAttempts { attempts: wired(vec![attempt(); MOST_ATTEMPTS / 2 + 1]), more: true };
        joined.add(part.clone()).expect("few enough");
        assert!(joined.add(part).is_err());
    }

    #[test]
    fn what_an_endpoint_says_survives_the_wire() {
        for message in [
            ToWorker::Work(vec![Handout {
                attempt: attempt(),
                spec: TaskSpec::Nothing,
                earlier: None,
                time_left: None,
            }]),
            ToWorker::Work(vec![Handout {
                attempt: attempt(),
                spec: TaskSpec::Nothing,
                earlier: Some(EarlierResult::new(result())),
                time_left: Some(Duration::from_millis(7)),
            }]),
            ToWorker::Named(vec![attempt()]),
            ToWorker::Stop(vec![Stop { attempt: attempt(), reason: StopReason::Fenced }]),
            ToWorker::Return(vec![attempt()]),
            ToWorker::Recorded(vec![attempt()]),
            ToWorker::Lease { number: 3, lasts: Duration::from_millis(90_500) },
            ToWorker::Leave,
        ] {
            assert_eq!(ToWorker::try_from(wire::ToWorker::from(message.clone())).expect("our own"), message);
        }
        assert!(ToWorker::try_from(wire::ToWorker { message: None }).is_err());
        let earlier = EarlierResult { files: vec![result().file; MOST_FILES + 1], ..EarlierResult::new(result()) };
        let error = EarlierResult::try_from(wire::EarlierResult::from(earlier)).expect_err("too many");
        assert_eq!(error.to_string(), "files: are more than 8");
    }
}
