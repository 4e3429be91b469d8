//! boost_corr's known defects, by number: a test each that shows that they are not here.

use ndarray::{Array2, Axis, s};
use speckled::correlate::bins::{Labels, Shape};
use speckled::correlate::oracle;
use speckled::correlate::twotime::Smoothing;

use crate::common::{
    Measurement, assert_close, assert_oracle, counts, entries, has, labels, numbers, run, text, write_frames,
    write_metadata,
};

const SMALL: Shape = Shape { rows: 6, cols: 8 };
const MODULE: Shape = Shape { rows: 512, cols: 1024 };

fn small(frames: usize) -> (Array2<u16>, Measurement) {
    let frames = counts(frames, SMALL.pixels(), 7);
    let measurement = Measurement::hdf5(&frames, labels(SMALL, 2));
    (frames, measurement)
}

fn floats(frames: &Array2<u16>) -> Array2<f64> {
    frames.mapv(f64::from)
}

/// Every pixel is kept and has bins.
fn full(shape: Shape) -> Labels {
    let mut labels = labels(shape, 2);
    labels.mask.fill(true);
    labels.blemish.fill(true);
    for pixel in 0..shape.cols {
        labels.dynamic_labels[pixel] = labels.dynamic_labels[pixel + shape.cols];
        labels.static_labels[pixel] = labels.static_labels[pixel + shape.cols];
    }
    labels
}

#[test]
fn defect_01_frames_are_not_mixed_up_when_every_pixel_is_valid() {
    let shape = Shape { rows: 64, cols: 64 };
    let frames = counts(300, shape.pixels(), 1);
    let measurement = Measurement::hdf5(&frames, full(shape));
    let results = ["-p a", "-p b"].map(|name| measurement.corr(&name.split(' ').collect::<Vec<_>>()).result());
    assert_oracle(&results[0], &floats(&frames), &measurement.partition(&[]), true);
    for name in ["/xpcs/multitau/normalized_g2", "/xpcs/spatial_mean/intensity_vs_time"] {
        assert_eq!(numbers(&results[0], name), numbers(&results[1], name), "{name}");
    }
}

#[test]
fn defect_02_a_run_that_fails_publishes_nothing() {
    let (frames, measurement) = small(40);
    let mut broken = frames.mapv(f32::from);
    broken[(39, 20)] = f32::NAN;
    write_frames(&measurement.raw, &broken, SMALL);
    for analysis in ["Twotime", "Both", "Multitau"] {
        let run = measurement.corr(&["-t", analysis]);
        assert!(run.error(74).contains("A0001_r00001.h5"), "{}", run.stderr);
        assert_eq!(measurement.leftovers(), [""; 0]);
    }
}

#[test]
fn defect_03_long_delays_have_the_right_means_for_every_number_of_frames() {
    for frames in [9, 127, 1024, 1025, 1026, 1027, 1031, 1040, 1056] {
        let (frames, measurement) = small(frames);
        assert_oracle(&measurement.corr(&["-nf0"]).result(), &floats(&frames), &measurement.partition(&[]), false);
    }
}

#[test]
fn defect_04_an_empty_frame_does_not_spoil_the_rest() {
    let (mut frames, measurement) = small(60);
    frames.row_mut(17).fill(0);
    frames.row_mut(59).fill(0);
    write_frames(&measurement.raw, &frames, SMALL);
    let result = measurement.corr(&["-nf", "1"]).result();
    assert_oracle(&result, &floats(&frames), &measurement.partition(&[]), true);
    assert!(numbers(&result, "/xpcs/multitau/normalized_g2").iter().all(|value| value.is_finite()));
}

#[test]
fn defect_05_counts_are_kept_whole_and_duplicates_add() {
    let pixel = 5 * 1024 + 7;
    let events = [(0, pixel, 300), (1, pixel, 4095), (2, pixel, 2), (2, pixel, 3), (3, pixel + 1, 1)];
    let measurement = Measurement::rigaku(&events, labels(MODULE, 2));
    let result = measurement.corr(&["-nf0"]).result();
    let image = numbers(&result, "/xpcs/temporal_mean/scattering_2d");
    assert_eq!(image[[0, 5, 7]], (300.0 + 4095.0 + 5.0) / 4.0);
}

