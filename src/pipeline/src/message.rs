//! What travels between the stages. Roles for stages, participles for messages: a `SelectedSample` is read, a `DecodedSample`
//! decoded, an `InputBatch` batched, a `HeatmapBatch` explained, `WrittenHeatmaps` written, a `SampleUpdate` committed.
//!
//! Every [`SampleRef`] that leaves the source ends exactly once: as an update, a [`Skip`] or a [`SampleFailure`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use super::{Change, SampleFingerprint};
use camflow_measure::Measures;
use camflow_media::{BinaryMask, Checksum, FrameRegion, MaskValue, RecordedChecksum, Stamp, shown};

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

/// A segmentation mask as the dataset stores it, not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredMask {
    /// A zlib stream of a complete `.npy` file, as FiftyOne keeps arrays in documents.
    Inline(Vec<u8>),
    /// An image file on disk.
    File(PathBuf),
}

/// What a sample's label says about where the classes are.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredTarget {
    /// A segmentation mask; each requested class is looked up in it by its [`MaskValue`].
    Mask(StoredMask),
    /// Objects; a class's pixels are those of all its objects.
    Objects(Vec<StoredObject>),
    /// Names of the classes that the whole image is labelled with, without saying where.
    Names(Vec<String>),
    /// No label is needed: the model's prediction or the job itself says where.
    Unlabelled,
    /// The sample has no label in the field.
    Missing,
    /// The label is not as FiftyOne writes it; the text says what is wrong.
    Malformed(String),
}

impl StoredTarget {
    /// What the label calls the classes that it has; masks call them by numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (objects, names) = match self {
            StoredTarget::Objects(objects) => (&objects[..], &[][..]),
            StoredTarget::Names(names) => (&[][..], &names[..]),
            _ => (&[][..], &[][..]),
        };
        objects.iter().filter_map(|object| object.label.as_deref()).chain(names.iter().map(String::as_str))
    }
}

/// One object of a sample's label.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredObject {
    /// Its class by name; `None` where it has none, so that it belongs to no class.
    pub label: Option<String>,
    /// Where it is.
    pub shape: StoredShape,
}

/// Where an object is, in fractions of the image's width (x) and height (y). Nothing is checked yet: the numbers may be
/// anything, NaN too.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredShape {
    /// A detection.
    Box {
        /// Left, top, width, height.
        bounds: [f64; 4],
        /// Its pixels inside the box, over which the mask is stretched; all of the box without one.
        mask: Option<StoredMask>,
    },
    /// A polyline: one or several lists of points (x, y).
    Lines {
        /// The points of each line.
        lines: Vec<Vec<[f64; 2]>>,
        /// Whether each line's last point is joined to its first.
        closed: bool,
        /// Whether what the lines enclose belongs to the object.
        filled: bool,
    },
    /// It is not as FiftyOne writes it; the text says what is wrong.
    Malformed(String),
}

/// A class the job asks for, resolved against dataset and model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetClass {
    /// The class's name, as the user gave it.
    pub name: String,
    /// Channel of the model's output.
    pub index: i64,
    /// The value that marks it in the dataset's masks. `None` where no masks are the targets.
    pub mask_value: Option<MaskValue>,
}

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
}

impl StoredHeatmap {
    /// Its files with what the label says of their content.
    pub fn recorded_files(&self) -> impl Iterator<Item = (&Path, Option<&RecordedChecksum>)> {
        let files = [(&self.map_path, &self.map_checksum), (&self.npy_path, &self.npy_checksum)];
        files.into_iter().filter_map(|(path, checksum)| Some((path.as_deref()?, checksum.as_ref())))
    }

    /// Whether somebody who read its map or its floats found them damaged.
    pub fn is_noted_damaged(&self) -> bool {
        [&self.map_checksum, &self.npy_checksum].into_iter().flatten().any(|recorded| recorded.is_damaged)
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.map_path, &self.npy_path].into_iter().flatten().map(PathBuf::as_path)
    }
}

/// A sample as it leaves the source.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedSample {
    /// Which sample.
    pub sample: SampleRef,
    /// Where the classes are.
    pub target: StoredTarget,
    /// The heatmaps that this job's fields hold at present.
    pub existing: Vec<StoredHeatmap>,
}

