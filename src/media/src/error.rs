//! What can go wrong with files and numbers. Every message is complete in one line: which file, what, and what to do.

use std::{io, path::PathBuf};

use super::{elsewhere::why_unreadable, file::shown, step::SampleRange};
use camflow_diagnostic::{Diagnose, Diagnostic};
use camflow_names::counted;

/// A fault of one file or one array; none of them concerns the run as a whole.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The operating system refused to open or read the file.
    #[error("cannot read `{}`: {}", shown(path), why_unreadable(path, cause))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Somebody wrote it meanwhile.
    #[error("`{}` changed while it was read: try again when it is complete", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system does not say whether a heatmap's file is there.
    #[error(
        "cannot see the heatmap `{}`: {cause}; make its folder readable, or compute it again with `--overwrite`",
        shown(path)
    )]
    Unseen {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A directory, pipe, device or socket.
    #[error("`{}` is {what}, not a file", shown(path))]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// Zero bytes.
    #[error("`{}` is empty (0 bytes): copy or download it again", shown(path))]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The content is of no format that is read here, whatever the name says.
    #[error("`{}` {what}; camflow reads JPEG, PNG, TIFF, WebP, GIF, BMP, PPM, TGA, ICO, PCX, SGI and QOI", shown(path))]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        what: String,
    },
    /// The file is of a known format but broken, or uses something that is not read here.
    #[error("cannot decode `{}`: {reason}", shown(path))]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// What the decoder found.
        reason: String,
    },
    /// Another number of channels than the model takes.
    #[error(
        "`{}` has {}, and the model takes {wanted}: convert it, or export the model for such images (`--channels`)",
        shown(path),
        counted(*channels, "channel", "channels")
    )]
    Channels {
        /// The file.
        path: PathBuf,
        /// Its channels.
        channels: usize,
        /// Those that the model takes.
        wanted: usize,
    },
    /// Samples of another range than the model's preprocessing says.
    #[error(
        "`{}` has samples of {found}, and the model takes samples {wanted}: convert it, or export the model with the `--samples` of its images",
        shown(path)
    )]
    Range {
        /// The file.
        path: PathBuf,
        /// The range of its samples.
        found: String,
        /// That of the samples that the model takes.
        wanted: SampleRange,
    },
    /// More pixels or bytes than the limits allow.
    #[error("`{}` is too large: {what}, the limit is {limit}; make it smaller or raise the limit", shown(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it is, with its unit.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// Not an array that can be used.
    #[error("{origin}: {reason}")]
    Array {
        /// Where the bytes come from: a file in backticks, or words.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A mask that cannot be read, or that cannot hold what is asked of it.
    #[error("mask: {reason}")]
    Mask {
        /// What is wrong.
        reason: String,
    },
    /// A label whose shape cannot be drawn.
    #[error("label: {reason}")]
    Shape {
        /// What is wrong.
        reason: String,
    },
    /// The preprocessing steps contradict each other or this image.
    #[error("preprocessing: {reason}")]
    Preprocess {
        /// What is wrong.
        reason: String,
    },
    /// A picture could not be made from these numbers.
    #[error("cannot encode the picture: {reason}")]
    Encode {
        /// What is wrong.
        reason: String,
    },
    /// The file could not be written.
    #[error("cannot write `{}`: {cause}", shown(path))]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// What to do stands in the message: a run lists its failed samples by one line each.
impl Diagnose for MediaError {
    fn diagnose(&self) -> Diagnostic {
        Diagnostic::invalid(self.to_string())
    }
}

impl MediaError {
    /// Shorthand for what is wrong with an array.
    pub(super) fn array(origin: &str, reason: impl Into<String>) -> Self {
        MediaError::Array { origin: origin.to_owned(), reason: reason.into() }
    }

    /// Shorthand for what is wrong with a mask.
    pub(super) fn mask(reason: impl Into<String>) -> Self {
        MediaError::Mask { reason: reason.into() }
    }

    /// Shorthand for what is wrong with a label's shape.
    pub fn shape(reason: impl Into<String>) -> Self {
        MediaError::Shape { reason: reason.into() }
    }

    /// Shorthand for what is wrong with the preprocessing.
    pub(super) fn preprocess(reason: impl Into<String>) -> Self {
        MediaError::Preprocess { reason: reason.into() }
    }

    /// Shorthand for what is wrong with numbers that shall become a picture.
    pub(super) fn encode(reason: impl Into<String>) -> Self {
        MediaError::Encode { reason: reason.into() }
    }
}
