//! What a model predicts for an image by itself, as the device finds it and as samples are to hold it.

use crate::fingerprint::Fingerprint;

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
}

/// What a model predicts for an image, in words.
#[derive(Clone, Debug, PartialEq)]
pub enum PredictedLabel {
    /// The class that it puts first.
    Classification(PredictedClass),
    /// The objects that it sees, that with the highest confidence first.
    Detections(Vec<(PredictedClass, [f64; 4])>),
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
