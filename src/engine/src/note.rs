//! What a run leaves in the dataset: a custom run of FiftyOne's.

use serde_json::{Map, Value, json};

use super::{Exit, JobSpec};
use camflow_fiftyone::{Dataset, Error, LabelField, Part, RunNote, Shard, has_run};
use camflow_names::Choice;
use camflow_pipeline::{HeatmapFields, PredictionField, SkipReason, Summary};
use camflow_report::{RunRecord, redact_json};
use camflow_torch::explain::Column;
use camflow_torch::program::Program;

/// What was computed, beside what the arguments say.
pub(crate) struct Computed<'a> {
    pub program: &'a Program,
    pub columns: &'a [Column],
    pub classes: &'a [String],
    pub label: Option<&'a LabelField>,
    pub fields: &'a HeatmapFields,
    /// The field that gets what the model predicts.
    pub predictions: Option<&'a PredictionField>,
    /// `None` where nothing is written to disk.
    pub folder: Option<std::path::PathBuf>,
    /// The shard, if the run was not about all samples.
    pub part: Option<Shard>,
}

/// Notes the run, unless it changed nothing: a job that runs every night would otherwise say only when the last night was. A job
/// without a record, whose heatmaps are all there, lost it: the run that made them was killed.
pub(crate) fn note_run(
    spec: &JobSpec,
    dataset: &Dataset,
    computed: Computed,
    record: &RunRecord,
    summary: &Summary,
    exit: Exit,
) -> Result<(), Error> {
    let Computed { program, columns, classes, label, fields, predictions, folder, part } = computed;
    let is_changed = summary.num_committed > 0;
    let has_heatmaps = is_changed || summary.skipped.contains_key(&SkipReason::UpToDate);
    // What a shard passes over is a part of what its job does.
    if !has_heatmaps && part.is_none() {
        return Ok(());
    }
    let ending = exit.ending();
    let mut settings = record.config.clone();
    if part.is_some() {
        // The record is that of all shards.
        settings.insert("shard".to_owned(), Value::Null);
    }
    let details = json!({
        "model": program.metadata.name,
        "model_digest": program.digest(),
        "layers": distinct(columns.iter().map(|column| column.path.as_str())),
        "methods": distinct(columns.iter().map(|column| column.method.name())),
        "classes": classes,
        "predictions": predictions.map(|field| field.name.as_str()),
        "target": spec.target().to_string(),
        "label_field": label.map(|label| label.name.as_str()),
        "camflow_version": env!("CARGO_PKG_VERSION"),
        "started": record.started.to_string(),
        "ended": jiff::Timestamp::now().to_string(),
        "exit": ending.name,
        "exit_code": ending.exit_code,
        "counts": record.counts(),
        "settings": settings,
    });
    let note = RunNote {
        job: spec.name.clone(),
        fields: fields.names().chain(predictions.map(|field| field.name.as_str())).map(ToOwned::to_owned).collect(),
        folder,
        part: part.map(|shard| Part { shard, is_done: matches!(exit, Exit::Done | Exit::SomeFailed), is_idle: !is_changed }),
        details: match redact_json(details) {
            Value::Object(details) => details,
            _ => Map::new(),
        },
    };
    let is_wanted = match (is_changed, has_heatmaps) {
        (true, _) => true,
        // A shard adds to the record that there is.
        (false, true) => part.is_some() || !has_run(dataset, &note)?,
        (false, false) => has_run(dataset, &note)?,
    };
    if is_wanted {
        camflow_fiftyone::note_run(dataset, &note)?;
    }
    Ok(())
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct: Vec<&str> = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}
