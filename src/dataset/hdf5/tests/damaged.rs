//! Files that are refused, and chunks that are damaged: an error that names the place, never a panic. Random damages of what
//! the library reads, which may end a process, are in `tests/corr_cli/damages.rs`.

use super::*;
use crate::dataset::DatasetError;
use crate::dataset::Opener;
use crate::dataset::hdf5::FRAMES;

#[test]
fn what_cannot_be_read_is_named() {
    fn dataset<T: hdf5::H5Type>(shape: impl Into<hdf5::Extents>) -> impl FnOnce(&hdf5::Group) {
        |group| drop(group.new_dataset::<T>().shape(shape).create("data").unwrap())
    }
    fn filtered(filters: &'static [(i32, &'static [u32])]) -> impl FnOnce(&hdf5::Group) {
        |group| {
            let filters: Vec<RawFilter> = filters.iter().map(|&(id, values)| (id, values.to_vec())).collect();
            drop(ffi::create_chunked(group, "data", PixelType::U16, &[2, 3, 4], &[1, 3, 4], &filters).unwrap());
        }
    }
    type Make = Box<dyn FnOnce(&hdf5::Group)>;
    let cases: [(Make, &str); 12] = [
        (Box::new(dataset::<u16>((4, 5))), "/entry/data/data has shape (4, 5), need (frames, rows, columns)"),
        (Box::new(dataset::<u16>((1, 2, 3, 4))), "has shape (1, 2, 3, 4), need"),
        (Box::new(dataset::<u16>((0, 5, 6))), "has shape (0, 5, 6): no pixels"),
        (Box::new(dataset::<f64>((2, 5, 6))), "write u8, u16, u32, i16, i32 or f32"),
        (Box::new(dataset::<i64>((2, 5, 6))), "has elements of type"),
        (Box::new(dataset::<hdf5::types::FixedAscii<4>>((2, 5, 6))), "has elements of type"),
        (Box::new(dataset::<u16>((1, 60_000, 60_000))), "more than 1 GiB"),
        (Box::new(filtered(&[(32013, &[])])), "filter 32013 is not known; rewrite it without or with gzip (1)"),
        (Box::new(filtered(&[(32008, &[0, 5, 2, 12, 2])])), "blocks of 12 elements"),
        (Box::new(filtered(&[(32008, &[0, 5, 2, 0, 7])])), "compression 7"),
        (Box::new(filtered(&[(32008, &[0, 5, 70_000, 0, 2])])), "elements of 70000 bytes"),
        (Box::new(filtered(&[(32004, &[]), (32015, &[])])), "compressed twice"),
    ];
    for (make, expected) in cases {
        let (_dir, path) = temporary();
        let file = hdf5::File::create(&path).unwrap();
        make(&file.create_group("entry/data").unwrap());
        drop(file);
        let message = refusal(&path);
        assert!(message.contains(expected) && message.contains("frames.h5"), "{message}");
    }
}

#[test]
fn files_without_frames_are_refused() {
    let (dir, path) = temporary();
    assert!(refusal(&path).contains("cannot open"));
    assert!(refusal(dir.path()).contains("cannot open"));
    std::fs::write(&path, b"no HDF5").unwrap();
    assert!(refusal(&path).contains("cannot open it as HDF5"));
    let file = hdf5::File::create(&path).unwrap();
    assert!(refusal(&path).contains("there is neither /entry/data/data nor /entry/data/data_000001"));
    file.create_group("entry/data").unwrap();
    drop(file);
    assert!(refusal(&path).contains("there is neither"));
}

/// Reads all that can be, frame by frame; errors are fine, anything else is not.
fn read_whatever(path: &Path) {
    let Ok(source) = open_frames(&Opener::anywhere(), path) else {
        return;
    };
    let pixels = source.info().shape.pixels() * source.pixel_type().size();
    let mut scratch = Scratch::default();
    for frame in 0..source.info().frames.min(20) {
        let mut out = vec![0; pixels];
        let _ = source.read_frames(frame..frame + 1, &mut scratch, &mut out);
        source.may_have_counts(frame);
    }
}

