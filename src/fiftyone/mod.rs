//! FiftyOne's database: finding it, reading samples, writing heatmaps. The only place that knows MongoDB and BSON.
//!
//! [`DatabaseConfig::discover`] says where the database is, [`Database::connect`] attaches to it, [`Dataset::open`]
//! checks a dataset, and a run reads from [`Dataset::source`] and writes to [`Dataset::sink`]. What is read and written
//! here, FiftyOne must take for its own; most of the rules come from watching it.

mod app_config;
mod config;
mod database;
mod dataset;
mod diagnose;
mod driver;
mod driver_error;
mod error;
mod failures;
mod fields;
mod folders;
mod heatmap_labels;
mod label_change;
mod label_field;
mod lock;
mod mask_targets;
mod measured;
mod operation;
mod origins;
mod references;
mod removal;
mod retry;
mod run_update;
mod runs;
mod sample_page;
mod saved_view;
mod schema;
mod selection;
mod service;
mod shard;
mod sink;
mod source;
mod stored_sample;
mod upkeep;

pub use config::{ConnectionUri, DatabaseConfig, DatabaseFlags, DatabaseLocation, forbid_core_dumps, redacted};
pub use database::{ConnectOptions, Connected, Database, DatabaseDescription, DatasetSummary};
pub use dataset::Dataset;
pub use driver_error::DriverError;
pub use error::Error;
pub use failures::FailureKey;
pub use fields::Field;
pub use heatmap_labels::{ChecksumNote, HeatmapLabel, HeatmapLabelSource, InlineMap};
pub use label_field::{LabelField, LabelKind};
pub use lock::Lock;
pub use measured::MeasuredSource;
pub use origins::{ExpectedHeatmaps, HeatmapOrigin};
pub use references::References;
pub use removal::FieldContent;
pub use runs::{Part, RunNote, StoredRun};
pub use saved_view::{SavedView, View, ViewChanges};
pub use schema::{HeatmapField, Schema};
pub use selection::Selection;
pub use service::{FiftyonePython, Stranger, find_python, stranger_of};
pub use shard::Shard;
pub use sink::UpdateSink;
pub use source::SampleSource;
pub use upkeep::{BrokenLabel, LabelSurvey, SampleIds};
