//! Frames behind links, in numbered datasets and in virtual ones.

use super::*;
use crate::dataset::Opener;
use crate::dataset::hdf5::FRAMES;

#[test]
fn numbered_datasets_must_belong_together() {
    let (_dir, path) = temporary();
    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("entry/data").unwrap();
    group.new_dataset::<u16>().shape([2, 3, 4]).create("data_000001").unwrap();
    group.new_dataset::<u16>().shape([3, 3, 4]).create("data_000002").unwrap();
    group.new_dataset::<u16>().shape([3, 3, 4]).create("data_extra").unwrap();
    file.flush().unwrap();
    assert_eq!(open_frames(&Opener::anywhere(), &path).unwrap().info().frames, 5);
    group.new_dataset::<u16>().shape([1, 3, 4]).create("data_000004").unwrap();
    file.flush().unwrap();
    assert!(refusal(&path).contains("/entry/data/data_000004"), "{}", refusal(&path));
    group.new_dataset::<u8>().shape([1, 3, 4]).create("data_000003").unwrap();
    drop((group, file));
    assert!(refusal(&path).contains("has frames of 3 x 4 U8 pixels where 3 x 4 U16"), "{}", refusal(&path));
}

#[test]
fn links_are_followed_but_not_in_a_circle() {
    let (dir, path) = temporary();
    let stack = Stack::new(PixelType::U8, [3, 4, 5], 7);
    stack.write(&path, [1, 4, 5], Encoder::Lz4, &[]);
    let link = |name: &str, group: &str, leaf: &str, target: &str, object: &str| {
        let path = dir.path().join(name);
        let file = hdf5::File::create(&path).unwrap();
        let group = if group.is_empty() { file.as_group().unwrap() } else { file.create_group(group).unwrap() };
        group.link_external(target, object, leaf).unwrap();
        path
    };
    stack.assert_read(&link("dataset.h5", "entry/data", "data", "frames.h5", "/entry/data/data"));
    stack.assert_read(&link("twice.h5", "entry/data", "data", "dataset.h5", "/entry/data/data"));
    stack.assert_read(&link("group.h5", "", "entry", "frames.h5", "/entry"));
    stack.assert_read(&link("moved.h5", "entry/data", "data", "/gone/frames.h5", "/entry/data/data"));
    let circle = refusal(&link("circle.h5", "entry/data", "data", "circle.h5", "/entry/data/data"));
    assert!(circle.contains("more than 8 external links"), "{circle}");
    let device = refusal(&link("device.h5", "entry/data", "data", "/dev/null", "/entry/data/data"));
    assert!(device.contains("/dev/null"), "{device}");
}

#[test]
fn virtual_datasets_of_frame_blocks_are_mapped() {
    let (dir, path) = temporary();
    let stack = Stack::new(PixelType::U16, [6, 4, 5], 13);
    stack.write(&path, [1, 4, 5], Encoder::Zstd, &[]);
    let make = |name: &str, maps: &[(std::ops::Range<usize>, std::ops::Range<usize>, usize)]| {
        let path = dir.path().join(name);
        let file = hdf5::File::create(&path).unwrap();
        let group = file.create_group("entry/data").unwrap();
        let mut builder = group.new_dataset::<u16>().shape([7, 4, 5]);
        for (from, to, columns) in maps {
            let source = hdf5::Selection::try_new((from.clone(), .., ..*columns)).unwrap();
            let target = hdf5::Selection::try_new((to.clone(), .., ..*columns)).unwrap();
            builder = builder.virtual_map("frames.h5", FRAMES, [6, 4, 5], source, [7, 4, 5], target);
        }
        builder.create("data").unwrap();
        path
    };
    let bytes = stack.frame_bytes();
    let path = make("blocks.h5", &[(4..6, 0..2, 5), (0..3, 3..6, 5)]);
    let expected = [&stack.bytes[4 * bytes..], &vec![0; bytes], &stack.bytes[..3 * bytes], &vec![0; bytes]].concat();
    Stack { dims: [7, 4, 5], bytes: expected, ..stack }.assert_read(&path);
    let source = open_frames(&Opener::anywhere(), &path).unwrap();
    assert_eq!([1, 2, 3, 6].map(|f| source.may_have_counts(f)), [true, false, true, false]);

    for maps in [vec![(0..2, 0..2, 4)], vec![(0..2, 0..2, 5), (0..2, 1..3, 5)]] {
        let message = refusal(&make("parts.h5", &maps));
        assert!(message.contains("does not take blocks of whole frames"), "{message}");
    }
}
