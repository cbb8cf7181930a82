//! camflow computes class-activation heatmaps for whole FiftyOne datasets.
//!
//! The flow of a run is in [`pipeline`]; [`program`] reads and executes exported models, [`explain`] turns gradients into
//! heatmaps, [`media`] handles images, masks and arrays, [`fiftyone`] is the database behind FiftyOne. [`engine`] puts them
//! together: a [`engine::JobSpec`] is what it does. [`cli`] is the program on top.

pub mod cli;
pub mod diagnostic;
pub mod engine;
pub mod explain;
pub mod fiftyone;
#[doc(hidden)]
pub mod fuzz;
pub mod job;
pub mod measure;
pub mod media;
pub mod names;
pub mod pipeline;
pub mod program;
pub mod report;
pub mod storage;
pub mod study;
