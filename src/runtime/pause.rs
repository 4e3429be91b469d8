//! Pauses between tries: half of each by chance, so that those who lost the same thing do not come back together.

use std::time::Duration;

use rand::Rng;

use crate::task::retry::doubled;

/// The pause after `failed` further failures: `first`, doubled with each, up to `longest`; between half and all of it.
pub fn pause(first: Duration, failed: u32, longest: Duration) -> Duration {
    by_chance(doubled(first, failed, longest))
}

/// Between half and all of a pause.
pub fn by_chance(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_longest() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(30));
        for (failed, most) in [(0, first), (3, first * 8), (30, longest)] {
            let pause = pause(first, failed, longest);
            assert!(pause >= most / 2 && pause <= most, "{failed}: {pause:?}");
        }
    }
}
