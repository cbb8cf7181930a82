//! What was measured of a sample, as it is read back from its labels.

use std::path::PathBuf;

use super::{Attention, Measures};

/// A sample with measured heatmaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeasuredSample {
    /// Its id in the dataset.
    pub id: String,
    /// The image file.
    pub media_path: PathBuf,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its heatmaps, field by field.
    pub heatmaps: Vec<MeasuredHeatmap>,
}

/// A heatmap with its measures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeasuredHeatmap {
    /// What it is one of.
    pub series: Series,
    /// The detection that it is of alone.
    pub detection: Option<MeasuredDetection>,
    /// The scalar that was differentiated.
    pub score: Option<f64>,
    /// Its numbers.
    pub measures: Measures,
    /// The label field whose classes it was measured on, where that was asked.
    pub attention_on: Option<String>,
    /// What of it lies on each of them; empty where the sample has no such label.
    pub attention: Vec<Attention>,
    /// The class whose score was subtracted from that of the explained one.
    pub contrast: Option<String>,
    /// What a classifier predicts for the image.
    pub prediction: Option<StoredPrediction>,
    /// Its picture, if stored by path.
    pub map_path: Option<PathBuf>,
    /// Its exact floats.
    pub npy_path: Option<PathBuf>,
    /// How those floats become the heatmap, where they are not the heatmap itself: the numbers that labels hold.
    pub upsampling: Vec<i64>,
}

/// A detection that has a heatmap of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeasuredDetection {
    /// Its id, that of the detection that it is a copy of; empty where it has none.
    pub id: String,
    /// Left, top, width and height, in fractions of the image.
    pub bounds: [f64; 4],
}

/// What a classifier predicts for an image, whatever is explained of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredPrediction {
    /// The class that it puts first.
    pub class: String,
    /// Its probability of that class, in `[0, 1]`.
    pub confidence: Option<f64>,
    /// The class that the label says; `None` where no label says one.
    pub true_class: Option<String>,
    /// Whether both are the same; `None` where no label says one.
    pub is_correct: Option<bool>,
}

/// Heatmaps that can be compared with each other: one of each sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// Name of the sample field.
    pub field: String,
    /// The class that was explained.
    pub class: String,
    /// The layer, by its module path.
    pub layer: String,
    /// The CAM method.
    pub method: String,
    /// The model's name.
    pub model: String,
}
