//! A sample, and what goes along with it from stage to stage.

use std::{fmt, path::PathBuf};

use super::heatmap::StoredHeatmap;
use crate::{
    fingerprint::{Fingerprint, SampleFingerprint},
    grid::ClassIndex,
};
use camflow_media::shown;

/// One sample of the selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleRef {
    /// Position in the stream, from 0.
    pub seq: u64,
    /// The sample's id in its dataset (24 hexadecimal digits in FiftyOne).
    pub id: String,
    /// The image file.
    pub media_path: PathBuf,
}

impl fmt::Display for SampleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sample `{}` ({})", self.id, shown(&self.media_path))
    }
}

/// What every message about a sample that is to be explained carries, unchanged from its check to its files.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Which sample.
    pub sample: SampleRef,
    /// Of everything the heatmaps depend on, without class and layer.
    pub fingerprint: SampleFingerprint,
    /// The classes that are not up to date.
    pub wanted: Vec<ClassIndex>,
    /// Of everything that its predictions depend on, where they are to be stored.
    pub predictions: Option<Fingerprint>,
    /// What this job's fields hold at present.
    pub existing: Vec<StoredHeatmap>,
    /// The class that its label says; `None` where no label says one class for the image.
    pub true_class: Option<TrueClass>,
}

/// The class that a sample's label says, as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrueClass {
    /// The model's name for it.
    pub name: String,
    /// Its channels: of several only where the model gives several the same name.
    pub channels: Vec<i64>,
}

impl Envelope {
    /// Of a sample of no dataset, for which no fields are written.
    pub fn without_fields(sample: SampleRef, fingerprint: impl Into<SampleFingerprint>) -> Self {
        let (wanted, existing) = (Vec::new(), Vec::new());
        Envelope { sample, fingerprint: fingerprint.into(), wanted, predictions: None, existing, true_class: None }
    }
}
