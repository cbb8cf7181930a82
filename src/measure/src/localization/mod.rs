//! From a heatmap to what it localizes: thresholds, connected components and their boxes, and how weakly supervised object
//! localization (WSOL) is judged. docs/how-to/localize.md has it in words.
//!
//! Maps are `[height, width]`, row by row, with values in `[0, 1]`. A threshold is a share of a map's own highest value, as in
//! Zhou et al., *Learning Deep Features for Discriminative Localization* (2016), <https://arxiv.org/abs/1512.04150>.

mod components;
mod threshold;
mod wsol;

pub use components::{Component, Neighbours, PixelBox, sweep};
pub use threshold::{BoxRule, FOLDS, STEPS, Threshold, ThresholdStudy, box_ious, components_at, pixel_ious, steps};
pub use wsol::{BoxAccuracy, IOU_THRESHOLDS, PixelPrecision, best_overlaps, whole_box};

/// What is known of a pixel in labelled data: whether it is the object's, or counts nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixel {
    /// Of something else.
    Other,
    /// Of the object.
    Object,
    /// Nothing is known.
    Ignored,
}
