//! What results take of the memory that a request may use, the same on every engine.

use super::{EngineError, MultiTauRequest, Request};
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::CHANNELS;
use crate::task::correlate::PixelG2Output;

/// Bytes that are kept for the result of so many pixels: the per-pixel correlations and a two-time map, of which there is
/// one at a time.
///
/// # Errors
/// It is more than is allowed.
pub(super) fn kept(request: &Request, pixels: usize) -> Result<u64, EngineError> {
    let (map, pixel_g2) = (map_bytes(request), pixel_g2_bytes(request, pixels));
    let needed = map.saturating_add(pixel_g2);
    if needed <= request.memory {
        return Ok(needed);
    }
    let (what, remedy) = if map > pixel_g2 {
        ("the result, mostly a two-time map,", MAP_REMEDY)
    } else {
        ("the result, mostly per-pixel correlations,", "drop --save-G2")
    };
    Err(EngineError::Memory { what, needed, allowed: request.memory, remedy })
}

/// What makes two-time maps smaller.
pub(super) const MAP_REMEDY: &str = "average frames with -a";

/// Bytes of a two-time map, if maps are wanted.
pub(super) fn map_bytes(request: &Request) -> u64 {
    let frames = request.selection.outputs();
    match &request.two_time {
        Some(_) => frames.saturating_mul(frames).saturating_mul(size_of::<f32>() as u64),
        None => 0,
    }
}

/// Bytes of the per-pixel correlations, if they are kept.
fn pixel_g2_bytes(request: &Request, pixels: usize) -> u64 {
    match request.multi_tau {
        Some(MultiTauRequest { pixel_g2: PixelG2Output::Keep, .. }) => {
            let delays = DelayPlan::new(request.selection.outputs()).len();
            (delays * CHANNELS * pixels * size_of::<f32>()) as u64
        }
        Some(_) | None => 0,
    }
}
