//! Qmaps of every form that is read, and what is refused: by name, and whatever bytes they are made of.

use hdf5::types::FixedAscii;
use proptest::prelude::*;

use super::*;
use crate::dataset::reader::Files;

/// A valid qmap of 2 x 3 pixels that `change` may spoil.
fn write(change: impl Fn(&Group)) -> tempfile::NamedTempFile {
    let path = tempfile::NamedTempFile::new().unwrap();
    let file = File::create(path.path()).unwrap();
    let group = file.create_group("qmap").unwrap();
    put(&group, MASK, &[2, 3], &[true, true, false, true, true, true]);
    put(&group, BLEMISH, &[2, 3], &[true, true, true, true, true, false]);
    put(&group, DYNAMIC, &[2, 3], &[1_u8, 1, 0, 2, 2, 2]);
    put(&group, STATIC, &[2, 3], &[1_u16, 2, 0, 3, 3, 4]);
    change(&group);
    drop(group);
    file.close().unwrap();
    path
}

fn put<T: hdf5::H5Type>(group: &Group, name: &str, shape: &[usize], data: &[T]) {
    let _ = group.unlink(name);
    group.new_dataset::<T>().shape(shape).create(name).unwrap().write_raw(data).unwrap();
}

fn refusal(change: impl Fn(&Group)) -> String {
    let path = write(change);
    let error = Qmap::read(&Opener::anywhere(), path.path()).unwrap_err();
    assert!(matches!(error, DatasetError::Qmap { .. }), "{error}");
    error.to_string()
}

fn source(shape: Shape) -> SourceInfo {
    SourceInfo { format: String::new(), files: vec!["raw.h5".into()], bytes: 0, shape, frames: 0 }
}

#[test]
fn a_small_qmap_reads_whole() {
    let path = write(|_| {});
    let qmap = Qmap::read(&Opener::anywhere(), path.path()).unwrap();
    assert_eq!(qmap.labels.shape, Shape { rows: 2, cols: 3 });
    assert_eq!(qmap.labels.mask, [true, true, false, true, true, true]);
    assert_eq!(qmap.labels.blemish, [true, true, true, true, true, false]);
    assert_eq!(qmap.labels.dynamic_labels, [1, 1, 0, 2, 2, 2]);
    assert_eq!(qmap.labels.static_labels, [1, 2, 0, 3, 3, 4]);
    assert_eq!(qmap.warnings.len(), VIEWER_NEEDS.len());
    assert_eq!(qmap.sha256.len(), 64);
}

#[test]
fn other_types_and_singleton_axes_are_read() {
    let reference = Qmap::read(&Opener::anywhere(), write(|_| {}).path()).unwrap();
    let path = write(|group| {
        put(group, MASK, &[1, 2, 3], &[1_i32, 1, 0, 1, 1, 1]);
        put(group, DYNAMIC, &[2, 3, 1], &[1_f64, 1.0, 0.0, 2.0, 2.0, 2.0]);
        put(group, STATIC, &[2, 3], &[1_i64, 2, 0, 3, 3, 4]);
    });
    assert_eq!(Qmap::read(&Opener::anywhere(), path.path()).unwrap().labels, reference.labels);
}

#[test]
fn compressed_maps_are_read() {
    let path = write(|group| {
        for name in [MASK, BLEMISH, DYNAMIC, STATIC] {
            group.unlink(name).unwrap();
            let builder = group.new_dataset::<u8>().shape([64, 64]);
            let builder = if name == MASK { builder.lzf() } else { builder.shuffle().deflate(3) };
            builder.create(name).unwrap().write_raw(&[1_u8; 64 * 64]).unwrap();
        }
    });
    assert_eq!(Qmap::read(&Opener::anywhere(), path.path()).unwrap().labels.static_labels, [1; 64 * 64]);
}

#[test]
fn without_blemish_the_mask_stands_for_it() {
    let qmap = Qmap::read(&Opener::anywhere(), write(|group| group.unlink(BLEMISH).unwrap()).path()).unwrap();
    assert_eq!(qmap.labels.blemish, qmap.labels.mask);
}

#[test]
fn missing_maps_and_other_layouts_are_named() {
    let message = refusal(|group| {
        group.unlink(STATIC).unwrap();
        group.unlink(MASK).unwrap();
    });
    assert!(message.contains("/qmap/mask, /qmap/static_roi_map missing"), "{message}");
    let message = refusal(|group| group.file().unwrap().unlink("qmap").unwrap());
    assert!(message.contains("no group /qmap"), "{message}");
    let message = refusal(|group| {
        group.file().unwrap().unlink("qmap").unwrap();
        group.file().unwrap().create_group("data").unwrap();
    });
    assert!(message.contains("legacy"), "{message}");
}

#[test]
fn maps_of_unequal_or_no_image_shape_are_named() {
    let message = refusal(|group| put(group, STATIC, &[3, 2], &[1_u8; 6]));
    assert!(message.contains("static_roi_map is 3 x 2") && message.contains("2 x 3"), "{message}");
    let message = refusal(|group| put(group, MASK, &[2, 2, 3], &[1_u8; 12]));
    assert!(message.contains("[2, 2, 3]"), "{message}");
    let message = refusal(|group| put(group, DYNAMIC, &[2, 3], &[FixedAscii::<4>::new(); 6]));
    assert!(message.contains("dynamic_roi_map"), "{message}");
}

