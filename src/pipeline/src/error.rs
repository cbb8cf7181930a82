//! What ends a run before its time.

use bytesize::ByteSize;

use crate::{max_failures::MaxFailures, stage::Stage};
use camflow_diagnostic::{Class, Diagnose, Diagnostic};

/// A fault that ends the run. What was committed stays; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database went away or refused: what happened, to which dataset, and what to do.
    #[error("{0}")]
    Database(Diagnostic),
    /// Files cannot be written any more.
    #[error("cannot write to `{}`: {source}", camflow_media::shown(path))]
    Output {
        /// The folder or file.
        path: std::path::PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The device cannot go on.
    #[error("{0}")]
    Device(String),
    /// More samples failed than the job allows.
    #[error(
        "{failed} of {num_samples} samples failed, more than the {} that `--max-failures {allowed}` allows; the first: {first}",
        allowed.most(*num_samples)
    )]
    TooManyFailures {
        /// Samples that failed, without known failures.
        failed: u64,
        /// Samples of the selection.
        num_samples: u64,
        /// The job's limit.
        allowed: MaxFailures,
        /// The first failure's text.
        first: String,
    },
    /// The heatmaps that are left to make need more room than there is.
    #[error(
        "the heatmaps will not fit: those of the {num_samples} images that are left take about {}, and `{}` has {} free",
        ByteSize(*needed).display().iec(), camflow_media::shown(folder), ByteSize(*free).display().iec()
    )]
    NoSpace {
        /// Where the files go.
        folder: std::path::PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Images that are left.
        num_samples: u64,
    },
    /// A stage panicked or could not be started.
    #[error("the {0} stage stopped unexpectedly; this is a bug in camflow")]
    Bug(Stage),
}

impl Diagnose for RunError {
    fn diagnose(&self) -> Diagnostic {
        let aborted = Diagnostic::aborted(self.to_string());
        match self {
            RunError::Database(error) => error.clone().of_class(Class::Aborted),
            RunError::Output { source, .. } => aborted.hint(format!("{}; run the same command again to go on", remedy(source))),
            RunError::TooManyFailures { .. } => aborted.hint(
                "look whether a disk is missing or the model is another one; repair or remove the samples, or raise `--max-failures`",
            ),
            RunError::Device(_) => aborted.hint(
                "`nvidia-smi` and the system's log (`dmesg`) say whether the GPU itself is at fault; run the same command again to go on",
            ),
            RunError::NoSpace { .. } => aborted
                .hint("free space or choose another folder with `--out`, then run the same command again to go on")
                .hint("less is written with `--npy none` or `f16`, fewer layers, methods or classes")
                .hint("`--no-space-check` goes on until the disk is full"),
            RunError::Bug(_) => aborted,
        }
    }
}

/// What helps when files cannot be written.
fn remedy(cause: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match cause.kind() {
        ErrorKind::FileTooLarge => "the process may write no larger files: raise the limit (`ulimit -f`)",
        ErrorKind::PermissionDenied => "see to the folder's permissions, or choose another folder with `--out`",
        ErrorKind::InvalidFilename => "choose shorter names with `--field`, or another folder with `--out`",
        _ if cause.raw_os_error() == Some(libc::EMFILE) => "raise the limit on open files (`ulimit -n`)",
        _ => "free space or choose another folder with `--out`",
    }
}
