//! FiftyOne's database: finding it, reading samples, writing heatmaps. The only place that knows MongoDB and BSON.
//!
//! [`DatabaseConfig::discover`] says where the database is, [`Database::connect`] attaches to it, [`Dataset::open`]
//! checks a dataset and gives a handle on it, which everything else takes: a run reads from a [`SampleSource`] and writes to an
//! [`UpdateSink`]. What is read and written here, FiftyOne must take for its own; most of the rules come from watching it.

mod app_config;
mod config;
mod database;
mod dataset;
mod detection_view;
mod diagnose;
mod driver;
mod driver_error;
mod durability;
mod error;
mod failures;
mod fields;
mod folders;
mod heatmap_labels;
mod label_change;
mod label_field;
mod label_names;
mod lock;
mod mask_targets;
mod measured;
mod operation;
mod origins;
mod pace;
mod references;
mod removal;
mod request;
mod retry;
mod run_note;
mod run_update;
mod runs;
mod sample_page;
mod saved_view;
mod schema;
mod schema_entry;
mod selection;
mod service;
mod shard;
mod sink;
mod source;
mod stored_heatmap;
mod stored_label;
mod stored_sample;
mod upkeep;

pub use app_config::{AppColors, AppView, forget_in_app};
pub use config::{ConnectionUri, DatabaseConfig, DatabaseFlags, DatabaseLocation, forbid_core_dumps, redacted};
pub use database::{ConnectOptions, Connected, Database, DatabaseDescription, DatasetSummary};
pub use dataset::Dataset;
pub use detection_view::{forget_views, renew_views};
pub use driver_error::DriverError;
pub use error::Error;
pub use failures::{FailureKey, failure_key, known_failures, note_failures, tidy_failures};
pub use fields::Field;
pub use folders::{folder_at, knows_folder, note_folder};
pub use heatmap_labels::{ChecksumNote, HeatmapLabel, HeatmapLabelSource, InlineMap, note_checksums};
pub use label_field::{LabelField, LabelKind};
pub use label_names::{has_label, label_names};
pub use lock::Lock;
pub use measured::MeasuredSource;
pub use origins::{ExpectedHeatmaps, HeatmapOrigin, PredictionOrigin, other_heatmaps, other_predictions, same_heatmaps};
pub use references::References;
pub use removal::{FieldContent, drop_fields, field_contents, unset_heatmaps};
pub use run_note::{Part, RunNote};
pub use runs::{StoredRun, forget_runs, has_run, note_run, stored_runs};
pub use saved_view::{SavedView, View, ViewChanges, resolve_view, view_of_heatmaps};
pub use schema::{HeatmapField, Schema, detections_of, shown_in};
pub use selection::{Selection, has_tag};
pub use service::{FiftyonePython, Stranger, find_python, stranger_of};
pub use shard::Shard;
pub use sink::UpdateSink;
pub use source::SampleSource;
pub use upkeep::{BrokenLabel, LabelSurvey, SampleIds, remove_labels, sample_ids, siblings, survey_labels};
