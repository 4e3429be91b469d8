//! Cuts what is to be said into messages that the wire takes, however much it is: no number of attempts, reports or
//! workers ends a connection. What belongs together (a heartbeat, a worker's introduction) says that more comes, and is put
//! together again; all else is as true in parts.

use prost::Message;

use super::convert::session::wired;
use super::convert::worker::wired_joining;
use super::{version, wire};
use crate::protocol::session::FromEndpoint;
use crate::protocol::worker::{FromWorker, Joining, ToWorker};

/// Bytes of a part: small against the largest message, so that what is urgent does not wait behind one. A single thing
/// that is larger goes alone; the largest is a task's specification, which came in one message.
const PART: usize = 1 << 20;

/// Things in a part, of which the receiver takes no more at once.
const MOST: usize = 5000;

/// Bytes that stand before each thing in a list.
const BEFORE: usize = 8;

/// An endpoint's message to its controller.
pub(super) fn from_endpoint(message: FromEndpoint) -> Vec<wire::from_endpoint::Message> {
    use wire::from_endpoint::Message as Wire;
    match message {
        FromEndpoint::Heartbeat { status, attempts } => heartbeat(status, wired(attempts)),
        FromEndpoint::Started(attempts) => {
            cut(wired(attempts)).map(|attempts| Wire::Started(wire::Started { attempts })).collect()
        }
        FromEndpoint::Reports(reports) => {
            let reports = reports.into_iter().map(Into::into).collect();
            cut(reports).map(|reports| Wire::Reports(wire::Reports { reports })).collect()
        }
        small @ (FromEndpoint::Credit(_) | FromEndpoint::Progress(_)) => vec![small.into()],
    }
}

fn heartbeat(status: String, attempts: Vec<wire::AttemptId>) -> Vec<wire::from_endpoint::Message> {
    let mut parts: Vec<wire::Heartbeat> = Vec::new();
    let part = |status: &str, attempts| wire::Heartbeat { status: status.to_owned(), attempts, more: true };
    parts.extend(texts(&status).into_iter().map(|text| part(text, Vec::new())));
    parts.extend(cut(attempts).map(|attempts| part("", attempts)));
    if parts.is_empty() {
        parts.push(part("", Vec::new()));
    }
    if let Some(last) = parts.last_mut() {
        last.more = false;
    }
    parts.into_iter().map(wire::from_endpoint::Message::Heartbeat).collect()
}

/// A worker's introduction.
pub(super) fn joining(joining: Joining) -> Vec<wire::FromWorker> {
    use wire::from_worker::Message as Wire;
    let mut first = wired_joining(joining, version::own());
    let mut parts = cut(std::mem::take(&mut first.attempts)).peekable();
    first.attempts = parts.next().unwrap_or_default();
    first.more = parts.peek().is_some();
    let mut messages = vec![Wire::Joining(first)];
    while let Some(attempts) = parts.next() {
        messages.push(Wire::MoreAttempts(wire::MoreAttempts { attempts, more: parts.peek().is_some() }));
    }
    messages.into_iter().map(|message| wire::FromWorker { message: Some(message) }).collect()
}

/// A worker's message.
pub(super) fn from_worker(message: FromWorker) -> Vec<wire::FromWorker> {
    use wire::from_worker::Message as Wire;
    let parts: Vec<Wire> = match message {
        FromWorker::Started(attempts) => {
            cut(wired(attempts)).map(|attempts| Wire::Started(wire::Started { attempts })).collect()
        }
        FromWorker::Reports(reports) => {
            let reports = reports.into_iter().map(Into::into).collect();
            cut(reports).map(|reports| Wire::Reports(wire::Reports { reports })).collect()
        }
        small @ (FromWorker::Progress(_)
        | FromWorker::Naming { .. }
        | FromWorker::Beat { .. }
        | FromWorker::Facts(_)
        | FromWorker::Leaving) => {
            return vec![small.into()];
        }
    };
    parts.into_iter().map(|message| wire::FromWorker { message: Some(message) }).collect()
}

/// A message to a worker.
pub(super) fn to_worker(message: ToWorker) -> Vec<wire::ToWorker> {
    use wire::to_worker::Message as Wire;
    let parts: Vec<Wire> = match message {
        ToWorker::Work(handouts) => {
            let handouts = handouts.into_iter().map(Into::into).collect();
            cut(handouts).map(|attempts| Wire::Work(wire::Work { attempts })).collect()
        }
        ToWorker::Stop(stops) => {
            let stops = stops.into_iter().map(Into::into).collect();
            cut(stops).map(|attempts| Wire::Stop(wire::Stop { attempts })).collect()
        }
        ToWorker::Named(attempts) => {
            cut(wired(attempts)).map(|attempts| Wire::Named(wire::Named { attempts })).collect()
        }
        ToWorker::Return(attempts) => {
            cut(wired(attempts)).map(|attempts| Wire::Return(wire::Return { attempts })).collect()
        }
        ToWorker::Recorded(attempts) => {
            // the number is for endpoints
            cut(wired(attempts)).map(|attempts| Wire::Recorded(wire::Recorded { number: 0, attempts })).collect()
        }
        small @ (ToWorker::Lease { .. } | ToWorker::Leave) => return vec![small.into()],
    };
    parts.into_iter().map(|message| wire::ToWorker { message: Some(message) }).collect()
}