#[test]
fn a_corrupt_chunk_is_placed() {
    let (_dir, path) = temporary();
    let stack = Stack::new(PixelType::U16, [3, 40, 50], 17);
    stack.write(&path, [1, 40, 50], Encoder::Bitshuffle(BlockCodec::Lz4), &[]);
    let file = hdf5::File::open(&path).unwrap();
    let mut addresses = Vec::new();
    file.dataset(FRAMES).unwrap().chunks_visit(|info| (addresses.push(info.addr), 0).1).unwrap();
    drop(file);
    let mut bytes = std::fs::read(&path).unwrap();
    // The length of the first block of frame 1.
    bytes[addresses[1] as usize + 12] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    let source = open_frames(&Opener::anywhere(), &path).unwrap();
    let mut out = vec![0; 3 * stack.frame_bytes()];
    let error = source.read_frames(0..3, &mut Scratch::default(), &mut out).unwrap_err();
    assert!(matches!(error, DatasetError::Raw { .. }));
    let message = error.to_string();
    let place = format!("/entry/data/data, frame 1, byte {}", addresses[1] + 16);
    assert!(message.contains(&place) && message.contains("frames.h5"), "{message}");
    read_whatever(&path);
}

/// The library ends the process where it is asked for a value of such a size.
#[test]
fn a_fill_value_of_no_size_is_refused() {
    let (_dir, path) = temporary();
    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("entry/data").unwrap();
    group.new_dataset::<u16>().shape([4, 6, 5]).chunk([2, 3, 5]).fill_value(258_u16).create("data").unwrap();
    drop((group, file));
    let mut bytes = std::fs::read(&path).unwrap();
    // Its size, in front of the value: "Fill Value Message", HDF5 File Format Specification, IV.A.2.f.
    let message = [2, 0, 0, 0, 2, 1];
    let places: Vec<usize> = (0..bytes.len() - message.len()).filter(|&at| bytes[at..].starts_with(&message)).collect();
    assert!(!places.is_empty());
    for size in [-2_i32, i32::MIN] {
        places.iter().for_each(|&at| bytes[at..at + 4].copy_from_slice(&size.to_le_bytes()));
        std::fs::write(&path, &bytes).unwrap();
        let message = refusal(&path);
        assert!(message.contains("frames.h5"), "{message}");
    }
}

proptest! {
    #[test]
    fn truncated_files_are_refused(encoder in encoders(), part in 0.0..1.0) {
        let (_dir, path) = temporary();
        Stack::new(PixelType::U16, [4, 7, 9], 19).write(&path, [1, 7, 9], encoder, &[]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..(bytes.len() as f64 * part) as usize]).unwrap();
        prop_assert!(open_frames(&Opener::anywhere(), &path).is_err());
    }

    #[test]
    fn flipped_bytes_of_chunks_do_not_panic(
        encoder in encoders(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let (_dir, path) = temporary();
        Stack::new(PixelType::U16, [4, 7, 9], 19).write(&path, [1, 7, 9], encoder, &[]);
        let mut chunks = Vec::new();
        let file = hdf5::File::open(&path).unwrap();
        let visit = |info: hdf5::dataset::ChunkInfoRef<'_>| (chunks.push(info.addr as usize..(info.addr + info.size) as usize), 0).1;
        file.dataset(FRAMES).unwrap().chunks_visit(visit).unwrap();
        drop(file);
        let mut bytes = std::fs::read(&path).unwrap();
        for (chunk, place, value) in flips {
            *place.get_mut(&mut bytes[chunk.get(&chunks).clone()]) = value;
        }
        std::fs::write(&path, bytes).unwrap();
        read_whatever(&path);
    }
}
