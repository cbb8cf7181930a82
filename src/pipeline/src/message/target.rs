//! What is explained of a sample: the job's classes, and what they come to in its image.

use std::sync::Arc;

use super::label::Evaluated;
use crate::grid::ClassIndex;
use camflow_media::{BinaryMask, MaskPart, MaskValue};

/// A class the job asks for, resolved against dataset and model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetClass {
    /// The class's name, as the user gave it.
    pub name: String,
    /// Channel of the model's output.
    pub index: i64,
    /// The value that marks it in the dataset's masks. `None` where no masks are the targets.
    pub mask_value: Option<MaskValue>,
    /// The embedding that stands for it. `None` where the model scores classes.
    pub reference: Option<ReferenceDigest>,
}

/// Digest of an embedding that stands for a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceDigest {
    /// One that was given to the job: with another one it is another job.
    Given(String),
    /// The mean of the images that are labelled so, which changes as these do.
    OfLabels(String),
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
    /// Of a detector the predictions that these boxes mean: left, top, right and bottom in fractions of the model's input.
    Boxes(Vec<[f64; 4]>),
    /// Those where the model itself puts the class first.
    Predicted,
    /// Likewise, of a class that the sample's label says is there: the score of a classifier counts, whatever the model decides.
    Labelled,
    /// None: of a classifier the class's own score, in samples that it misclassifies.
    Wrong(Misclassified),
    /// The one at this place in the model's input, in fractions of its height and width, in `[0, 1)`.
    Point {
        /// From the top.
        y: f64,
        /// From the left.
        x: f64,
    },
}

/// What is explained where a classifier puts another class first than the sample's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misclassified {
    /// The channels that stand for the sample's own class: of several only where the model gives several the same name. Where one of
    /// them is put first, there is nothing to explain. Empty: that was found out before.
    pub own: Vec<i64>,
    /// The class whose score is subtracted from that of the channel; `None` where that one's own is explained.
    pub less: Option<i64>,
}

/// One class of one sample, ready for the device.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassTarget {
    /// Which class.
    pub class: ClassIndex,
    /// What is explained.
    pub channel: Channel,
    /// Where.
    pub pixels: TargetPixels,
    /// The stored object that this is about alone; `None` where it is about all of the class.
    pub detection: Option<Arc<TargetDetection>>,
}

/// A stored object that gets heatmaps of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetDetection {
    /// Its id in the label.
    pub id: String,
    /// What its label calls it.
    pub label: String,
    /// Its box: left, top, width and height in fractions of the image's sides.
    pub bounds: [f64; 4],
    /// Its pixels over the model's input, where it says more than its box.
    pub mask: Option<MaskPart>,
    /// Its place among the objects of its label, that with the highest confidence first, from 1; `None` where it has no confidence.
    pub rank: Option<usize>,
    /// What an evaluation found of it.
    pub evaluated: Option<Evaluated>,
}