#[test]
fn defect_06_gap_pixels_stay_out_of_the_normalization() {
    let (mut frames, measurement) = small(50);
    // The first row is masked out and holds what an Eiger writes into its gaps.
    frames.slice_mut(s![.., ..SMALL.cols]).fill(u16::MAX);
    write_frames(&measurement.raw, &frames, SMALL);
    let result = measurement.corr(&[]).result();
    assert_oracle(&result, &floats(&frames), &measurement.partition(&[]), true);
    let intensity = numbers(&result, "/xpcs/spatial_mean/intensity_vs_time");
    assert!(intensity.index_axis(Axis(0), 1).iter().all(|&mean| mean < 10.0));
}

#[test]
fn defect_06_saturated_pixels_leave_the_mask_with_a_warning() {
    let shape = Shape { rows: 20, cols: 20 };
    let mut frames = counts(50, shape.pixels(), 3);
    frames[(33, 2 * 20 + 5)] = u16::MAX;
    let measurement = Measurement::hdf5(&frames, labels(shape, 2));
    let run = measurement.corr(&[]);
    assert!(run.stderr.contains("warning: ") && run.stderr.contains("(2, 5) in frame 33"), "{}", run.stderr);
    assert_oracle(&run.result(), &floats(&frames), &measurement.partition(&[45]), true);
    measurement.corr(&["--saturated", "fail"]).error(74);
    let kept = measurement.corr(&["--saturated", "keep"]).result();
    assert_oracle(&kept, &floats(&frames), &measurement.partition(&[]), true);
}

#[test]
fn defect_07_two_time_works_when_every_pixel_is_valid() {
    let frames = counts(30, SMALL.pixels(), 5);
    let measurement = Measurement::hdf5(&frames, full(SMALL));
    let result = measurement.corr(&["-t", "Twotime"]).result();
    let partition = measurement.partition(&[]);
    let (wanted, maps) = oracle::two_time(&floats(&frames), &partition, Smoothing::StaticBins, &[1, 2]);
    assert_close("g2", &numbers(&result, "/xpcs/twotime/normalized_g2"), &wanted.g2.into_dyn());
    for map in maps {
        let name = format!("/xpcs/twotime/correlation_map/c2_{:05}", map.label);
        assert_close(&name, &numbers(&result, &name), &map.values.mapv(f64::from).into_dyn());
    }
}

#[test]
fn defect_08_parts_are_independent_and_complete() {
    let (frames, measurement) = small(103);
    let result = measurement.corr(&["-np", "4", "-nf0"]).result();
    let partial = numbers(&result, "/xpcs/multitau/normalized_g2_partial");
    assert_eq!(partial.shape()[0], 4);
    let partition = measurement.partition(&[]);
    for part in 0..4 {
        let own = floats(&frames.slice(s![part * 25..(part + 1) * 25, ..]).to_owned());
        let wanted = oracle::multi_tau(&own, &partition);
        let found = partial.index_axis(Axis(0), part);
        let found = found.slice_axis(Axis(0), (..wanted.delays.len()).into()).to_owned();
        assert_close("part", &found, &wanted.g2.into_dyn());
    }
    assert_eq!(numbers(&result, "/xpcs/multitau/normalized_g2_partial_labels").len(), 4);
}

#[test]
fn defect_09_names_lose_whole_endings_only() {
    let measurement = Measurement::empty("A0003_data.h5", labels(SMALL, 2));
    write_frames(&measurement.raw, &counts(20, SMALL.pixels(), 2), SMALL);
    measurement.corr(&[]).result();
    assert_eq!(measurement.leftovers(), ["A0003_data_results.hdf"]);
}

#[test]
fn defect_10_np5_is_five_parts() {
    let (_, measurement) = small(50);
    for option in ["-np5", "-np=5", "--num-seg=5"] {
        let result = measurement.corr(&[option]).result();
        assert_eq!(numbers(&result, "/xpcs/multitau/normalized_g2_partial").shape()[0], 5, "{option}");
        assert_eq!(numbers(&result, "/xpcs/multitau/config/num_partial_g2").sum(), 5.0, "{option}");
    }
}

