//! Reads a raw dataset through, as a correlation does, and holds it to what its traits promise.

use speckled::dataset::{DatasetError, EventSource, FrameSource, Scratch, Source};

/// Frames that are read of a dense dataset: the first of them are like the others.
const MOST_FRAMES: u64 = 16;

pub(crate) fn read_through(source: &Source) {
    match source {
        Source::Events(source) => events(source.as_ref()),
        Source::Frames(source) => frames(source.as_ref()),
    }
}

fn events(source: &dyn EventSource) {
    let info = source.info();
    let pixels = info.shape.pixels();
    let (mut scratch, mut out, mut all) = (Scratch::default(), Vec::new(), 0_u64);
    for block in 0..source.blocks() {
        if let Err(error) = source.read_block(block, &mut scratch, &mut out) {
            return check(&error);
        }
        all += out.len() as u64;
        for event in &out {
            assert!((event.pixel() as usize) < pixels, "pixel {} of {pixels}", event.pixel());
            assert!(u64::from(event.frame()) < info.frames, "frame {} of {}", event.frame(), info.frames);
        }
        assert!(out.is_sorted_by_key(|event| event.frame()), "events of block {block} are out of order");
    }
    assert!(all <= source.events_bound(), "{all} events where there were to be {} at most", source.events_bound());
}

fn frames(source: &dyn FrameSource) {
    let info = source.info();
    let bytes = info.shape.pixels() * source.pixel_type().size();
    let (mut scratch, mut out) = (Scratch::default(), vec![0; bytes]);
    for frame in 0..info.frames.min(MOST_FRAMES) {
        match source.read_frames(frame..frame + 1, &mut scratch, &mut out) {
            Ok(()) if source.may_have_counts(frame) => {}
            Ok(()) => assert!(out.iter().all(|byte| *byte == 0), "frame {frame} was to have no counts"),
            Err(error) => check(&error),
        }
    }
}

/// What was opened is within its file: reading it ends with what the file holds, not with what the system refuses.
fn check(error: &DatasetError) {
    assert!(!matches!(error, DatasetError::Io { .. }), "{error}");
}
