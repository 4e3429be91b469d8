//! `speckled simulate`: options to a scene and a format, and the files that were made.
//!
//! Decides nothing about physics or layouts, and does not print.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::correlate::bins::Shape;
use crate::dataset::hdf5::write::FrameFilter;
use crate::dataset::write::{Format, write_dataset};
use crate::dataset::{DatasetError, PixelType};
use crate::simulate::{Binning, Dynamics, Relaxation, Scene, SceneGeometry};

/// Image of formats that do not imply one.
const DEFAULT_SHAPE: Shape = Shape { rows: 512, cols: 512 };

const EXAMPLES: &str = "\
Examples:
  A 500k event file whose speckles relax in 200 frames at the smallest q, faster as q^-2 further out:
      speckled simulate --format rigaku --frames 10000 --counts 0.02 --tau 200 -o demo
      speckled corr -r demo/sim.bin -q demo/sim_qmap.hdf -o demo
  The same with a relaxation time for each of 4 dynamic q rings:
      speckled simulate --format rigaku --q-dynamic 4 --q-static 40 --tau 300,120,50,20 -o demo
  Benchmark data, 0.5 % of the pixels lit in a frame, no speckles:
      speckled simulate --format rigaku3m --frames 10000 --counts 0.005 --dynamics none -o bench
  Compressed 16-bit frames with dead pixels and frames that were lost:
      speckled simulate --format hdf5 --rows 1024 --cols 1024 --frames 500 --counts 2 --dead 20 \\
          --empty-frames 0,250 -o demo";

