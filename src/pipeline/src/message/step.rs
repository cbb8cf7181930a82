//! How a sample leaves a stage: on its way to the next one, or at its end.

use std::fmt;

use super::sample::SampleRef;
use crate::stage::Stage;

/// How a sample leaves a stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T> {
    /// It goes on, as this.
    Next(T),
    /// There is nothing to do for it.
    Skip(Skip),
    /// It is lost to a fault.
    Fail(SampleFailure),
}

/// Why a sample got no heatmap although nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkipReason {
    /// The label field is empty.
    NoLabel,
    /// None of the job's classes is in the label.
    ClassAbsent,
    /// Those that are lie wholly outside the part of the image that the model sees, or within less than a pixel of it.
    ClassUnseen,
    /// The model predicts none of the job's classes, at no pixel.
    NotPredicted,
    /// The model puts the sample's own class first, and its mistakes are asked for.
    ClassifiedCorrectly,
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
            SkipReason::ClassAbsent => "class not in label",
            SkipReason::ClassUnseen => "class outside the part that the model sees, or smaller than a pixel",
            SkipReason::NotPredicted => "class not predicted",
            SkipReason::ClassifiedCorrectly => "classified correctly",
            SkipReason::UnknownClass => "label is not a class of the model",
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