/// In their order; no part is empty.
fn cut<M: Message>(things: Vec<M>) -> impl Iterator<Item = Vec<M>> {
    let mut things = things.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut part = vec![things.next()?];
        let mut bytes = part[0].encoded_len() + BEFORE;
        while part.len() < MOST
            && let Some(next) = things.next_if(|next| bytes + next.encoded_len() + BEFORE <= PART)
        {
            bytes += next.encoded_len() + BEFORE;
            part.push(next);
        }
        Some(part)
    })
}

/// Pieces of a text, none within a character.
fn texts(text: &str) -> Vec<&str> {
    let (mut rest, mut pieces) = (text, Vec::new());
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(PART));
        pieces.push(piece);
        rest = more;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{AttemptId, AttemptNumber, BlockId, TaskId, WorkerId};
    use crate::protocol::session::{Reported, Stop, StopReason};
    use crate::protocol::worker::{Handout, Room};
    use crate::rpc::convert::worker::Joined;
    use crate::rpc::service::LARGEST_MESSAGE;
    use crate::task::life::Outcome;
    use crate::task::result::TaskResult;
    use crate::task::spec::TaskSpec;

    fn attempts(number: u128) -> Vec<AttemptId> {
        let attempt = |n| AttemptId { task: TaskId::new(Uuid::from_u128(n)), number: AttemptNumber::FIRST };
        (0..number).map(attempt).collect()
    }

    fn expect_small<M: Message>(messages: &[M]) {
        assert!(messages.len() > 1 && messages.iter().all(|message| message.encoded_len() < LARGEST_MESSAGE / 8));
    }

    fn reports() -> Vec<Reported> {
        let document = Some(format!("\"{}\"", "x".repeat(3000)));
        let result = TaskResult { document, ..TaskResult::default() };
        attempts(10_000)
            .into_iter()
            .map(|attempt| Reported { attempt, outcome: Outcome::Succeeded, result: result.clone() })
            .collect()
    }

    #[test]
    fn a_worker_introduces_itself_with_any_number_of_attempts() {
        for (number, messages) in [(0, 1), (1, 1), (5000, 1), (5001, 2), (10_000, 2)] {
            let said = Joining {
                worker: WorkerId::new(Uuid::from_u128(1)),
                block: BlockId::new(Uuid::from_u128(2)),
                host: "nid001".into(),
                pid: 42,
                room: Room { slots: 2, login: 1 },
                attempts: attempts(number),
            };
            let parts = joining(said.clone());
            assert_eq!(parts.len(), messages);
            let mut parts = parts.into_iter().map(|part| part.message.expect("a message"));
            let Some(wire::from_worker::Message::Joining(first)) = parts.next() else { panic!("no introduction") };
            let mut joined = Joined::begin(first).expect("our own");
            for part in parts {
                let wire::from_worker::Message::MoreAttempts(more) = part else { panic!("{part:?}") };
                assert!(joined.more());
                joined.add(more).expect("our own");
            }
            assert!(!joined.more());
            assert_eq!(joined.whole(), said);
        }
    }

    #[test]
    fn what_a_worker_says_and_hears_comes_in_parts() {
        let said = from_worker(FromWorker::Reports(reports()));
        expect_small(&said);
        let heard = said.into_iter().flat_map(|part| {
            let FromWorker::Reports(reports) = FromWorker::try_from(part).expect("our own") else { panic!("others") };
            reports
        });
        assert_eq!(heard.collect::<Vec<_>>(), reports());
        expect_small(&from_worker(FromWorker::Started(attempts(10_000))));
        let stop = |attempt| Stop { attempt, reason: StopReason::Fenced };
        for told in [
            ToWorker::Work(
                attempts(10_000)
                    .into_iter()
                    .map(|attempt| Handout { attempt, spec: TaskSpec::Nothing, earlier: None, time_left: None })
                    .collect(),
            ),
            ToWorker::Stop(attempts(10_000).into_iter().map(stop).collect()),
            ToWorker::Return(attempts(10_000)),
            ToWorker::Recorded(attempts(10_000)),
        ] {
            expect_small(&to_worker(told));
        }
        assert_eq!(to_worker(ToWorker::Leave).len(), 1);
        assert_eq!(from_worker(FromWorker::Beat { number: 1 }).len(), 1);
    }

    #[test]
    fn a_large_heartbeat_comes_in_parts_and_says_when_it_is_whole() {
        let status = "ä".repeat(PART);
        let parts = from_endpoint(FromEndpoint::Heartbeat { status: status.clone(), attempts: attempts(10_000) });
        let parts = parts.into_iter().map(|part| {
            let wire::from_endpoint::Message::Heartbeat(part) = part else { panic!("{part:?}") };
            part
        });
        let parts: Vec<wire::Heartbeat> = parts.collect();
        expect_small(&parts);
        let more: Vec<bool> = parts.iter().map(|part| part.more).collect();
        assert!(more[..more.len() - 1].iter().all(|more| *more) && !more[more.len() - 1]);
        assert_eq!(parts.iter().map(|part| part.status.as_str()).collect::<String>(), status);
        assert_eq!(parts.iter().map(|part| part.attempts.len()).sum::<usize>(), 10_000);
        let empty = from_endpoint(FromEndpoint::Heartbeat { status: String::new(), attempts: Vec::new() });
        let [wire::from_endpoint::Message::Heartbeat(wire::Heartbeat { more: false, .. })] = &empty[..] else {
            panic!("{empty:?}")
        };
        expect_small(
            &from_endpoint(FromEndpoint::Reports(reports()))
                .into_iter()
                .map(|message| wire::FromEndpoint { number: 1, message: Some(message) })
                .collect::<Vec<_>>(),
        );
        assert_eq!(from_endpoint(FromEndpoint::Started(attempts(10_000))).len(), 2);
    }
}
