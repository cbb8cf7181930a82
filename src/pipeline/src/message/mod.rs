//! What travels between the stages. Roles for stages, participles for messages: a [`SelectedSample`] is read, a [`StaleSample`]
//! checked, a [`DecodedSample`] decoded, an [`InputBatch`] batched, a [`HeatmapBatch`] explained, a [`SampleUpdate`] written and
//! committed.
//!
//! Every [`SampleRef`] that leaves the source ends exactly once: as an update, a [`Skip`] or a [`SampleFailure`].

mod heatmap;
mod label;
mod predictions;
mod sample;
mod slices;
mod step;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use heatmap::{ClassHeatmaps, Heatmap, LayerMap, Prediction, StoredHeatmap, StoredMap, WrittenHeatmap, WrittenPrediction};
pub use label::{Evaluated, StoredMask, StoredObject, StoredShape, StoredTarget};
pub use predictions::{
    Detected, PixelClasses, PredictedClass, PredictedLabel, PredictionField, PredictionKind, WrittenPredictions,
};
pub use sample::{Envelope, SampleRef, TrueClass};
pub use slices::{SlicedImage, SlicedPlace, SlicedTarget};
pub use step::{SampleFailure, Skip, SkipReason, Step};
pub use target::{Channel, ClassTarget, Misclassified, ReferenceDigest, TargetClass, TargetDetection, TargetPixels};

use crate::fingerprint::Change;
use camflow_media::{BinaryMask, Checksum, ClassMap, FrameRegion, InputPixels, Stamp};

/// A sample as it leaves the source.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedSample {
    /// Which sample.
    pub sample: SampleRef,
    /// Where the classes are.
    pub target: StoredTarget,
    /// The label whose classes heatmaps are measured on; `None` where nobody asked.
    pub attention: Option<StoredTarget>,
    /// The heatmaps that this job's fields hold at present.
    pub existing: Vec<StoredHeatmap>,
}

/// A sample with heatmaps that are missing or out of date.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleSample {
    /// Which sample, and what of it.
    pub envelope: Envelope,
    /// Where the classes are.
    pub target: StoredTarget,
    /// As in [`SelectedSample`].
    pub attention: Option<StoredTarget>,
    /// Why they are not up to date.
    pub changes: BTreeSet<Change>,
    /// What the files were that the fingerprint stands for.
    pub stamps: BTreeMap<PathBuf, Stamp>,
}

/// A sample as it leaves decoding.
#[derive(Clone, Debug)]
pub struct DecodedSample {
    /// Which sample, and what of it.
    pub envelope: Envelope,
    /// What the device makes the model's input of.
    pub pixels: InputPixels,
    /// Height of the model's input.
    pub height: usize,
    /// Width of the model's input.
    pub width: usize,
    /// Where the input lies in the image.
    pub region: FrameRegion,
    /// The classes found in the sample's label; empty where it goes through the model in slices, or for its predictions alone.
    pub targets: Vec<ClassTarget>,
    /// The classes that heatmaps are measured on, over the whole image; `None` where nobody asked, or the sample has no such label.
    pub attention: Option<ClassMap>,
    /// The image, where it goes through the model in slices: then `height` and `width` are those of a slice's input, and pixels and
    /// targets are here alone.
    pub slices: Option<Arc<SlicedImage>>,
    /// Whether levels of its image were cut to 255.
    pub is_clipped: bool,
    /// Whether somebody wrote one of its files since it was checked: its fingerprint is that of no sample.
    pub is_moved: bool,
}

/// What became of a sample in decoding.
#[derive(Clone, Debug)]
pub(crate) enum Decoded {
    /// It is ready for the device.
    Ready(Box<DecodedSample>),
    /// There is nothing to explain any more, and heatmaps of before are to go.
    Withdrawn(Box<SampleUpdate>),
}

/// N samples of one input shape.
#[derive(Debug)]
pub struct InputBatch {
    /// The samples.
    pub samples: Vec<DecodedSample>,
    /// Height of the model's input.
    pub height: usize,
    /// Width of the model's input.
    pub width: usize,
}

/// Which part of a sample's classes: the heatmaps of very many do not all have to be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPart {
    /// Its number, from 0 on.
    pub number: usize,
    /// How many the sample has.
    pub count: usize,
}

