//! The workers of an endpoint while it runs: who is connected, what each has, how fast it is. Pure but for the clock's
//! instants that it is given; decides nothing about tasks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::{AttemptId, BlockId, WorkerId};
use crate::protocol::worker::{GpuFacts, Room, WorkerFacts};
use crate::task::spec::{ByPlace, Place};

/// Work that is given to a worker ahead of its slots covers so much time: a few journeys between worker and endpoint,
/// and short enough that no long task waits behind another while a slot is free elsewhere.
const AHEAD: Duration = Duration::from_millis(20);

/// A speed is measured over at least so much time.
const MEASURED: Duration = Duration::from_millis(20);

/// The most attempts that a worker is given ahead of its slots.
const MOST_AHEAD: f64 = 512.0;

/// A connection of a worker; a later one has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// All workers.
#[derive(Debug, Default)]
pub(super) struct Workers {
    all: BTreeMap<WorkerId, WorkerState>,
}

/// A worker.
#[derive(Debug)]
pub(super) struct WorkerState {
    /// How it is connected; None while it is not.
    pub(super) connection: Option<ConnectionId>,
    /// Since when it is connected, or is not.
    pub(super) since: Instant,
    /// Its block.
    pub(super) block: BlockId,
    /// Since when it has no attempt.
    pub(super) idle_since: Option<Instant>,
    /// What it can run at once.
    pub(super) room: Room,
    /// Its GPUs.
    pub(super) gpus: Vec<GpuFacts>,
    /// Why it cannot compute.
    pub(super) trouble: Option<String>,
    /// The beat that waits for a lease.
    pub(super) unanswered: Option<u64>,
    has: HashMap<AttemptId, Place>,
    used: ByPlace<u32>,
    pace: Pace,
}

/// How many attempts end in a second.
#[derive(Debug)]
struct Pace {
    since: Instant,
    ended: u32,
    per_second: f64,
}

impl Workers {
    /// A worker of an earlier process of the endpoint may come back.
    pub(super) fn expect(&mut self, worker: WorkerId, block: BlockId, now: Instant) {
        self.all.insert(worker, WorkerState::new(None, block, Room::default(), now));
    }

    /// A worker has connected: what it had before is forgotten, it says anew what it has.
    pub(super) fn connect(
        &mut self,
        worker: WorkerId,
        block: BlockId,
        connection: ConnectionId,
        room: Room,
        now: Instant,
    ) {
        self.all.insert(worker, WorkerState::new(Some(connection), block, room, now));
    }

    /// A connection has ended; false when the worker has another one by now.
    pub(super) fn disconnect(&mut self, worker: WorkerId, connection: ConnectionId, now: Instant) -> bool {
        match self.all.get_mut(&worker) {
            Some(state) if state.connection == Some(connection) => {
                (state.connection, state.since) = (None, now);
                true
            }
            Some(_) | None => false,
        }
    }

    /// It will not come back.
    pub(super) fn remove(&mut self, worker: WorkerId) {
        self.all.remove(&worker);
    }

    pub(super) fn get(&self, worker: WorkerId) -> Option<&WorkerState> {
        self.all.get(&worker)
    }

    pub(super) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut WorkerState> {
        self.all.get_mut(&worker)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (WorkerId, &WorkerState)> {
        self.all.iter().map(|(id, state)| (*id, state))
    }

    /// Those that can be told something.
    pub(super) fn connected(&self) -> impl Iterator<Item = WorkerId> {
        self.all().filter(|(_, state)| state.connection.is_some()).map(|(id, _)| id)
    }

    /// The worker with the most room at a place, if any of those that may be given work has room.
    pub(super) fn roomiest(&self, place: Place, may: impl Fn(BlockId) -> bool) -> Option<WorkerId> {
        let roomy = self.all().filter(|(_, state)| may(state.block));
        let roomy = roomy.filter_map(|(id, state)| Some((state.room_left(place)?, id)));
        roomy.max().map(|(_, id)| id)
    }

    /// How many attempts those that may be given work can take at a place: at once, and ahead.
    pub(super) fn takes(&self, place: Place, may: impl Fn(BlockId) -> bool) -> u32 {
        let connected = self.all().filter(|(_, state)| state.connection.is_some() && may(state.block));
        connected.map(|(_, state)| state.most(place)).fold(0, u32::saturating_add)
    }
}

impl WorkerState {
    fn new(connection: Option<ConnectionId>, block: BlockId, room: Room, now: Instant) -> Self {
        let pace = Pace { since: now, ended: 0, per_second: 0.0 };
        Self {
            connection,
            since: now,
            block,
            idle_since: Some(now),
            room,
            gpus: Vec::new(),
            trouble: None,
            unanswered: None,
            has: HashMap::new(),
            used: ByPlace::default(),
            pace,
        }
    }

    /// It has said what it has now.
    pub(super) fn note(&mut self, facts: WorkerFacts) {
        let WorkerFacts { room, gpus, trouble } = facts;
        (self.room, self.gpus, self.trouble) = (room, gpus, trouble);
    }

    /// It has been given an attempt, or says that it has it.
    pub(super) fn give(&mut self, attempt: AttemptId, place: Place) {
        if self.has.insert(attempt, place).is_none() {
            *self.used.at(place) += 1;
            self.idle_since = None;
        }
    }

    /// It has an attempt no more.
    pub(super) fn take_back(&mut self, attempt: AttemptId, now: Instant) {
        if let Some(place) = self.has.remove(&attempt) {
            *self.used.at(place) -= 1;
            self.pace.note(now);
            if self.has.is_empty() {
                self.idle_since = Some(now);
            }
        }
    }

    /// How many attempts it has, by place.
    pub(super) fn used(&self) -> ByPlace<u32> {
        self.used
    }

    /// How many attempts more it takes; None while it is not connected or takes none.
    pub(super) fn room_left(&self, place: Place) -> Option<u32> {
        self.connection?;
        let left = self.most(place).saturating_sub(self.used.get(place));
        (left > 0).then_some(left)
    }

    /// How many attempts more it has than it can take: its room has shrunk.
    pub(super) fn surplus(&self, place: Place) -> u32 {
        self.used.get(place).saturating_sub(self.most(place))
    }

    /// Slots, and as many more as end before it could be told of the next.
    fn most(&self, place: Place) -> u32 {
        let slots = self.room.get(place);
        match place {
            Place::Slot if slots > 0 => slots.saturating_add(self.pace.ahead()),
            Place::Slot | Place::Login => slots,
        }
    }
}

impl Pace {
    fn note(&mut self, now: Instant) {
        self.ended += 1;
        let elapsed = now.duration_since(self.since);
        if elapsed >= MEASURED {
            let measured = f64::from(self.ended) / elapsed.as_secs_f64();
            self.per_second = (self.per_second + measured) / 2.0;
            (self.since, self.ended) = (now, 0);
        }
    }

    fn ahead(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to `MOST_AHEAD`")]
        let ahead = (self.per_second * AHEAD.as_secs_f64()).min(MOST_AHEAD) as u32;
        ahead
    }
}