#[test]
fn defect_11_the_second_analysis_does_not_delete_the_first() {
    let (_, measurement) = small(20);
    measurement.corr(&["-t", "Multitau"]).result();
    let second = measurement.corr(&["-t", "Twotime"]).result();
    assert_eq!(measurement.leftovers(), ["A0001_r00001_results.hdf", "A0001_r00001_results_1.hdf"]);
    assert!(second.ends_with("A0001_r00001_results_1.hdf"));
    let both = measurement.corr(&["-t", "Both", "-w"]).result();
    assert!(has(&both, "/xpcs/multitau/normalized_g2") && has(&both, "/xpcs/twotime/correlation_map"));
    assert_eq!(measurement.leftovers().len(), 2);
}

#[test]
fn defect_12_both_knows_every_option() {
    let (frames, measurement) = small(40);
    let result = measurement.corr(&["-t", "Both", "-p", "P", "-u", "S", "-np", "2"]).result();
    assert!(result.ends_with("P_A0001_r00001_S_results.hdf"), "{}", result.display());
    assert_eq!(text(&result, "/xpcs/rawdata_path"), measurement.raw.to_str().expect("UTF-8"));
    assert_eq!(numbers(&result, "/xpcs/multitau/normalized_g2_partial").shape()[0], 2);
    assert_oracle(&result, &floats(&frames), &measurement.partition(&[]), true);
}

#[test]
fn defect_13_a_configuration_file_may_hold_every_option() {
    let (_, measurement) = small(40);
    let config = measurement.dir.path().join("config.json");
    let settings = serde_json::json!({
        "raw": measurement.raw, "qmap": measurement.qmap, "output": measurement.output(), "prefix": "P",
        "suffix": "S", "bin_time_s": 1e-6, "run_config_path": "x.json", "meta_fname": measurement.metadata,
        "begin_frame": 8, "normalize_frame": false, "type": "Both",
    });
    std::fs::write(&config, settings.to_string()).expect("written");
    let config = config.to_str().expect("UTF-8");
    let result = run(["corr", "-c", config]).result();
    assert!(result.ends_with("P_A0001_r00001_S_results.hdf"));
    assert_eq!(numbers(&result, "/xpcs/spatial_mean/intensity_vs_time").shape(), [2, 32]);
    // The command line goes before the file, with a default's value too.
    let result = run(["corr", "-c", config, "-b", "0", "-t", "Multitau"]).result();
    assert_eq!(numbers(&result, "/xpcs/spatial_mean/intensity_vs_time").shape(), [2, 40]);
    assert!(!has(&result, "/xpcs/twotime"));
}

#[test]
fn defect_14_static_label_0_belongs_to_no_bin() {
    let mut labels = labels(SMALL, 2);
    for pixel in [9, 10, 20] {
        labels.static_labels[pixel] = 0;
    }
    let frames = counts(64, SMALL.pixels(), 8);
    let measurement = Measurement::hdf5(&frames, labels);
    let result = measurement.corr(&[]).result();
    assert_oracle(&result, &floats(&frames), &measurement.partition(&[]), true);
}

#[test]
fn defect_15_bins_are_averaged_over_the_pixels_that_the_mask_keeps() {
    let mut labels = labels(SMALL, 2);
    for pixel in [8, 17, 30, 31] {
        labels.mask[pixel] = false;
    }
    let frames = Array2::from_elem((64, SMALL.pixels()), 3);
    let measurement = Measurement::hdf5(&frames, labels);
    let result = measurement.corr(&["-nf0"]).result();
    assert!(numbers(&result, "/xpcs/multitau/normalized_g2").iter().all(|g2| (g2 - 1.0).abs() < 1e-6));
    assert!(numbers(&result, "/xpcs/temporal_mean/scattering_1d").iter().all(|mean| (mean - 3.0).abs() < 1e-6));
}

#[test]
fn defect_16_normalization_is_always_recorded() {
    let (_, measurement) = small(20);
    let recorded = |options: &[&str]| {
        let result = measurement.corr(options).result();
        let file = hdf5::File::open(result).expect("a result");
        file.dataset("/xpcs/multitau/config/normalize_frame").and_then(|d| d.read_scalar::<bool>()).expect("a flag")
    };
    assert!(recorded(&[]));
    assert!(recorded(&["-nf1"]));
    assert!(!recorded(&["-nf", "0"]));
}

