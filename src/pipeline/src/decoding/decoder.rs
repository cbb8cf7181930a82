//! What decoding goes by: the job's targets and settings.

use super::{attention::AttentionOn, masks::SeenMasks};
use crate::{
    fields::HeatmapFields,
    fingerprint::Fingerprint,
    grid::ClassIndex,
    label_names::LabelNames,
    message::{PredictionField, SampleFailure, SampleRef, Skip, SkipReason, Step, StoredHeatmap, TargetClass},
    stage::Stage,
};
use camflow_media::{ExifPolicy, ImageLimits, MediaError, Preprocess, Slicing};

/// What a job explains in each sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// These classes, where the sample's label or else the model's prediction puts them.
    Classes(Vec<TargetClass>),
    /// These classes at one pixel of the image as it is read.
    Pixel {
        /// The classes.
        classes: Vec<TargetClass>,
        /// Column, from 0.
        x: u32,
        /// Row, from 0.
        y: u32,
    },
    /// The class that the model itself puts first.
    Top,
    /// The class that the sample is labelled with.
    OwnClass,
    /// Of samples that a classifier misclassifies, in this order ([`Targets::WRONG`]): the class that it predicts, the one that the
    /// sample is labelled with, and what speaks for the first one against the second, the difference of their scores.
    Wrong,
}

impl Targets {
    /// How many classes a sample can have: the length of the job's list of classes.
    pub fn num_classes(&self) -> usize {
        match self {
            Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes.len(),
            Targets::Top | Targets::OwnClass => 1,
            Targets::Wrong => Self::WRONG.len(),
        }
    }

    /// What is explained of a misclassified sample, as fields are called.
    pub const WRONG: [&str; 3] = ["predicted", "true", "difference"];

    /// Whether what is explained hangs on which class the label names.
    pub(super) fn is_of_own_class(&self) -> bool {
        matches!(self, Targets::OwnClass | Targets::Wrong)
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = ClassIndex> + use<> {
        (0..self.num_classes()).map(ClassIndex)
    }
}

/// How selected samples are turned into the model's input.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The model's own preprocessing.
    pub preprocess: Preprocess,
    /// What the job explains.
    pub targets: Targets,
    /// Which labels are of which class.
    pub labels: LabelNames,
    /// The fields that the job writes.
    pub fields: HeatmapFields,
    /// How large a file may be.
    pub limits: ImageLimits,
    /// Whether images are turned as their EXIF data say.
    pub exif: ExifPolicy,
    /// Of the job's settings.
    pub fingerprint: Fingerprint,
    /// Compute again what is up to date.
    pub overwrite: bool,
    /// Whether the model is a detector, whose predictions are found by boxes.
    pub is_detector: bool,
    /// Whether the label says one class for the whole image, with which predictions are compared.
    pub has_truth: bool,
    /// Whether each object of a class gets heatmaps of its own.
    pub per_detection: bool,
    /// How images are cut that are larger than a slice; `None`: none is.
    pub slicing: Option<Slicing>,
    /// The label whose classes heatmaps are measured on.
    pub attention: Option<AttentionOn>,
    /// Where what the model predicts for each sample is kept.
    pub predictions: Option<PredictionField>,
    /// Notes the masks that are read.
    pub masks: SeenMasks,
}

impl Decoder {
    /// The heatmaps of classes that are wanted, which a sample loses where none of these is there any more.
    pub(super) fn withdrawn<'a>(
        &self,
        wanted: &[ClassIndex],
        existing: &'a [StoredHeatmap],
    ) -> impl Iterator<Item = &'a StoredHeatmap> {
        self.fields.withdrawn(existing, |class| wanted.contains(&class))
    }
}

/// Why a sample goes no further.
#[derive(Debug)]
pub(super) enum Stop {
    Skip(SkipReason),
    Fail(MediaError),
}

impl From<SkipReason> for Stop {
    fn from(reason: SkipReason) -> Self {
        Stop::Skip(reason)
    }
}

impl From<MediaError> for Stop {
    fn from(error: MediaError) -> Self {
        Stop::Fail(error)
    }
}

impl Stop {
    pub(super) fn of<T>(self, sample: SampleRef) -> Step<T> {
        match self {
            Stop::Skip(reason) => Step::Skip(Skip { sample, reason }),
            Stop::Fail(error) => Step::Fail(SampleFailure { sample, stage: Stage::Decode, error: error.to_string() }),
        }
    }
}
