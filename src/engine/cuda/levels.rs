//! The levels of a delay plan as kernels take them.

use bytemuck::{Pod, Zeroable};

use crate::correlate::delays::{self, DelayPlan};

/// A level as the kernel takes it: see common.cuh.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Level {
    samples: u32,
    first: u32,
    first_lag: u32,
    lags: u32,
    products: [f64; 8],
    means: [f64; 8],
}

/// The levels of a plan, with what turns their sums into means in frame units.
pub(super) fn levels(plan: &DelayPlan) -> Vec<Level> {
    let of = |level: &delays::Level| {
        let mut found = Level {
            samples: level.samples as u32,
            first: level.first as u32,
            first_lag: level.first_lag,
            lags: level.lags,
            products: [0.0; 8],
            means: [0.0; 8],
        };
        let width = (1u64 << level.index) as f64;
        for lag in 0..level.lags as usize {
            found.means[lag] = 1.0 / (plan.pairs(level.first + lag) as f64 * width);
            found.products[lag] = found.means[lag] / width;
        }
        found
    };
    plan.levels().iter().map(of).collect()
}
