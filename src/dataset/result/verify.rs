//! Looks at a finished result as a reader would: whether it opens and holds what its analyses are to leave.
//!
//! The correlations themselves are read, so that a damaged chunk is found; maps and images are only looked up.

use std::path::Path;

use hdf5::{Dataset, File};

use super::super::values;
use super::fault::save;
use super::tables;
use crate::dataset::reader::Files;
use crate::dataset::{DatasetError, Opener};
use crate::task::correlate::Analyses;

/// What every result holds.
const ALWAYS: [&str; 6] = [
    "/entry/schema_version",
    "/xpcs/qmap/dynamic_roi_map",
    "/xpcs/temporal_mean/scattering_1d",
    "/xpcs/temporal_mean/scattering_1d_segments",
    "/xpcs/temporal_mean/scattering_2d",
    "/xpcs/spatial_mean/intensity_vs_time",
];

/// Holds a result against its analyses.
///
/// # Errors
/// A file that does not open, lacks something or does not read.
pub fn verify(path: &Path, analyses: Analyses) -> Result<(), DatasetError> {
    let refuse = |what: String| save("verify", path, what);
    // a file of this program's own
    let opener = Opener::anywhere();
    let file = values::open(&Files::new(&opener), path, refuse)?;
    check(&file, analyses).map_err(refuse)
}

fn check(file: &File, analyses: Analyses) -> Result<(), String> {
    for name in ALWAYS {
        present(file, name)?;
    }
    if analyses.multi_tau() {
        multi_tau(file)?;
    }
    if analyses.two_time() {
        two_time(file)?;
    }
    Ok(())
}

fn multi_tau(file: &File) -> Result<(), String> {
    let at = |name: &str| format!("{}/{name}", tables::MULTI_TAU);
    present(file, &at("config/analysis_type"))?;
    let delays = numbers(file, &at("delay_list"))?.len();
    for name in ["normalized_g2", "normalized_g2_err"] {
        numbers(file, &at(name))?;
        let rows = present(file, &at(name))?.shape().first().copied();
        if rows != Some(delays) {
            return Err(format!("{} has not one row for each of {delays} delays", at(name)));
        }
    }
    Ok(())
}

fn two_time(file: &File) -> Result<(), String> {
    let at = |name: &str| format!("{}/{name}", tables::TWO_TIME);
    present(file, &at("config/analysis_type"))?;
    numbers(file, &at("normalized_g2"))?;
    numbers(file, &at("normalized_g2_segments"))?;
    for label in numbers(file, &at("processed_bins"))? {
        present(file, &tables::map_object(label as u32))?;
    }
    Ok(())
}

fn present(file: &File, name: &str) -> Result<Dataset, String> {
    values::dataset(file, name).ok_or_else(|| format!("{name} is missing"))
}

fn numbers(file: &File, name: &str) -> Result<Vec<f64>, String> {
    let read = present(file, name)?.read_raw::<f64>();
    read.map_err(|error| format!("{name} does not read: {}", values::words(&error)))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const MULTI_TAU: [&str; 4] = [
        "/xpcs/multitau/config/analysis_type",
        "/xpcs/multitau/delay_list",
        "/xpcs/multitau/normalized_g2",
        "/xpcs/multitau/normalized_g2_err",
    ];

    const TWO_TIME: [&str; 5] = [
        "/xpcs/twotime/config/analysis_type",
        "/xpcs/twotime/normalized_g2",
        "/xpcs/twotime/normalized_g2_segments",
        "/xpcs/twotime/processed_bins",
        "/xpcs/twotime/correlation_map/c2_00001",
    ];

    /// A result with three delays and one bin, `left_out` left out.
    fn result(path: &Path, left_out: &str, delays: usize) {
        let file = File::create(path).expect("created");
        for name in [&ALWAYS[..], &MULTI_TAU, &TWO_TIME].concat().into_iter().filter(|name| *name != left_out) {
            let rows = if name.ends_with("delay_list") { delays } else { 3 };
            let (group, dataset) = name.rsplit_once('/').expect("a path");
            let group = file.group(group).or_else(|_| file.create_group(group)).expect("created");
            group.new_dataset_builder().with_data(&vec![1.0_f32; rows]).create(dataset).expect("written");
        }
    }

    fn refused(path: &Path, analyses: Analyses) -> String {
        let error = verify(path, analyses).expect_err("refused");
        error.source().expect("a cause").to_string()
    }

    #[test]
    fn whatever_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("r.hdf");
        for name in [&ALWAYS[..], &MULTI_TAU, &TWO_TIME].concat() {
            result(&path, name, 3);
            assert_eq!(refused(&path, Analyses::Both), format!("{name} is missing"));
        }
        result(&path, TWO_TIME[0], 3);
        verify(&path, Analyses::MultiTau).expect("two-time was not asked for");
        result(&path, "", 3);
        verify(&path, Analyses::Both).expect("whole");
        result(&path, "", 2);
        assert!(refused(&path, Analyses::MultiTau).contains("not one row for each of 2 delays"));
        let bytes = std::fs::read(&path).expect("it reads");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        assert!(refused(&path, Analyses::Both).contains("damaged"));
    }
}
