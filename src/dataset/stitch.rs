//! Where the six modules of a Rigaku 3M lie on its canvas. Geometry only: no file format, no IO.

use crate::correlate::bins::Shape;

/// Modules of a Rigaku 3M, one file each.
pub const MODULES: usize = 6;

/// Shape of one module.
pub const MODULE: Shape = Shape { rows: 512, cols: 1024 };

/// Shape of the stitched image; its gaps hold no counts.
pub const CANVAS: Shape = Shape { rows: 3 * MODULE.rows + 2 * GAP_ROWS, cols: 2 * MODULE.cols + GAP_COLS };

const GAP_ROWS: usize = 70;
const GAP_COLS: usize = 52;

/// Module numbers as they lie on the canvas.
const LAYOUT: [[usize; 2]; 3] = [[5, 0], [4, 1], [3, 2]];

/// Canvas row and column of the first pixel of module `k`; modules are neither flipped nor rotated.
///
/// # Panics
/// If `k` is not below [`MODULES`].
pub fn module_origin(k: usize) -> (usize, usize) {
    assert!(k < MODULES, "module {k} of {MODULES}");
    let place = LAYOUT.iter().flatten().position(|&module| module == k).unwrap_or_default();
    (place / 2 * (MODULE.rows + GAP_ROWS), place % 2 * (MODULE.cols + GAP_COLS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canvas_is_that_of_the_rigaku_3m() {
        assert_eq!(CANVAS, Shape { rows: 1676, cols: 2100 });
    }

    #[test]
    fn modules_lie_two_by_three() {
        let origins: Vec<_> = (0..MODULES).map(module_origin).collect();
        assert_eq!(origins, [(0, 1076), (582, 1076), (1164, 1076), (1164, 0), (582, 0), (0, 0)]);
    }
}