impl ClassPart {
    /// All of a sample.
    pub const WHOLE: ClassPart = ClassPart { number: 0, count: 1 };
}

/// A sample as it leaves the device, or a part of its classes.
#[derive(Clone, Debug)]
pub struct ExplainedSample {
    /// Which sample, and what of it.
    pub envelope: Envelope,
    /// Which part of its classes this has. All else is the same in each.
    pub part: ClassPart,
    /// The pixels that the model saw, over what the heatmaps show, at any resolution; `None` where it saw all of that.
    pub seen: Option<BinaryMask>,
    /// The classes that heatmaps are measured on, over what these show.
    pub attention: Option<ClassMap>,
    /// One entry per class (or detection) that is there; none where the model predicts none of them.
    pub classes: Vec<ClassHeatmaps>,
    /// What a classifier predicts for the image; `None` of other models, and in slices.
    pub prediction: Option<Prediction>,
    /// What a detector detects in it, that with the highest confidence first; `None` where nobody asked.
    pub detected: Option<Vec<Detected>>,
    /// What a segmentation network predicts for each pixel; likewise.
    pub pixels: Option<PixelClasses>,
    /// Detections that were to get heatmaps of their own, and that no prediction overlaps enough.
    pub num_unmatched: usize,
}

/// What the device made of a batch: every sample of it once, in some list, or the next part of one.
#[derive(Debug, Default)]
pub struct HeatmapBatch {
    /// With heatmaps, in host memory.
    pub explained: Vec<ExplainedSample>,
    /// Without, by a fault that costs only this sample.
    pub failed: Vec<SampleFailure>,
}

/// A sample's change in the database: these fields and nothing else. Its files are complete on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleUpdate {
    /// Which sample.
    pub sample: SampleRef,
    /// What its fields shall hold.
    pub heatmaps: Vec<WrittenHeatmap>,
    /// What the field of predictions shall hold; `None` where it stays as it is.
    pub predictions: Option<WrittenPredictions>,
    /// Fields that shall hold nothing: what they held explains a class that is not there any more.
    pub withdrawn: Vec<String>,
    /// Files that its labels refer to no more once the update is made.
    pub superseded: Vec<PathBuf>,
    /// What its fields held when it was read: only then may the update be made.
    pub existing: Vec<StoredHeatmap>,
}

/// What a sample got, and lost.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) sample: SampleRef,
    pub(crate) num_heatmaps: usize,
    /// Of these, those that are zero everywhere.
    pub(crate) num_empty: usize,
    /// Whether its predictions were stored.
    pub(crate) has_predictions: bool,
    pub(crate) num_withdrawn: usize,
    /// Of new files.
    pub(crate) num_bytes: u64,
}

impl SampleUpdate {
    /// Bytes that its files take on a disk, without those that took the place of one of the same name.
    pub(crate) fn num_new_bytes(&self) -> u64 {
        /// Of most file systems.
        const BLOCK: u64 = 4096;
        let is_new = |path: &Path| !self.existing.iter().flat_map(StoredHeatmap::files).any(|file| file == path);
        let files = self.heatmaps.iter().flat_map(|heatmap| {
            let map = match &heatmap.map {
                StoredMap::File(path) => Some((path.as_path(), heatmap.map_checksum)),
                StoredMap::Inline(_) => None,
            };
            [map, heatmap.npy_path.as_deref().map(|path| (path, heatmap.npy_checksum))].into_iter().flatten()
        });
        let mask = self.mask().map(|(path, checksum)| (path, Some(*checksum)));
        let files = files.chain(mask);
        files.filter(|(path, _)| is_new(path)).filter_map(|(_, checksum)| Some(checksum?.size().next_multiple_of(BLOCK))).sum()
    }

    /// The file of its predictions, if these have one.
    fn mask(&self) -> Option<(&Path, &Checksum)> {
        let (path, checksum) = self.predictions.as_ref()?.label.file()?;
        Some((path.as_path(), checksum))
    }

    /// The files that its labels refer to.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let mask = self.mask().map(|(path, _)| path);
        let of_heatmaps = self.heatmaps.iter().flat_map(|heatmap| {
            let map = match &heatmap.map {
                StoredMap::File(path) => Some(path.as_path()),
                StoredMap::Inline(_) => None,
            };
            [map, heatmap.npy_path.as_deref()].into_iter().flatten()
        });
        of_heatmaps.chain(mask)
    }
}
