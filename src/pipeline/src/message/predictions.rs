//! What a model predicts for an image by itself, as the device finds it and as samples are to hold it.

use std::path::PathBuf;

use crate::fingerprint::Fingerprint;
use camflow_media::{Checksum, FrameRegion};

/// One object that a detector sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detected {
    /// The channel that wins the prediction.
    pub channel: i64,
    /// The model's probability of that class, in `[0, 1]`.
    pub confidence: f64,
    /// Left, top, width and height in fractions of the image's sides.
    pub bounds: [f64; 4],
}

/// The class of each pixel of a segmentation network's output.
#[derive(Clone, Debug, PartialEq)]
pub struct PixelClasses {
    /// Rows of the output.
    pub height: usize,
    /// Columns of the output.
    pub width: usize,
    /// What stands for each class in masks, row by row.
    pub values: Vec<i16>,
    /// Rows and columns of the model's input, which the output lies over.
    pub input: (usize, usize),
    /// Where that lies in the image.
    pub region: FrameRegion,
}

impl PixelClasses {
    /// The same over the image, row by row, by nearest neighbour; `unseen` where the model did not look.
    pub fn on_image(&self, unseen: u16) -> Vec<u16> {
        let [rows, columns] = self.region.shown_by((self.height, self.width), self.input);
        let value = |row: usize, column: usize| self.values[row * self.width + column].unsigned_abs();
        let pixel =
            |row: Option<usize>, column: Option<usize>| row.zip(column).map_or(unseen, |(row, column)| value(row, column));
        rows.iter().flat_map(|row| columns.iter().map(move |column| pixel(*row, *column))).collect()
    }
}

/// The field that gets what the model predicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictionField {
    /// Its name in the samples.
    pub name: String,
    /// What it holds.
    pub kind: PredictionKind,
    /// The model's name.
    pub model: String,
    /// Of what all predictions of the job are made from.
    pub fingerprint: Fingerprint,
}

/// What a model's predictions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionKind {
    /// A class for the image.
    Classification,
    /// Objects with boxes.
    Detections,
    /// A class for each pixel.
    Segmentation {
        /// What stands in masks for what the model does not see.
        unseen: u16,
    },
}

/// What a model predicts for an image, in words.
#[derive(Clone, Debug, PartialEq)]
pub enum PredictedLabel {
    /// The class that it puts first.
    Classification(PredictedClass),
    /// The objects that it sees, that with the highest confidence first.
    Detections(Vec<(PredictedClass, [f64; 4])>),
    /// A mask of the image's size.
    Segmentation {
        /// A complete grayscale PNG, in which the number of its channel stands for a class.
        mask_path: PathBuf,
        /// Of the file.
        checksum: Checksum,
    },
}

impl PredictedLabel {
    /// Its file, with what was written.
    pub fn file(&self) -> Option<(&PathBuf, &Checksum)> {
        match self {
            PredictedLabel::Classification(_) | PredictedLabel::Detections(_) => None,
            PredictedLabel::Segmentation { mask_path, checksum } => Some((mask_path, checksum)),
        }
    }
}

/// A class with how sure the model is.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictedClass {
    /// Its name, else the channel's number.
    pub label: String,
    /// The model's probability of it, in `[0, 1]`.
    pub confidence: f64,
}

/// Predictions as the sample is to hold them.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenPredictions {
    /// Name of the sample field.
    pub field: String,
    /// What is predicted.
    pub label: PredictedLabel,
    /// The model's name.
    pub model: String,
    /// Of everything that they depend on.
    pub fingerprint: String,
}
