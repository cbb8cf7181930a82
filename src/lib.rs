//! camflow computes class-activation heatmaps for whole FiftyOne datasets.
//!
//! The flow of a run is in [`pipeline`]; [`program`] reads and executes exported models, [`explain`] turns gradients into
//! heatmaps, [`media`] handles images, masks and arrays, [`fiftyone`] is the database behind FiftyOne.

pub mod media;
pub mod pipeline;
