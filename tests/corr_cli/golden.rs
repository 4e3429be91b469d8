//! Results against the float64 references of the golden data, where the checkout lies beside them.

use std::path::Path;

use ndarray::Axis;

use crate::common::{assert_close, command, entries, finish, golden, has, numbers, run};

/// Runs `corr` on a golden case and compares with its reference group.
fn check(case: &str, raw: &str, reference: &str, group: &str, options: &[&str]) {
    let Some(case) = golden(case) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let mut args = vec!["corr".to_owned(), "-r".to_owned(), path(&case.join(raw)), "-q".to_owned()];
    args.extend([path(&case.join("qmap.hdf")), "-o".to_owned(), path(dir.path())]);
    args.extend(options.iter().map(|&option| option.to_owned()));
    let result = run(args).result();
    compare(&result, &case.join(reference), group);
    assert_eq!(entries(dir.path()), [result.file_name().expect("a name").to_str().expect("UTF-8")]);
}

fn compare(result: &Path, reference: &Path, group: &str) {
    let same = |name: &str, object: &str| {
        let found = numbers(result, object);
        let found = if name == "intensity_vs_time" { found.index_axis(Axis(0), 1).to_owned() } else { found };
        assert_close(object, &found, &numbers(reference, &format!("/{group}/{name}")));
    };
    let objects: &[(&str, &str)] = if group.starts_with("multitau") {
        &[
            ("delay_list", "/xpcs/multitau/delay_list"),
            ("normalized_g2", "/xpcs/multitau/normalized_g2"),
            ("normalized_g2_err", "/xpcs/multitau/normalized_g2_err"),
            ("scattering_1d", "/xpcs/temporal_mean/scattering_1d"),
            ("scattering_1d_segments", "/xpcs/temporal_mean/scattering_1d_segments"),
            ("scattering_2d", "/xpcs/temporal_mean/scattering_2d"),
            ("intensity_vs_time", "/xpcs/spatial_mean/intensity_vs_time"),
        ]
    } else {
        &[
            ("c2_00001", "/xpcs/twotime/correlation_map/c2_00001"),
            ("c2_00002", "/xpcs/twotime/correlation_map/c2_00002"),
            ("normalized_g2", "/xpcs/twotime/normalized_g2"),
            ("normalized_g2_segments", "/xpcs/twotime/normalized_g2_segments"),
            ("processed_bins", "/xpcs/twotime/processed_bins"),
        ]
    };
    objects.iter().for_each(|(name, object)| same(name, object));
}

const HDF5: (&str, &str, &str) = ("case_hdf_64x96", "F0009_r00001.h5", "reference.h5");
const RIGAKU: (&str, &str, &str) = ("case_rigaku500k_bin", "B0004_r00001.bin", "reference.h5");
const RIGAKU_3M: (&str, &str, &str) = ("case_rigaku3m", "G0011_f000064_r00001.bin.000", "reference.h5");
const IMM_SPARSE: (&str, &str, &str) = ("case_imm", "H0012_sparse_00001-00040.imm", "reference_sparse.h5");
const IMM_DENSE: (&str, &str, &str) = ("case_imm", "H0012_dense_00001-00040.imm", "reference_dense.h5");

fn check_case((case, raw, reference): (&str, &str, &str), group: &str, options: &[&str]) {
    check(case, raw, reference, group, options);
}

/// The multi-tau references of all frames, which every case has.
fn check_multi_tau(case: (&str, &str, &str)) {
    check_case(case, "multitau_nf0", &["-nf", "0"]);
    check_case(case, "multitau_nf1", &[]);
}

/// The reference of some frames, averaged, which not every case has.
fn check_window(case: (&str, &str, &str)) {
    check_case(case, "multitau_nf1_begin5_stride2_avg3", &["-b", "5", "-f", "2", "-a", "3"]);
}

#[test]
fn hdf5_multi_tau() {
    check_multi_tau(HDF5);
    check_window(HDF5);
}

#[test]
fn hdf5_two_time() {
    for smooth in ["sqmap", "dqmap", "none"] {
        check_case(HDF5, &format!("twotime_{smooth}"), &["-t", "Twotime", "-s", smooth]);
    }
}

#[test]
fn hdf5_both_in_one_file() {
    let Some(case) = golden(HDF5.0) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let args = ["-r", "F0009_r00001.h5", "-q", "qmap.hdf", "-t", "both", "-G", "-o"];
    let mut command = command(std::iter::once("corr").chain(args));
    command.arg(dir.path()).current_dir(&case);
    let result = finish(command).result();
    compare(&result, &case.join(HDF5.2), "multitau_nf1");
    compare(&result, &case.join(HDF5.2), "twotime_sqmap");
    assert!(has(&result, "/xpcs/multitau/unnormalized_G2"));
}

#[test]
fn rigaku_500k() {
    check_multi_tau(RIGAKU);
}

#[test]
fn rigaku_3m() {
    check_multi_tau(RIGAKU_3M);
}

#[test]
fn imm_sparse() {
    check_multi_tau(IMM_SPARSE);
    check_window(IMM_SPARSE);
}

#[test]
fn imm_dense() {
    check_multi_tau(IMM_DENSE);
    check_window(IMM_DENSE);
}