#[test]
fn labels_that_cannot_be_are_named_with_their_pixel() {
    for value in [-1.0, 7.0, 1.5, 5e9, f64::NAN, f64::INFINITY] {
        let message = refusal(|group| put(group, STATIC, &[2, 3], &[0.0, 0.0, 0.0, 0.0, value, 0.0]));
        assert!(message.contains(&format!("static_roi_map is {value} at row 1, column 1")), "{message}");
    }
    let message = refusal(|group| put(group, DYNAMIC, &[2, 3], &[0, u64::MAX, 0, 0, 0, 0]));
    assert!(message.contains("row 0, column 1"), "{message}");
    let message = refusal(|group| put(group, MASK, &[2, 3], &[1.0, f64::NAN, 0.0, 0.0, 0.0, 0.0]));
    assert!(message.contains("mask is NaN"), "{message}");
}

/// What a process apart may say.
#[test]
fn answers_that_cannot_be_are_refused() {
    let path = write(|_| {});
    let opener = Opener::anywhere();
    let refused = |change: fn(&mut QmapForm)| {
        let mut form = read(&Files::new(&opener), path.path()).unwrap();
        change(&mut form);
        form.check().is_err()
    };
    assert!(!refused(|_| {}));
    assert!(refused(|form| form.shape.rows = usize::MAX));
    assert!(refused(|form| form.shape.rows = 3));
    assert!(refused(|form| form.blemish.0.push(1)));
    assert!(refused(|form| form.static_labels.0[1] = 7));
    assert!(refused(|form| form.mask.0.fill(0)));
}

#[test]
fn an_empty_mask_is_an_error() {
    assert!(refusal(|group| put(group, MASK, &[2, 3], &[false; 6])).contains("empty"));
}

#[test]
fn maps_beyond_the_limit_are_refused_unread() {
    let message = refusal(|group| {
        group.unlink(MASK).unwrap();
        group.new_dataset::<u8>().shape([1 << 16, 1 << 16]).chunk([1, 1 << 16]).create(MASK).unwrap();
    });
    assert!(message.contains("more than 16777216"), "{message}");
}

#[test]
fn shapes_are_held_against_the_raw_file() {
    let path = write(|_| {});
    let qmap = Qmap::read(&Opener::anywhere(), path.path()).unwrap();
    check_shape(&qmap, &source(qmap.labels.shape)).unwrap();
    let transposed = check_shape(&qmap, &source(Shape { rows: 3, cols: 2 })).unwrap_err().to_string();
    assert!(transposed.contains("2 x 3") && transposed.contains("exchanged"), "{transposed}");
    let other = check_shape(&qmap, &source(Shape { rows: 5, cols: 2 })).unwrap_err().to_string();
    assert!(other.contains("5 x 2") && !other.contains("exchanged"), "{other}");
}

#[test]
fn golden_qmap_has_its_bins_axes_and_names() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../shared/golden/case_hdf_64x96/qmap.hdf"].iter().collect();
    if !path.exists() {
        return;
    }
    let qmap = Qmap::read(&Opener::anywhere(), &path).unwrap();
    assert_eq!(qmap.labels.shape, Shape { rows: 64, cols: 96 });
    assert_eq!(qmap.warnings, Vec::<String>::new());
    assert_eq!((qmap.map_names, qmap.map_units), (vec!["q".into(), "phi".into()], vec!["Å⁻¹".into(), "deg".into()]));
    assert_eq!((qmap.dynamic_axes.points, qmap.dynamic_axes.index_mapping.len()), (vec![6, 1], 6));
    assert_eq!((qmap.static_axes.values[0].len(), qmap.static_axes.values[1].len()), (30, 1));
    assert_eq!((qmap.geometry.beam_center_x, qmap.geometry.pixel_size), (Some(48.0), Some(7.5e-5)));
    assert_eq!(
        (qmap.labels.dynamic_labels.iter().max(), qmap.labels.static_labels.iter().max()),
        (Some(&6), Some(&30))
    );
}

#[test]
fn changed_bytes_give_valid_labels_or_an_error() {
    let path = write(|_| {});
    let bytes = std::fs::read(path.path()).unwrap();
    // Few and always the same: most reach the C library's parser, which is not what is tested here.
    for position in (0..bytes.len()).step_by(211) {
        let mut changed = bytes.clone();
        changed[position] ^= 0xff;
        std::fs::write(path.path(), &changed).unwrap();
        if let Ok(qmap) = Qmap::read(&Opener::anywhere(), path.path()) {
            let pixels = qmap.labels.shape.pixels();
            assert_eq!(qmap.labels.mask.len(), pixels);
            assert!(qmap.labels.static_labels.iter().all(|&label| label as usize <= pixels));
        }
    }
}

proptest! {
    // Few: each writes and opens an HDF5 file.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn truncated_files_are_refused(at in 0.0..1.0_f64) {
        let path = write(|_| {});
        let bytes = std::fs::read(path.path()).unwrap();
        std::fs::write(path.path(), &bytes[..(at * bytes.len() as f64) as usize]).unwrap();
        let refused = matches!(Qmap::read(&Opener::anywhere(), path.path()), Err(DatasetError::Qmap { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &bytes).unwrap();
        let refused = matches!(Qmap::read(&Opener::anywhere(), path.path()), Err(DatasetError::Qmap { .. }));
        prop_assert!(refused);
    }
}
