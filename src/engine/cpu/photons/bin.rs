//! The events of a dynamic bin as lists of detections: of all its pixels at once or, where these do not fit, of some
//! pixels after the other, from sorted events that are in memory or from the file.

use std::ops::Range;

use crate::engine::EngineError;
use crate::engine::cpu::events::{BUCKET, Keep, Reading, Sorted};
use crate::engine::cpu::twotime::{BinCounts, Counts, Lists, Survey, Visitor};

/// Bytes that an event takes in a list, with what is made of lists to multiply them.
pub(super) const LIST_BYTES: u64 = 24;

/// Where events are.
#[derive(Clone, Copy)]
pub(super) enum Events<'a> {
    /// Those of the whole bin in memory.
    Sorted(&'a Sorted),
    /// In the file.
    Read(&'a Reading<'a>),
}

/// A dynamic bin.
pub(super) struct EventBin<'a> {
    events: Events<'a>,
    places: Range<usize>,
    per_bucket: &'a [u64],
    /// Events of a slice of pixels at most.
    limit: u64,
    /// Bytes of all that is planned with, for messages.
    memory: u64,
    /// All lists, where they fit.
    all: Option<Counts<'static>>,
}

impl<'a> EventBin<'a> {
    /// Of some places; `per_bucket` has the number of events of each bucket.
    pub(super) fn new(events: Events<'a>, places: Range<usize>, per_bucket: &'a [u64]) -> Self {
        Self { events, places, per_bucket, limit: 0, memory: 0, all: None }
    }

    /// The same, which makes lists of so many events at a time, where all may take `memory` bytes.
    pub(super) fn within(self, limit: u64, memory: u64) -> Self {
        Self { limit, memory, ..self }
    }

    /// Its events, with those of neighbours in the same buckets.
    pub(super) fn events(&self) -> u64 {
        self.events_of(&(0..self.places.len()))
    }

    /// Buckets of some pixels of the bin.
    fn buckets(&self, pixels: &Range<usize>) -> Range<usize> {
        let (start, end) = (self.places.start + pixels.start, self.places.start + pixels.end);
        start / BUCKET..end.div_ceil(BUCKET)
    }

    fn events_of(&self, pixels: &Range<usize>) -> u64 {
        self.per_bucket[self.buckets(pixels)].iter().sum()
    }

    /// Slices of pixels that fit.
    fn slices(&self, cuts: &[usize]) -> Result<Vec<Range<usize>>, EngineError> {
        let mut slices: Vec<Range<usize>> = Vec::new();
        for (start, &end) in std::iter::zip(std::iter::once(0).chain(cuts.iter().copied()), cuts) {
            match slices.last_mut() {
                Some(last) if self.events_of(&(last.start..end)) <= self.limit => last.end = end,
                _ => slices.push(start..end),
            }
        }
        match slices.iter().map(|pixels| self.events_of(pixels)).max() {
            Some(events) if events > self.limit => Err(self.too_many(events)),
            _ => Ok(slices),
        }
    }

    fn too_many(&self, events: u64) -> EngineError {
        let part = self.memory as f64 / self.limit.max(1) as f64;
        EngineError::Memory {
            what: "the events of a few pixels of a dynamic bin",
            needed: (events as f64 * part) as u64,
            allowed: self.memory,
            remedy: "take fewer frames",
        }
    }

    /// The lists of some pixels.
    fn lists(&self, pixels: &Range<usize>) -> Result<Lists, EngineError> {
        let read;
        let sorted = match self.events {
            Events::Sorted(sorted) => sorted,
            Events::Read(reading) => {
                reading.pool.observer.step("reading", reading.source.info().frames);
                read = reading.read(&Keep::Buckets(self.buckets(pixels)))?.0;
                &read
            }
        };
        let places = self.places.start + pixels.start..self.places.start + pixels.end;
        Ok(lists(sorted, places, self.events_of(pixels) as usize))
    }

    /// Whether all lists fit at once; they are made then, if they are not there.
    fn hold(&mut self) -> Result<Option<&mut Counts<'static>>, EngineError> {
        if self.all.is_none() && self.events() <= self.limit {
            self.all = Some(Counts::Lists(self.lists(&(0..self.places.len()))?));
        }
        Ok(self.all.as_mut())
    }
}

impl BinCounts for EventBin<'_> {
    fn survey(&mut self, groups: &[Range<usize>], frames: usize) -> Result<Survey, EngineError> {
        if let Some(all) = self.hold()? {
            return all.survey(groups, frames);
        }
        let mut survey = Survey { totals: vec![vec![0.0; frames]; groups.len()], largest: Some(0), pairs: Some(0.0) };
        let ends: Vec<usize> = (1..=self.places.len()).collect();
        for pixels in self.slices(&ends)? {
            let lists = self.lists(&pixels)?;
            survey.pairs = survey.pairs.map(|pairs| pairs + lists.pairs());
            survey.largest = survey.largest.max(Some(lists.largest()));
            for (group, totals) in std::iter::zip(groups, &mut survey.totals) {
                let own = group.start.max(pixels.start)..group.end.min(pixels.end);
                if !own.is_empty() {
                    let own = own.start - pixels.start..own.end - pixels.start;
                    // whole numbers: the order of adding does not matter
                    let more = lists.frame_sums(own, frames);
                    std::iter::zip(totals, more).for_each(|(total, sum)| *total += sum);
                }
            }
        }
        Ok(survey)
    }

    fn visit(&mut self, first: usize, cuts: &[usize], each: &mut Visitor<'_>) -> Result<(), EngineError> {
        if let Some(all) = self.hold()? {
            return all.visit(first, cuts, each);
        }
        for pixels in self.slices(cuts)? {
            let lists = self.lists(&pixels)?;
            each(pixels, &Counts::Lists(lists))?;
        }
        Ok(())
    }
}

/// The detections of some places, so many at most.
fn lists(sorted: &Sorted, places: Range<usize>, events: usize) -> Lists {
    let mut lists = Lists::with_room(events);
    let (mut starts, mut entries) = (Vec::new(), Vec::new());
    for bucket in places.start / BUCKET..places.end.div_ceil(BUCKET) {
        sorted.bucket(bucket, &mut starts, &mut entries);
        let first = bucket * BUCKET;
        for place in places.start.max(first)..places.end.min(first + BUCKET) {
            for entry in &entries[starts[place - first] as usize..starts[place - first + 1] as usize] {
                lists.push(entry.frame(), entry.count());
            }
            lists.end_pixel();
        }
    }
    lists
}
