//! Where pixels are in reciprocal space, and which of them are sensitive.

use std::f64::consts::TAU;

use crate::correlate::bins::Shape;

/// Planck's constant times the speed of light, in keV * angstrom.
const HC: f64 = 12.398_419_84;

/// Detector position and photon energy, for a detector at right angles to the beam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SceneGeometry {
    /// Edge of a pixel in m.
    pub pixel_size: f64,
    /// Sample to detector in m.
    pub distance: f64,
    /// Photon energy in keV.
    pub energy: f64,
    /// Row of the direct beam, in pixels.
    pub beam_row: f64,
    /// Column of the direct beam, in pixels.
    pub beam_col: f64,
}

/// A grid of equal modules with insensitive gaps between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modules {
    /// Pixels of a module.
    pub shape: Shape,
    /// Rows between two modules.
    pub row_gap: usize,
    /// Columns between two modules.
    pub col_gap: usize,
}

impl SceneGeometry {
    /// Beam in the middle of the image; pixel, distance and energy of 8-ID's small-angle instrument.
    pub fn centred(shape: Shape) -> Self {
        Self {
            pixel_size: 76e-6,
            distance: 8.0,
            energy: 10.0,
            beam_row: shape.rows as f64 / 2.0,
            beam_col: shape.cols as f64 / 2.0,
        }
    }

    /// Wavevector transfer of a pixel, in 1/angstrom.
    pub fn q(&self, row: usize, col: usize) -> f64 {
        let (dy, dx) = self.offset(row, col);
        let angle = (dx.hypot(dy) * self.pixel_size / self.distance).atan();
        2.0 * TAU / self.wavelength() * (angle / 2.0).sin()
    }

    /// Wavelength in angstrom.
    pub fn wavelength(&self) -> f64 {
        HC / self.energy
    }

    /// Azimuth of a pixel, in degrees from -180 to 180.
    pub fn phi(&self, row: usize, col: usize) -> f64 {
        let (dy, dx) = self.offset(row, col);
        dy.atan2(dx).to_degrees()
    }

    fn offset(&self, row: usize, col: usize) -> (f64, f64) {
        (row as f64 - self.beam_row, col as f64 - self.beam_col)
    }
}

impl Modules {
    /// True where a module is.
    pub fn sensitive(&self, row: usize, col: usize) -> bool {
        row % (self.shape.rows + self.row_gap) < self.shape.rows
            && col % (self.shape.cols + self.col_gap) < self.shape.cols
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_of_a_known_angle() {
        let shape = Shape { rows: 1, cols: 1 };
        let geometry = SceneGeometry { beam_row: 0.0, beam_col: 0.0, distance: 1.0, ..SceneGeometry::centred(shape) };
        // 76 um * 1000 at 1 m is an angle of 0.0758... rad; k = 5.0677 / angstrom at 10 keV.
        let expected = 2.0 * 5.067_73 * ((0.076f64).atan() / 2.0).sin();
        assert!((geometry.q(0, 1000) / expected - 1.0).abs() < 1e-5);
        assert_eq!(geometry.phi(0, 5), 0.0);
        assert!((geometry.phi(5, 0) - 90.0).abs() < 1e-12);
    }

    #[test]
    fn gaps_are_insensitive() {
        let modules = Modules { shape: Shape { rows: 4, cols: 6 }, row_gap: 2, col_gap: 1 };
        assert!(modules.sensitive(3, 5) && modules.sensitive(6, 7));
        assert!(!modules.sensitive(4, 0) && !modules.sensitive(5, 0) && !modules.sensitive(0, 6));
    }
}
