//! The run: stages, the messages between them, and the three seams to the outside world.
//!
//! Nothing here knows torch, MongoDB or a terminal; [`Source`], [`Explainer`] and [`Sink`] have in-memory versions in the tests.
//! Start reading at [`run`].

mod cancellation;
mod decoding;
mod encoder;
mod error;
mod event;
mod fields;
mod fingerprint;
mod flow;
mod forecast;
mod grid;
mod known;
mod label_names;
mod ledger;
mod lock;
mod max_failures;
mod message;
mod pool;
mod run;
mod seams;
mod stage;
mod stages;
mod survey;
mod timing;

pub use cancellation::Cancellation;
pub use decoding::{AttentionOn, Decoder, SeenMasks, Targets, listed};
pub use encoder::{Encoder, NpyFormat, Store};
pub use error::RunError;
pub use event::{Event, Forecast, Outlook, StageTimes, Summary};
pub use fields::HeatmapFields;
pub use fingerprint::{Change, Fingerprint, Ingredient, SampleFingerprint};
pub use forecast::SpaceCheck;
pub use grid::{ClassIndex, ColumnIndex};
pub use known::{FailureCause, KnownFailures};
pub use label_names::LabelNames;
pub use max_failures::MaxFailures;
pub use message::{
    Channel, ClassHeatmaps, ClassPart, ClassTarget, DecodedSample, Detected, Envelope, Evaluated, ExplainedSample, Heatmap,
    HeatmapBatch, InputBatch, LayerMap, Misclassified, PixelClasses, PredictedClass, PredictedLabel, Prediction, PredictionField,
    PredictionKind, ReferenceDigest, SampleFailure, SampleRef, SampleUpdate, SelectedSample, Skip, SkipReason, SlicedImage,
    SlicedPlace, SlicedTarget, StaleSample, Step, StoredHeatmap, StoredMap, StoredMask, StoredObject, StoredShape, StoredTarget,
    TargetClass, TargetDetection, TargetPixels, TrueClass, WrittenHeatmap, WrittenPrediction, WrittenPredictions,
};
pub use run::{Parts, RunOptions, run};
pub use seams::{BatchLimit, CommitOutcome, Explainer, Sink, Source};
pub use stage::Stage;
pub use survey::{Survey, survey};