/// Options of `speckled simulate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SimulateArgs {
    /// Format of the raw data
    #[arg(short, long, value_enum)]
    format: RawFormat,
    /// Directory for the files, created when missing
    #[arg(short, long, default_value = ".")]
    output: PathBuf,
    /// Start of the file names
    #[arg(long, default_value = "sim")]
    name: String,
    /// Replace files that exist
    #[arg(short = 'w', long)]
    overwrite: bool,

    /// Number of frames
    #[arg(short = 'n', long, default_value_t = 1000)]
    frames: u64,
    /// Seconds from frame to frame
    #[arg(long, default_value_t = 1e-3, value_name = "SECONDS")]
    frame_time: f64,
    /// Mean counts of a pixel in a frame
    #[arg(long, default_value_t = 0.1)]
    counts: f64,
    /// p of an intensity that falls as q^-p; 0 = the same everywhere
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    profile: f64,
    /// Frames without any counts, as 0,17,18
    #[arg(long, value_delimiter = ',', value_name = "FRAMES")]
    empty_frames: Vec<u64>,
    /// Seed of the random numbers; the same seed makes the same data
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Whether speckles move
    #[arg(long, value_enum, default_value_t = Motion::Relaxing, help_heading = "Speckles")]
    dynamics: Motion,
    /// Speckle contrast: g2 starts at 1 + contrast
    #[arg(long, default_value_t = 0.2, help_heading = "Speckles")]
    contrast: f64,
    /// Relaxation time tau of g2 = 1 + contrast * exp(-2 t / tau), in frames: at the smallest q, or one for each
    /// dynamic q ring
    #[arg(long, value_delimiter = ',', default_value = "100", value_name = "FRAMES", help_heading = "Speckles")]
    tau: Vec<f64>,
    /// n of a relaxation time that falls as q^-n (with a single --tau)
    #[arg(long, default_value_t = 2.0, value_name = "N", help_heading = "Speckles")]
    tau_exponent: f64,

    /// Rows of the image [default: the detector's, or 512]
    #[arg(long, help_heading = "Detector")]
    rows: Option<usize>,
    /// Columns of the image [default: the detector's, or 512]
    #[arg(long, help_heading = "Detector")]
    cols: Option<usize>,
    /// Column of the direct beam [default: the middle]
    #[arg(long, value_name = "PIXELS", help_heading = "Detector", allow_negative_numbers = true)]
    beam_x: Option<f64>,
    /// Row of the direct beam [default: the middle]
    #[arg(long, value_name = "PIXELS", help_heading = "Detector", allow_negative_numbers = true)]
    beam_y: Option<f64>,
    /// Edge of a pixel
    #[arg(long, default_value_t = 76e-6, value_name = "METRES", help_heading = "Detector")]
    pixel_size: f64,
    /// Sample to detector
    #[arg(long, default_value_t = 8.0, value_name = "METRES", help_heading = "Detector")]
    distance: f64,
    /// Photon energy
    #[arg(long, default_value_t = 10.0, value_name = "KEV", help_heading = "Detector")]
    energy: f64,
    /// Masked-in pixels that never count: half of them marked and left in the mask where the format has a mark,
    /// the others blemished
    #[arg(long, default_value_t = 0, value_name = "PIXELS", help_heading = "Detector")]
    dead: usize,

    /// Static q rings, a multiple of the dynamic ones
    #[arg(long = "q-static", default_value = "36", value_name = "RINGS", help_heading = "Bins")]
    static_q: NonZeroUsize,
    /// Dynamic q rings
    #[arg(long = "q-dynamic", default_value = "6", value_name = "RINGS", help_heading = "Bins")]
    dynamic_q: NonZeroUsize,
    /// Sectors that rings are cut into
    #[arg(long, default_value = "1", value_name = "SECTORS", help_heading = "Bins")]
    phi: NonZeroUsize,
    /// Fraction of the pixels that is masked in: an annulus around the beam
    #[arg(long, default_value_t = 0.35, value_name = "FRACTION", help_heading = "Bins")]
    mask_fraction: f64,

    /// Element type of hdf5 and eiger [default: u16]
    #[arg(long, value_enum, help_heading = "HDF5")]
    dtype: Option<Dtype>,
    /// Compression of hdf5 and eiger [default: bslz4]
    #[arg(long, value_enum, help_heading = "HDF5")]
    compression: Option<Compression>,
    /// Frames of a data file of eiger [default: 1000]
    #[arg(long, value_name = "FRAMES", help_heading = "HDF5")]
    frames_per_file: Option<NonZeroU64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RawFormat {
    /// Rigaku 500k events, one .bin of 512 x 1024
    Rigaku,
    /// Rigaku 3M events, six .bin.00k
    Rigaku3m,
    /// IMM with lists of lit pixels
    ImmSparse,
    /// IMM with whole frames
    ImmDense,
    /// HDF5 with /entry/data/data
    Hdf5,
    /// Eiger master file and data files
    Eiger,
    /// Rigaku 3M fast transfer, six .h5.00k of 2-bit pixels
    Ftf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Motion {
    /// Speckles relax
    Relaxing,
    /// No speckles: constant rates, the fastest to make
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    U8,
    U16,
    U32,
    I16,
    I32,
    F32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compression {
    /// Bitshuffle and lz4
    Bslz4,
    /// Uncompressed
    None,
}

/// Makes the dataset: the raw file first, then the qmap and the metadata.
///
/// # Errors
/// Options that make no sense, files that exist, what the file system refuses.
pub(super) fn run(args: &SimulateArgs) -> Result<Vec<PathBuf>, DatasetError> {
    let format = args.format()?;
    let scene = args.scene(format);
    let files = format.files(scene.frames, &args.output, &args.name);
    let mut all = files.raw_files.iter().chain([&files.qmap, &files.metadata]);
    if let Some(path) = all.find(|path| !args.overwrite && path.exists()) {
        let what = "the file exists".to_owned();
        let remedy = "choose another --name or add --overwrite";
        return Err(DatasetError::Unsupported { path: path.clone(), what, remedy: remedy.into() });
    }
    let made = write_dataset(&scene, format, &args.output, &args.name)?;
    Ok(vec![made.raw, made.qmap, made.metadata])
}

impl SimulateArgs {
    fn format(&self) -> Result<Format, DatasetError> {
        let given = [
            ("--dtype", self.dtype.is_some()),
            ("--compression", self.compression.is_some()),
            ("--frames-per-file", self.frames_per_file.is_some()),
        ];
        let applying = match self.format {
            RawFormat::Eiger => 3,
            RawFormat::Hdf5 => 2,
            RawFormat::Rigaku | RawFormat::Rigaku3m | RawFormat::ImmSparse | RawFormat::ImmDense | RawFormat::Ftf => 0,
        };
        if let Some((option, _)) = given[applying..].iter().find(|(_, given)| *given) {
            let what = format!("{option} does not apply to this format");
            let path = self.output.join(&self.name);
            return Err(DatasetError::Unsupported {
                path,
                what,
                remedy: "leave it out or choose eiger or hdf5".into(),
            });
        }
        let pixel = self.dtype.map_or(PixelType::U16, Dtype::pixel_type);
        let filter = match self.compression {
            None | Some(Compression::Bslz4) => FrameFilter::BitshuffleLz4,
            Some(Compression::None) => FrameFilter::None,
        };
        const FRAMES_PER_FILE: NonZeroU64 = NonZeroU64::MIN.saturating_add(999);
        Ok(match self.format {
            RawFormat::Rigaku => Format::Rigaku,
            RawFormat::Rigaku3m => Format::Rigaku3m,
            RawFormat::ImmSparse => Format::ImmSparse,
            RawFormat::ImmDense => Format::ImmDense,
            RawFormat::Hdf5 => Format::Hdf5 { pixel, filter },
            RawFormat::Eiger => {
                let frames_per_file = self.frames_per_file.unwrap_or(FRAMES_PER_FILE);
                Format::Eiger { pixel, filter, frames_per_file }
            }
            RawFormat::Ftf => Format::Ftf,
        })
    }

    fn scene(&self, format: Format) -> Scene {
        let implied = format.shape().unwrap_or(DEFAULT_SHAPE);
        let shape = Shape { rows: self.rows.unwrap_or(implied.rows), cols: self.cols.unwrap_or(implied.cols) };
        let middle = SceneGeometry::centred(shape);
        Scene {
            geometry: SceneGeometry {
                pixel_size: self.pixel_size,
                distance: self.distance,
                energy: self.energy,
                beam_row: self.beam_y.unwrap_or(middle.beam_row),
                beam_col: self.beam_x.unwrap_or(middle.beam_col),
            },
            frame_time: self.frame_time,
            counts: self.counts,
            profile: self.profile,
            dynamics: self.dynamics(),
            bins: Binning {
                static_q: self.static_q,
                dynamic_q: self.dynamic_q,
                phi: self.phi,
                mask_fraction: self.mask_fraction,
            },
            dead: self.dead,
            empty_frames: self.empty_frames.clone(),
            seed: self.seed,
            ..Scene::new(shape, self.frames)
        }
    }

    fn dynamics(&self) -> Dynamics {
        let tau = match self.tau[..] {
            [slowest] => Relaxation::PowerLaw { slowest, exponent: self.tau_exponent },
            _ => Relaxation::Each(self.tau.clone()),
        };
        match self.dynamics {
            Motion::None => Dynamics::Steady,
            Motion::Relaxing => Dynamics::Relaxing { contrast: self.contrast, tau },
        }
    }
}

impl Dtype {
    fn pixel_type(self) -> PixelType {
        match self {
            Self::U8 => PixelType::U8,
            Self::U16 => PixelType::U16,
            Self::U32 => PixelType::U32,
            Self::I16 => PixelType::I16,
            Self::I32 => PixelType::I32,
            Self::F32 => PixelType::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn parse(options: &str) -> SimulateArgs {
        Program::try_parse_from(std::iter::once("simulate").chain(options.split(' '))).expect("options").args
    }

    #[test]
    fn options_become_the_scene() {
        let args = parse("--format rigaku --tau 30,20,10 --q-dynamic 3 --beam-x -5 --empty-frames 1,3 --counts 0.5");
        let scene = args.scene(args.format().expect("format"));
        assert_eq!(scene.shape, Shape { rows: 512, cols: 1024 });
        assert_eq!((scene.geometry.beam_row, scene.geometry.beam_col), (256.0, -5.0));
        assert_eq!((scene.counts, scene.empty_frames), (0.5, vec![1, 3]));
        let tau = Relaxation::Each(vec![30.0, 20.0, 10.0]);
        assert_eq!(scene.dynamics, Dynamics::Relaxing { contrast: 0.2, tau });
    }

    #[test]
    fn options_of_another_format_are_refused() {
        for options in ["--format rigaku --dtype u8", "--format hdf5 --frames-per-file 5"] {
            let message = parse(options).format().expect_err(options).to_string();
            assert!(message.contains("does not apply"), "{message}");
        }
        let eiger = parse("--format eiger --dtype u32 --compression none --frames-per-file 5").format();
        let frames_per_file = NonZeroU64::new(5).expect("5");
        let expected = Format::Eiger { pixel: PixelType::U32, filter: FrameFilter::None, frames_per_file };
        assert_eq!(eiger.expect("eiger"), expected);
    }

    #[test]
    fn files_that_exist_stay_unless_asked() {
        let dir = tempfile::tempdir().expect("directory");
        let options = format!("--format imm-dense --rows 32 --cols 32 --q-static 6 -n 5 -o {}", dir.path().display());
        let files = run(&parse(&options)).expect("first");
        let names: Vec<_> = files.iter().map(|f| f.file_name().expect("name").to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["sim.imm", "sim_qmap.hdf", "sim_metadata.hdf"]);
        let message = run(&parse(&options)).expect_err("second").to_string();
        assert!(message.contains("sim.imm: the file exists"), "{message}");
        run(&parse(&format!("{options} -w"))).expect("third");
    }
}