#[test]
fn defect_17_maps_are_named_by_label_and_labels_are_checked() {
    let frames = counts(20, SMALL.pixels(), 4);
    let measurement = Measurement::hdf5(&frames, labels(SMALL, 4));
    let result = measurement.corr(&["-t", "Twotime", "-d", "2, 4"]).result();
    assert!(has(&result, "/xpcs/twotime/correlation_map/c2_00002"));
    assert!(has(&result, "/xpcs/twotime/correlation_map/c2_00004"));
    assert!(!has(&result, "/xpcs/twotime/correlation_map/c2_00001"));
    assert_eq!(numbers(&result, "/xpcs/twotime/processed_bins").iter().copied().collect::<Vec<_>>(), [2.0, 4.0]);
    let run = measurement.corr(&["-t", "Twotime", "-d", "5"]);
    assert!(run.error(65).contains("1 to 4"), "{}", run.stderr);
}

#[test]
fn defect_17_the_first_pixel_may_be_a_bin_of_its_own() {
    let mut labels = full(SMALL);
    labels.dynamic_labels.iter_mut().for_each(|label| *label += 1);
    labels.static_labels.iter_mut().for_each(|label| *label += 1);
    (labels.dynamic_labels[0], labels.static_labels[0]) = (1, 1);
    let frames = counts(20, SMALL.pixels(), 6);
    let measurement = Measurement::hdf5(&frames, labels);
    let result = measurement.corr(&["-t", "Twotime", "-d", "1", "-s", "none"]).result();
    let (_, maps) = oracle::two_time(&floats(&frames), &measurement.partition(&[]), Smoothing::None, &[1]);
    let found = numbers(&result, "/xpcs/twotime/correlation_map/c2_00001");
    assert_close("map", &found, &maps[0].values.mapv(f64::from).into_dyn());
}

#[test]
fn defect_18_metadata_are_checked_first_and_chosen_by_name() {
    let (_, measurement) = small(20);
    let own = measurement.metadata.clone();
    let other = |name: &str| measurement.dir.path().join(name);
    write_metadata(&other("A0000_metadata.hdf"));
    write_metadata(&other("Z0000_metadata.hdf"));
    let result = measurement.corr(&[]).result();
    assert_eq!(text(&result, "/xpcs/multitau/config/meta_fname"), own.to_str().expect("UTF-8"));
    std::fs::remove_file(&own).expect("removed");
    let run = measurement.corr(&["-w"]);
    assert!(run.error(73).contains("A0000_metadata.hdf"), "{}", run.stderr);
    let chosen = other("Z0000_metadata.hdf");
    measurement.corr(&["-w", "--meta-fname", chosen.to_str().expect("UTF-8")]).result();
    for name in ["A0000_metadata.hdf", "Z0000_metadata.hdf"] {
        std::fs::remove_file(other(name)).expect("removed");
    }
    // Told before anything is computed or written: not even the output directory is made.
    let elsewhere = other("elsewhere");
    let run = measurement.corr(&["-o", elsewhere.to_str().expect("UTF-8")]);
    run.error(73);
    assert!(!elsewhere.exists());
    assert_eq!(entries(measurement.dir.path()), ["A0001_r00001.h5", "qmap.h5", "results"]);
}

#[test]
fn defect_22_options_are_refused_in_one_line_and_blanks_are_allowed() {
    let (_, measurement) = small(20);
    let run = measurement.corr(&["-t", "Multi"]);
    assert!(run.error(65).contains("Multitau, Twotime or Both"));
    assert_eq!(run.stderr.lines().count(), 1);
    let result = measurement.corr(&["-t", "tWoTiMe", "-d", " 1, 2 "]).result();
    assert_eq!(numbers(&result, "/xpcs/twotime/processed_bins").len(), 2);
    let line = crate::common::run(["corr", "-r", measurement.raw.to_str().expect("UTF-8")]);
    assert!(line.error(72).contains("no qmap"));
}
