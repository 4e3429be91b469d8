//! What a process apart may say of frames and what cannot be: each is refused before anything is read by it.

use super::*;
use crate::dataset::hdf5::assemble::{Assembly, Slab};
use crate::dataset::hdf5::form::StorageForm;
use crate::dataset::reader::{FileNumber, Files, Packed};

/// The answer for a file of two frames of 4 x 6 pixels in chunks of one frame or, without chunks, as they are.
fn refused(chunked: bool, change: impl Fn(&mut Assembly)) -> bool {
    let (_dir, path) = temporary();
    let file = hdf5::File::create(&path).unwrap();
    let builder = file.create_group("entry/data").unwrap().new_dataset::<u16>().shape([2, 4, 6]);
    let builder = if chunked { builder.chunk([1, 4, 6]).deflate(1) } else { builder };
    builder.create("data").unwrap().write_raw(&[7_u16; 48]).unwrap();
    file.close().unwrap();
    let opener = Opener::anywhere();
    let files = Files::new(&opener);
    let mut answer = Assembly::find(&files, &path).unwrap();
    change(&mut answer);
    super::super::Stack::new(&path, answer, &files).is_err()
}

fn chunks(answer: &mut Assembly) -> &mut [u64; 3] {
    let StorageForm::Chunked(form) = &mut answer.sources[0].storage else { panic!("it has chunks") };
    &mut form.chunk
}

#[test]
fn answers_that_cannot_be_are_refused() {
    type Change = fn(&mut Assembly);
    let cases: [(&str, bool, Change); 21] = [
        ("no such file", true, |answer| answer.sources[0].file = FileNumber::of(1)),
        ("no such source", true, |answer| answer.slabs[0].source = 1),
        ("no source", true, |answer| answer.sources.clear()),
        ("an empty slab", true, |answer| answer.slabs[0].count = 0),
        ("a slab beyond the stack", true, |answer| answer.slabs[0].first = 1),
        ("a slab beyond its source", true, |answer| answer.slabs[0].source_first = 1),
        ("a slab that ends nowhere", true, |answer| answer.slabs[0].source_first = u64::MAX),
        ("a slab that begins nowhere", true, |answer| answer.slabs[0].first = u64::MAX),
        ("slabs over each other", true, |answer| {
            answer.slabs = vec![Slab { count: 1, ..answer.slabs[0] }; 2];
        }),
        ("sources of another shape", true, |answer| answer.sources[0].frames.shape.rows = 2),
        ("sources of another type", true, |answer| answer.sources[0].frames.pixel = PixelType::U8),
        ("no frames", true, |answer| (answer.frames.count, answer.slabs) = (0, Vec::new())),
        ("more frames than there are chunks", true, |answer| {
            (answer.sources[0].frames.count, answer.frames.count) = (1, 1);
            answer.slabs[0].count = 1;
        }),
        ("frames without pixels", true, |answer| {
            (answer.frames.shape.rows, answer.sources[0].frames.shape.rows) = (0, 0);
        }),
        ("frames of too many pixels", true, |answer| {
            (answer.frames.shape.rows, answer.sources[0].frames.shape.rows) = (1 << 40, 1 << 40);
        }),
        ("chunks of no size", true, |answer| chunks(answer)[1] = 0),
        ("chunks of too large a size", true, |answer| chunks(answer)[0] = 1 << 40),
        ("a filter that is not known", true, |answer| {
            let StorageForm::Chunked(form) = &mut answer.sources[0].storage else { panic!("it has chunks") };
            form.filters = vec![(7, Vec::new())];
        }),
        ("frames beyond the file", false, |answer| answer.sources[0].storage = StorageForm::Contiguous(Some(1 << 20))),
        ("frames that end nowhere", false, |answer| {
            answer.sources[0].storage = StorageForm::Contiguous(Some(u64::MAX))
        }),
        ("frames of other bytes", false, |answer| {
            answer.sources[0].storage = StorageForm::Compact(Packed(vec![0; 95]));
        }),
    ];
    for (what, chunked, change) in cases {
        assert!(refused(chunked, change), "{what}");
    }
    assert!(!refused(true, |_| {}) && !refused(false, |_| {}), "as it is");
}