/// A sample with heatmaps that are missing or out of date.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleSample {
    /// The sample as it is stored.
    pub selected: SelectedSample,
    /// Of everything the heatmaps depend on, without class and layer.
    pub fingerprint: SampleFingerprint,
    /// The classes that are not up to date: indices into the job's list of classes.
    pub wanted: Vec<usize>,
    /// Why they are not.
    pub changes: BTreeSet<Change>,
    /// What the files were that the fingerprint stands for.
    pub stamps: BTreeMap<PathBuf, Stamp>,
}

/// Which channel of the model's output is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// This one.
    Index(i64),
    /// The one that the model itself puts first: a classifier's highest logit, or the class (other than the background) that a
    /// segmentation model gives most pixels to.
    Top,
}

/// Which pixels of the output count. A classifier has none: there the class's logit itself is the score.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetPixels {
    /// Those of a mask over the model's input, at any resolution.
    Mask(BinaryMask),
    /// Those where the model itself puts the class first.
    Predicted,
    /// Likewise, of a class that the sample's label says is there: the score of a classifier counts, whatever the model decides.
    Labelled,
    /// The one at this place in the model's input, in fractions of its height and width, in `[0, 1)`.
    Point {
        /// From the top.
        y: f64,
        /// From the left.
        x: f64,
    },
}

/// One class of one sample, ready for the device.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassTarget {
    /// Index into the job's list of classes.
    pub class: usize,
    /// What is explained.
    pub channel: Channel,
    /// Where.
    pub pixels: TargetPixels,
}

/// A sample as it leaves decoding.
#[derive(Clone, Debug)]
pub struct DecodedSample {
    /// Which sample.
    pub sample: SampleRef,
    /// f32 `[3, height, width]`, normalised.
    pub pixels: Vec<f32>,
    /// Height of the model's input.
    pub height: usize,
    /// Width of the model's input.
    pub width: usize,
    /// Where the input lies in the image.
    pub region: FrameRegion,
    /// The classes found in the sample's label; never empty.
    pub targets: Vec<ClassTarget>,
    /// Of everything the heatmaps depend on, without class and layer.
    pub fingerprint: SampleFingerprint,
    /// See [`StaleSample::wanted`].
    pub wanted: Vec<usize>,
    /// The heatmaps that this job's fields hold at present.
    pub existing: Vec<StoredHeatmap>,
    /// Whether levels of its image were cut to 255.
    pub is_clipped: bool,
}

/// N samples of one input shape.
#[derive(Debug)]
pub struct InputBatch {
    /// The samples; their `pixels` have been moved to [`InputBatch::pixels`].
    pub samples: Vec<DecodedSample>,
    /// f32 `[N, 3, height, width]`, contiguous, in host memory.
    pub pixels: Vec<f32>,
    /// Height of the model's input.
    pub height: usize,
    /// Width of the model's input.
    pub width: usize,
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
}

/// The heatmaps of one class of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassHeatmaps {
    /// Index into the job's list of classes.
    pub class: usize,
    /// Channel of the model's output that was explained.
    pub channel: i64,
    /// The scalar that was differentiated.
    pub score: f64,
    /// The pixels that count, over what the heatmaps show, at any resolution; `None` where all do, or one by its place.
    pub object: Option<BinaryMask>,
    /// One per column of the job: method by method, layer by layer.
    pub heatmaps: Vec<Heatmap>,
    /// What the model itself was asked about each; empty where nobody wanted that.
    pub faithfulness: Vec<Measures>,
}

/// A sample as it leaves the device.
#[derive(Clone, Debug)]
pub struct ExplainedSample {
    /// Which sample.
    pub sample: SampleRef,
    /// See [`DecodedSample::fingerprint`].
    pub fingerprint: SampleFingerprint,
    /// See [`StaleSample::wanted`].
    pub wanted: Vec<usize>,
    /// The heatmaps that this job's fields hold at present.
    pub existing: Vec<StoredHeatmap>,
    /// The pixels that the model saw, over what the heatmaps show, at any resolution; `None` where it saw all of that.
    pub seen: Option<BinaryMask>,
    /// One entry per class that is there; none where the model predicts none of them.
    pub classes: Vec<ClassHeatmaps>,
}

