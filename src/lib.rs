//! camflow computes class-activation heatmaps for whole FiftyOne datasets.
//!
//! The flow of a run is in [`pipeline`]; [`program`] reads and executes exported models, [`explain`] turns gradients into
//! heatmaps, [`media`] handles images, masks and arrays, [`fiftyone`] is the database behind FiftyOne. [`engine`] puts them
//! together: a [`engine::JobSpec`] is what it does. [`cli`] is the program on top.

pub use camflow_diagnostic as diagnostic;
pub use camflow_engine::{self as engine, job};
pub use camflow_fiftyone as fiftyone;
pub use camflow_measure as measure;
pub use camflow_media as media;
pub use camflow_names as names;
pub use camflow_pipeline as pipeline;
pub use camflow_report as report;
pub use camflow_storage as storage;
pub use camflow_study as study;
pub use camflow_torch::{explain, program};

pub mod cli;
#[doc(hidden)]
pub mod fuzz;
