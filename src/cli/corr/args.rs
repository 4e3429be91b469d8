//! The options of `speckled corr`: names and kinds as clap sees them.
//!
//! Holds what was given, on the command line or in a configuration file, and nothing more: defaults and
//! checks are `options`'.

use std::path::PathBuf;

use clap::Args;

/// boost_corr's options (those of 0.1.7 and of the beamline's later build) and our own.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(after_help = "Prints the path of each result on stdout. Exit codes: docs/exit-codes.md.")]
pub(in crate::cli) struct CorrArgs {
    /// Raw data files (Rigaku .bin, .bin.000, .h5.000; IMM; HDF5), each correlated into its own result
    #[arg(short, long, value_name = "RAW_FILENAMES", num_args = 1..)]
    pub(in crate::cli) raw: Vec<PathBuf>,

    /// The qmap file
    #[arg(short, long, value_name = "QMAP_FILENAME")]
    pub(in crate::cli) qmap: Option<PathBuf>,

    /// Directory of the results; made if it does not exist [default: cluster_results]
    #[arg(short, long, value_name = "OUTPUT_DIR")]
    pub(in crate::cli) output: Option<PathBuf>,

    /// Smoothing of two-time correlation: sqmap, dqmap or none [default: sqmap]
    #[arg(short, long, value_name = "SMOOTH")]
    pub(in crate::cli) smooth: Option<String>,

    /// -1: CPU; -2: a GPU if there is one, else the CPU; 0 and more: that GPU [default: -1]
    #[arg(short = 'i', long, value_name = "GPU_ID", allow_negative_numbers = true)]
    pub(in crate::cli) gpu_id: Option<i64>,

    /// -nf 1: divide each frame by its mean; -nf 0: leave counts as they are [default: 1]
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(in crate::cli) normalize_frame: Option<u8>,

    /// First frame, from 0; negative: counted from the end [default: 0]
    #[arg(short, long, value_name = "FRAME", allow_negative_numbers = true)]
    pub(in crate::cli) begin_frame: Option<i64>,

    /// One past the last frame; 0 or -1: all; other negative numbers: counted from the end [default: -1]
    #[arg(short, long, value_name = "FRAME", allow_negative_numbers = true)]
    pub(in crate::cli) end_frame: Option<i64>,

    /// Take every n-th frame [default: 1]
    #[arg(short = 'f', long, value_name = "N", allow_negative_numbers = true)]
    pub(in crate::cli) stride_frame: Option<i64>,

    /// Average n frames before correlating [default: 1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub(in crate::cli) avg_frame: Option<i64>,

    /// Multitau, Twotime or Both [default: Multitau]
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    pub(in crate::cli) analysis: Option<String>,

    /// Dynamic bins for two-time, as "1,2,5-7", or "all" [default: all]
    #[arg(short, long, value_name = "LIST", allow_negative_numbers = true)]
    pub(in crate::cli) dq_selection: Option<String>,

    /// Say more: every step, and which options have no effect
    #[arg(short, long)]
    pub(in crate::cli) verbose: bool,

    /// Store the correlations of each pixel (unnormalized_G2)
    #[arg(short = 'G', long = "save-G2")]
    pub(in crate::cli) save_g2: bool,

    /// Print all parameters as JSON and compute nothing
    #[arg(short = 'n', long)]
    pub(in crate::cli) dry_run: bool,

    /// -np K: correlate K equal parts of the series besides the whole [default: 0]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(in crate::cli) num_partial_g2: Option<i64>,

    /// The same as -np
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(in crate::cli) num_segments: Option<i64>,

    /// Accepted and recorded; masked-out pixels are never correlated [default: 1.0]
    #[arg(long, value_name = "RATIO", allow_negative_numbers = true)]
    pub(in crate::cli) crop_ratio_threshold: Option<f64>,

    /// Goes before the result's name, with an underscore
    #[arg(short, long)]
    pub(in crate::cli) prefix: Option<String>,

    /// Goes after the result's name, with an underscore
    #[arg(short = 'u', long)]
    pub(in crate::cli) suffix: Option<String>,

    /// Accepted; of Timepix4 data, which are not read [default: 1e-6]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(in crate::cli) bin_time_s: Option<f64>,

    /// Accepted; of Timepix4 data, which are not read
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) run_config_path: Option<PathBuf>,

    /// Most memory to use, in GB (10^9 bytes) [default: 36 or, if less, four fifths of what is free]
    #[arg(long, value_name = "GB", allow_negative_numbers = true)]
    pub(in crate::cli) max_memory: Option<f64>,

    /// The metadata file [default: the one beside the raw file]
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) meta_fname: Option<PathBuf>,

    /// Replace an existing result instead of numbering the new one
    #[arg(short = 'w', long)]
    pub(in crate::cli) overwrite: bool,

    /// JSON file with any of these options by their long names; the command line goes before it
    #[arg(short, long, value_name = "CONFIG_JSON")]
    pub(in crate::cli) config: Option<PathBuf>,

    /// Pixels that carry the saturation value: mask, fail or keep [default: mask]
    #[arg(long, value_name = "POLICY")]
    pub(in crate::cli) saturated: Option<String>,

    /// Order of the pixels in a byte of Rigaku FTF files: little or big [default: little]
    #[arg(long, value_name = "ORDER")]
    pub(in crate::cli) ftf_bits: Option<String>,

    /// Threads [default: one for each processor]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(in crate::cli) threads: Option<i64>,

    /// Print one JSON document on stdout instead of paths
    #[arg(long)]
    pub(in crate::cli) json: bool,

    /// Say nothing on stderr but warnings and errors
    #[arg(long, conflicts_with = "verbose")]
    pub(in crate::cli) quiet: bool,
}

impl CorrArgs {
    /// These options, and the other's where these are silent. A flag can only be switched on.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            raw: if self.raw.is_empty() { other.raw } else { self.raw },
            qmap: self.qmap.or(other.qmap),
            output: self.output.or(other.output),
            smooth: self.smooth.or(other.smooth),
            gpu_id: self.gpu_id.or(other.gpu_id),
            normalize_frame: self.normalize_frame.or(other.normalize_frame),
            begin_frame: self.begin_frame.or(other.begin_frame),
            end_frame: self.end_frame.or(other.end_frame),
            stride_frame: self.stride_frame.or(other.stride_frame),
            avg_frame: self.avg_frame.or(other.avg_frame),
            analysis: self.analysis.or(other.analysis),
            dq_selection: self.dq_selection.or(other.dq_selection),
            verbose: self.verbose || (other.verbose && !self.quiet),
            save_g2: self.save_g2 || other.save_g2,
            dry_run: self.dry_run || other.dry_run,
            num_partial_g2: self.num_partial_g2.or(other.num_partial_g2),
            num_segments: self.num_segments.or(other.num_segments),
            crop_ratio_threshold: self.crop_ratio_threshold.or(other.crop_ratio_threshold),
            prefix: self.prefix.or(other.prefix),
            suffix: self.suffix.or(other.suffix),
            bin_time_s: self.bin_time_s.or(other.bin_time_s),
            run_config_path: self.run_config_path.or(other.run_config_path),
            max_memory: self.max_memory.or(other.max_memory),
            meta_fname: self.meta_fname.or(other.meta_fname),
            overwrite: self.overwrite || other.overwrite,
            config: self.config.or(other.config),
            saturated: self.saturated.or(other.saturated),
            ftf_bits: self.ftf_bits.or(other.ftf_bits),
            threads: self.threads.or(other.threads),
            json: self.json || other.json,
            quiet: self.quiet || (other.quiet && !self.verbose),
        }
    }
}