/// What the device made of a batch: every sample of it once, in some list.
#[derive(Debug, Default)]
pub struct HeatmapBatch {
    /// With heatmaps, in host memory.
    pub explained: Vec<ExplainedSample>,
    /// Without, by a fault that costs only this sample.
    pub failed: Vec<SampleFailure>,
}

/// A heatmap as the sample is to hold it.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenHeatmap {
    /// Name of the sample field.
    pub field: String,
    /// The class that was explained, by the model's name for it, else its channel's number.
    pub class: String,
    /// What the App draws.
    pub map: StoredMap,
    /// The exact floats, if the job keeps them.
    pub npy_path: Option<PathBuf>,
    /// Of the picture's file.
    pub map_checksum: Option<Checksum>,
    /// Of the exact floats' file.
    pub npy_checksum: Option<Checksum>,
    /// The scalar that was differentiated.
    pub score: f64,
    /// Where the attention lies.
    pub measures: Measures,
    /// Of everything the heatmap depends on.
    pub fingerprint: String,
}

/// The picture of a heatmap.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredMap {
    /// A complete 8-bit grayscale PNG.
    File(PathBuf),
    /// A zlib stream of a complete f32 `.npy` file.
    Inline(Vec<u8>),
}

/// A sample whose files are complete on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenHeatmaps {
    /// Which sample.
    pub sample: SampleRef,
    /// What its fields shall hold.
    pub heatmaps: Vec<WrittenHeatmap>,
    /// Fields that shall hold nothing: what they held explains a class that is not there any more.
    pub withdrawn: Vec<String>,
    /// Files that its labels refer to no more once the update is made.
    pub superseded: Vec<PathBuf>,
    /// What its fields held when it was read: only then may the update be made.
    pub existing: Vec<StoredHeatmap>,
}

impl WrittenHeatmaps {
    /// The files that its heatmaps refer to.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.heatmaps.iter().flat_map(|heatmap| {
            let map = match &heatmap.map {
                StoredMap::File(path) => Some(path.as_path()),
                StoredMap::Inline(_) => None,
            };
            [map, heatmap.npy_path.as_deref()].into_iter().flatten()
        })
    }
}

/// A sample's change in the database: these fields and nothing else.
pub type SampleUpdate = WrittenHeatmaps;

/// Why a sample got no heatmap although nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkipReason {
    /// The label field is empty.
    NoLabel,
    /// None of the job's classes is in the label (or in the prediction).
    ClassAbsent,
    /// The class that the sample is labelled with is none of the model's.
    UnknownClass,
    /// The pixel to explain lies outside the image.
    PixelOutsideImage,
    /// The pixel to explain lies in a part of the image that the model does not see.
    PixelOutsideCrop,
    /// Every heatmap is there already, made from the same things.
    UpToDate,
    /// The sample was deleted while the job ran.
    SampleGone,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::NoLabel => "no label",
            SkipReason::ClassAbsent => "class absent",
            SkipReason::UnknownClass => "class unknown to the model",
            SkipReason::PixelOutsideImage => "pixel outside the image",
            SkipReason::PixelOutsideCrop => "pixel outside the part that the model sees",
            SkipReason::UpToDate => "up to date",
            SkipReason::SampleGone => "sample deleted meanwhile",
        })
    }
}

/// A sample that ended without an update, by no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Which sample.
    pub sample: SampleRef,
    /// Why.
    pub reason: SkipReason,
}

/// The stages, in the order of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Streams samples from the source.
    Read,
    /// Files to pixels, labels to masks.
    Decode,
    /// Groups samples by input shape.
    Batch,
    /// Forward, gradients, maps.
    Device,
    /// Maps to files.
    Encode,
    /// Updates to the database.
    Commit,
}

impl Stage {
    /// In the order of the flow, which is also that of their numbers.
    pub const ALL: [Stage; 6] = [Stage::Read, Stage::Decode, Stage::Batch, Stage::Device, Stage::Encode, Stage::Commit];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Batch => "batch",
            Stage::Device => "device",
            Stage::Encode => "encode",
            Stage::Commit => "commit",
        })
    }
}

/// A fault that costs one sample; the run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleFailure {
    /// Which sample.
    pub sample: SampleRef,
    /// Where it happened.
    pub stage: Stage,
    /// What happened and what to do, one line.
    pub error: String,
}
