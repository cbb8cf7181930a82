//! Heatmaps: as samples hold them, as the device makes them, and as samples are to hold them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::target::TargetDetection;
use crate::grid::ClassIndex;
use camflow_measure::{Attention, Measure, Measures};
use camflow_media::{BinaryMask, Checksum, RecordedChecksum, Upsampling};

/// What a stored heatmap says of itself; read back to find out what is new or changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredHeatmap {
    /// Name of the sample field.
    pub field: String,
    /// See [`crate::Fingerprint`]. `None` where the label was made by other means.
    pub fingerprint: Option<String>,
    /// Its picture, if stored by path.
    pub map_path: Option<PathBuf>,
    /// Its exact floats.
    pub npy_path: Option<PathBuf>,
    /// What the label says of the picture's content; `None` where an earlier camflow wrote it.
    pub map_checksum: Option<RecordedChecksum>,
    /// The same of the exact floats.
    pub npy_checksum: Option<RecordedChecksum>,
    /// Of a field of detections those of each; they say nothing of fingerprints.
    pub detections: Vec<StoredHeatmap>,
}

impl StoredHeatmap {
    /// Its files with what the label says of their content.
    pub fn recorded_files(&self) -> impl Iterator<Item = (&Path, Option<&RecordedChecksum>)> {
        self.heatmaps()
            .flat_map(|one| [(&one.map_path, &one.map_checksum), (&one.npy_path, &one.npy_checksum)])
            .filter_map(|(path, checksum)| Some((path.as_deref()?, checksum.as_ref())))
    }

    /// Whether somebody who read its map or its floats found them damaged.
    pub fn is_noted_damaged(&self) -> bool {
        let recorded = self.heatmaps().flat_map(|heatmap| [&heatmap.map_checksum, &heatmap.npy_checksum]);
        recorded.flatten().any(|recorded| recorded.is_damaged)
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.recorded_files().map(|(path, _)| path)
    }

    /// How many heatmaps it stands for.
    pub fn num_heatmaps(&self) -> usize {
        self.detections.len().max(1)
    }

    /// Itself and those of its detections.
    fn heatmaps(&self) -> impl Iterator<Item = &StoredHeatmap> {
        std::iter::once(self).chain(&self.detections)
    }
}

/// One map: how much each pixel of the image contributed.
#[derive(Clone, Debug, PartialEq)]
pub struct Heatmap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// f32 `[height, width]` in `[0, 1]`, row by row.
    pub values: Vec<f32>,
    /// The same in 8 bits, `round(255 * value)`: what a picture of it shows.
    pub levels: Vec<u8>,
    /// What `values` were drawn from, where that is one map and somebody wants it.
    pub layer_map: Option<LayerMap>,
}

/// The map of a layer that a heatmap was drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// f32 `[height, width]` in `[0, 1]`, row by row.
    pub values: Vec<f32>,
    /// The way to the heatmap.
    pub upsampling: Upsampling,
}

impl LayerMap {
    /// Whether the heatmap can be had from it again.
    pub(crate) fn gives(&self, heatmap: &Heatmap) -> bool {
        self.upsampling.gives(&heatmap.values, &self.values, (self.height, self.width))
    }
}

/// The heatmaps of one class of one sample, or of one detection of the class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassHeatmaps {
    /// Which class.
    pub class: ClassIndex,
    /// Which detection; `None` where they are of all of the class.
    pub detection: Option<Arc<TargetDetection>>,
    /// Channel of the model's output that was explained.
    pub channel: i64,
    /// The class whose score was subtracted, by its channel.
    pub contrast: Option<i64>,
    /// The scalar that was differentiated.
    pub score: f64,
    /// The model's probability of the class, or the mean of it over the pixels that count; `None` where nobody asked for it.
    pub confidence: Option<f64>,
    /// The pixels that count, over what the heatmaps show, at any resolution; `None` where all do, or one by its place.
    pub object: Option<BinaryMask>,
    /// Of a detector that was asked what it detects: which of its `Q` predictions count, `[Q, 1]`.
    pub detections: Option<BinaryMask>,
    /// One per column of the job: method by method, layer by layer.
    pub heatmaps: Vec<Heatmap>,
    /// What the model answered about changed images, of each heatmap; empty where nobody asked.
    pub examined: Vec<Measures>,
}

/// What a classifier predicts for an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The channel that it puts first.
    pub channel: i64,
    /// Its probability of that class, in `[0, 1]`.
    pub confidence: f64,
}

/// The same in words, beside what is true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WrittenPrediction {
    /// The class that the model puts first, by its name for it, else the channel's number; `None` where it is no classifier.
    pub class: Option<String>,
    /// The model's probability of that class.
    pub confidence: Option<f64>,
    /// The class that the label says, by the model's name for it; `None` where no label says one.
    pub true_class: Option<String>,
    /// Whether both are the same class; `None` where one is not known.
    pub is_correct: Option<bool>,
}

/// A heatmap as the sample is to hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenHeatmap {
    /// Name of the sample field.
    pub field: String,
    /// The detection that it is of, in a field of detections.
    pub detection: Option<Arc<TargetDetection>>,
    /// The class that was explained, by the model's name for it, else its channel's number.
    pub class: String,
    /// The class whose score was subtracted from that one's, likewise.
    pub contrast: Option<String>,
    /// What the App draws.
    pub map: StoredMap,
    /// The exact floats, if the job keeps them.
    pub npy_path: Option<PathBuf>,
    /// Of the picture's file.
    pub map_checksum: Option<Checksum>,
    /// Of the exact floats' file.
    pub npy_checksum: Option<Checksum>,
    /// How those floats become the heatmap, where they are not the heatmap itself.
    pub upsampling: Option<Upsampling>,
    /// The scalar that was differentiated.
    pub score: f64,
    /// Where the attention lies.
    pub measures: Measures,
    /// What of it lies on each class of another label; `None` where nobody asked, or the sample has no such label.
    pub attention: Option<Vec<Attention>>,
    /// What the model predicts for the image, and what is true.
    pub prediction: WrittenPrediction,
    /// Of everything the heatmap depends on.
    pub fingerprint: String,
}

impl WrittenHeatmap {
    /// Whether it is zero everywhere: only then it has no distribution to measure.
    pub(crate) fn is_empty(&self) -> bool {
        self.measures.get(Measure::Entropy).is_none()
    }
}

/// The picture of a heatmap.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredMap {
    /// A complete 8-bit grayscale PNG.
    File(PathBuf),
    /// A zlib stream of a complete f32 `.npy` file.
    Inline(Vec<u8>),
}
