//! What the model predicts for each sample, stored beside its heatmaps: in which field, as what, and what is there before.

use super::{
    JobSpec, Observer,
    resolve::{fingerprint_of, prediction_settings},
    target::SECOND_CLASS,
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{Dataset, PredictionOrigin, other_predictions};
use camflow_media::shown;
use camflow_names::Choice;
use camflow_pipeline::{Fingerprint, PredictionField, PredictionKind};
use camflow_torch::program::{OneChannel, Precision, Program, Task};

/// The field that gets what the model predicts, where that is asked for.
///
/// # Errors
/// The model predicts nothing that can be stored.
pub(crate) fn prediction_field(spec: &JobSpec, program: &Program) -> Result<Option<PredictionField>, Diagnostic> {
    let Some(name) = &spec.predictions else { return Ok(None) };
    Ok(Some(PredictionField {
        name: name.clone(),
        kind: kind_of(program)?,
        model: program.metadata.name.clone(),
        fingerprint: fingerprint_of(program, &prediction_settings(spec, program)),
    }))
}

/// What a model's predictions are stored as.
fn kind_of(program: &Program) -> Result<PredictionKind, Diagnostic> {
    let model = shown(program.path());
    let refused = |why: &str, hint: &str| {
        Err(Diagnostic::invalid(format!("`--predictions` stores what is predicted, and model `{model}` {why}")).hint(hint))
    };
    const LEAVE_OUT: &str = "leave out `--predictions`";
    match program.metadata.task {
        Task::Classification | Task::Other if program.num_dimensions() != Some(4) => match program.one_channel() {
            Some(OneChannel { negative: None, .. }) => refused("has a name for one class alone", SECOND_CLASS),
            _ if program.texts().is_some_and(|texts| texts.names.len() < 2) => {
                refused("has one text, and nothing else to predict", "name several with `--text`, or leave out `--predictions`")
            }
            _ => Ok(PredictionKind::Classification),
        },
        Task::Detection => match program.detections() {
            Some((detections, _)) if detections.suppression.is_some() => Ok(PredictionKind::Detections),
            Some(_) => refused(
                "does not say which of its overlapping detections are left out",
                "export it again: earlier versions of camflow did not note it; a module of your own says it in `camflow_metadata`, as in `\"detections\": {\"suppression\": {\"iou\": 0.7, \"most\": 300}, ...}`",
            ),
            None => refused("gives boxes, not scores of classes", LEAVE_OUT),
        },
        Task::Classification | Task::Other | Task::Segmentation => Ok(PredictionKind::Segmentation { unseen: unseen(program) }),
        Task::Regression => refused("gives numbers, not scores of classes", LEAVE_OUT),
        Task::Embedding => refused("gives embeddings, not scores of classes", LEAVE_OUT),
    }
}

/// What stands in masks for what the model does not see: the background, else a value that is none of the classes.
fn unseen(program: &Program) -> u16 {
    let classes = &program.metadata.classes;
    match program.metadata.background() {
        Some(0) => 0,
        _ if matches!(program.one_channel(), Some(OneChannel { negative: None, .. })) => 0,
        _ if classes.keys().all(|class| *class < i64::from(u8::MAX)) => u8::MAX.into(),
        _ => u16::MAX,
    }
}

/// What the values in masks are called.
pub(crate) fn mask_names(field: &PredictionField, program: &Program) -> Vec<(i64, String)> {
    if !matches!(field.kind, PredictionKind::Segmentation { .. }) {
        return Vec::new();
    }
    let classes = program.metadata.classes.iter().map(|(class, name)| (*class, name.clone()));
    match program.one_channel() {
        // The value 0 is for what it is not.
        Some(OneChannel { negative: None, .. }) => classes.take(1).map(|(_, name)| (1, name)).collect(),
        _ => classes.collect(),
    }
}

/// How fingerprints begin of predictions that are the run's own, but for how they are rounded.
fn beginnings(spec: &JobSpec, program: &Program) -> Vec<String> {
    let precisions = Precision::ALL.iter().map(|precision| precision.name()).chain(["exact"]);
    let of = |precision: &str| {
        let mut settings = prediction_settings(spec, program);
        settings.iter_mut().filter(|(key, _)| *key == "precision").for_each(|(_, value)| precision.clone_into(value));
        let text = fingerprint_of(program, &settings).to_string();
        Fingerprint::job_parts(&text).map(|(model, settings)| format!("{model}-{settings}")).unwrap_or_default()
    };
    precisions.map(of).collect()
}

/// Refuses to replace what another model predicted, or what camflow did not make, unless that was asked for; and a field that holds
/// what the run reads or writes otherwise.
///
/// # Errors
/// It would.
pub(crate) fn check_predictions<'a>(
    spec: &JobSpec,
    program: &Program,
    dataset: &Dataset,
    field: &PredictionField,
    mut others: impl Iterator<Item = (&'a str, &'a str)>,
    observer: &dyn Observer,
) -> Result<(), Diagnostic> {
    let PredictionField { name, model, fingerprint, .. } = field;
    if let Some((other, what)) = others.find(|(other, _)| other == name) {
        return Err(Diagnostic::invalid(format!("`--predictions {name}` and {what} are the same field, `{other}`"))
            .hint("give the predictions a field of their own"));
    }
    let names = mask_names(field, program);
    if !names.is_empty() {
        dataset.check_mask_names(name, &names, model)?;
    }
    let own = fingerprint.to_string();
    let (own, _) = Fingerprint::job_parts(&own).unwrap_or_default();
    let found = other_predictions(dataset, name, &beginnings(spec, program))?;
    if found.is_empty() {
        return Ok(());
    }
    let told = found.iter().map(|PredictionOrigin { model: other, count }| {
        let of = match other {
            None => "that camflow did not make".to_owned(),
            Some((_, digest)) if digest == own => "that were made with other settings (`--apply-exif`, `--text`)".to_owned(),
            Some((other, _)) if other == model => format!("from another file of model `{model}`"),
            Some((other, _)) => format!("of model `{other}`, this run's is `{model}`"),
        };
        format!("field `{name}` holds {count} samples' predictions {of}")
    });
    let told = told.collect::<Vec<_>>().join("; ");
    if spec.replace || spec.overwrite {
        observer.notice(&format!("predictions of dataset `{}` are replaced: {told}", dataset.name()));
        return Ok(());
    }
    let what = format!("the run would replace other predictions of dataset `{}`: {told}", dataset.name());
    Err(Diagnostic::invalid(what).hint(
        "give this run's a field of their own with `--predictions`, or replace them with `--replace` (`replace = true` in a job file)",
    ))
}
