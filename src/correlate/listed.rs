//! Lists in messages, cut where they get long. Words only.

use super::bins::Shape;
use super::result::SaturatedPixel;

/// How many items a message names.
const NAMED: usize = 10;

/// The first ten items, then how many more there are.
pub fn listed<T: ToString>(items: impl ExactSizeIterator<Item = T>) -> String {
    let more = items.len().saturating_sub(NAMED);
    let named = items.take(NAMED).map(|item| item.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// The first ten pixels by row, column and frame, then how many more there are.
pub fn listed_pixels(pixels: impl ExactSizeIterator<Item = SaturatedPixel>, shape: Shape) -> String {
    listed(pixels.map(|SaturatedPixel { pixel, frame }| {
        let (row, col) = shape.place(pixel);
        format!("({row}, {col}) in frame {frame}")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed([1, 2, 3].iter()), "1, 2, 3");
        assert_eq!(listed(1..=10_u8), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10");
        assert_eq!(listed(1..=13_u8), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more");
    }

    #[test]
    fn pixels_are_told_by_row_column_and_frame() {
        let pixels = [SaturatedPixel { pixel: 5, frame: 3 }, SaturatedPixel { pixel: 12, frame: 0 }];
        let text = listed_pixels(pixels.into_iter(), Shape { rows: 4, cols: 5 });
        assert_eq!(text, "(1, 0) in frame 3, (2, 2) in frame 0");
    }
}
