//! From what is asked to what it means for this model and this dataset, each part checked.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    CamSpec, Counterfactuals, Engine, JobSpec, Model, Observer,
    chosen::{chosen_ids, chosen_tags},
    counterfactuals::{check_object, measures_setting},
    model::check_preprocess,
    target::{check_boxes, check_classes, check_detector, check_task, target_text},
    texts::{self, check_confidence, lay_texts_of},
};
use crate::job::TargetSpec;
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{
    Database, Dataset, HeatmapField, LabelField, LabelKind, SavedView, Selection, UpdateSink, detections_of, folder_at,
};
use camflow_media::{MaskValue, PreprocessStep, shown};
use camflow_names::{Choice, backticked};
use camflow_pipeline::{ColumnIndex, Fingerprint, HeatmapFields, NpyFormat, ReferenceDigest, Store, TargetClass, Targets};
use camflow_storage::{OutputFolder, StorageError};
use camflow_torch::explain::{Column, ScoreKind};
use camflow_torch::program::{Dynamic, ModelMetadata, OneChannel, Program, Task};

/// What the dataset's side of the job comes to.
pub(crate) struct DatasetSide {
    pub dataset: Dataset,
    pub label: Option<LabelField>,
    pub mask_targets: Option<Vec<(String, MaskValue)>>,
    pub attention: Option<AttentionSide>,
    pub notices: Vec<String>,
}

/// The field whose classes heatmaps are measured on, and the names of values in its masks.
pub(crate) struct AttentionSide {
    pub field: LabelField,
    pub names: Vec<(String, MaskValue)>,
}

/// The model, without the dataset's side only as far as it needs none.
pub(crate) fn check_model(
    spec: &JobSpec,
    cam: &CamSpec,
    side: Option<&DatasetSide>,
    engine: &Engine,
    observer: &dyn Observer,
) -> Result<Model, Diagnostic> {
    let mut model = cam.open(engine, observer)?;
    check_preprocess(&model.program, observer)?;
    check_input_size(&model.program)?;
    if side.is_none() && model.program.metadata.texts.is_some() {
        return Ok(model);
    }
    lay_texts_of(&mut model.program, cam, spec.target(), side, engine, observer)?;
    let program = &model.program;
    check_confidence(program, spec.faithfulness, "--faithfulness")?;
    check_confidence(program, spec.counterfactuals != Counterfactuals::default(), "--counterfactuals")?;
    check_confidence(program, cam.chooses_layer()?, "--layers auto")?;
    cam.check_followed(program, spec.faithfulness, spec.counterfactuals)?;
    cam.check_score(program, spec.target())?;
    check_task(program, spec.target())?;
    if spec.per_detection {
        check_detector(program)?;
    }
    if let Some(side) = side {
        check_object(program, spec, side.label.as_ref())?;
    }
    Ok(model)
}

/// A model of one size needs a preprocessing that ends in that size.
fn check_input_size(program: &Program) -> Result<(), Diagnostic> {
    let metadata = &program.metadata;
    let [_, _, height, width] = metadata.input.example[..] else {
        let (path, example) = (shown(program.path()), &metadata.input.example);
        return Err(Diagnostic::invalid(format!("model `{path}` takes {example:?}, not an image [N, C, H, W]")));
    };
    let (given_height, given_width) = metadata.preprocess.output_size(480, 640);
    let fits = (given_height as i64, given_width as i64) == (height, width);
    if metadata.input.dynamic != Dynamic::Bhw && !fits {
        return Err(Diagnostic::invalid(format!(
            "model `{}` takes images of {height}x{width} only, but its preprocessing makes {given_height}x{given_width} of 480x640",
            shown(program.path())
        ))
        .hint(format!("export it with `--size {given_height}x{given_width}`")));
    }
    Ok(())
}

pub(crate) fn check_dataset(spec: &JobSpec, database: &Database) -> Result<DatasetSide, Diagnostic> {
    let dataset = Dataset::open(database, &spec.dataset)?;
    let mut notices = dataset.notices();
    let label = match spec.target() {
        TargetSpec::Labels(field) => Some(LabelField::choose(&dataset, field.as_deref())?),
        TargetSpec::Wrong(field) => Some(match &spec.eval_key {
            Some(key) => LabelField::evaluated_truth(&dataset, field.as_deref(), key)?,
            None => LabelField::choose_classification(&dataset, field.as_deref())?,
        }),
        TargetSpec::Predicted | TargetSpec::Top | TargetSpec::Pixel { .. } | TargetSpec::Component | TargetSpec::Similar(_) => {
            None
        }
    };
    // Texts need no classes.
    if spec.text.is_empty() {
        check_classes(spec.target(), &spec.class, label.as_ref())?;
    }
    if let Some(label) = label.as_ref().filter(|_| spec.per_detection) {
        check_boxes(label)?;
    }
    let label = match (label, &spec.eval_key) {
        (Some(label), Some(key)) if spec.per_detection => Some(label.with_evaluation(&dataset, key)?),
        (label, _) => label,
    };
    if spec.view.is_some() && spec.view_stages.is_some() {
        return Err(Diagnostic::invalid("`--view` and `--view-stages` name two views").hint("leave one of them out"));
    }
    let mask_targets = match label.as_ref().filter(|label| label.kind == LabelKind::Segmentation) {
        Some(field) => Some(dataset.mask_targets(&field.name)?).filter(|entries| !entries.is_empty()),
        None => None,
    };
    let attention = spec.attention_on.as_deref().map(|field| attention_side(&dataset, field, &mut notices)).transpose()?;
    Ok(DatasetSide { dataset, label, mask_targets, attention, notices })
}

fn attention_side(dataset: &Dataset, field: &str, notices: &mut Vec<String>) -> Result<AttentionSide, Diagnostic> {
    let field = LabelField::with_places(dataset, field, "--attention-on")?;
    let names = match field.kind {
        LabelKind::Segmentation => dataset.mask_targets(&field.name)?,
        _ => Vec::new(),
    };
    if field.kind == LabelKind::Segmentation && names.is_empty() {
        notices.push(format!(
            "field `{0}` of `--attention-on` has no mask targets, so that its classes are called by their values in masks, and 0 is none; \
             `dataset.mask_targets[\"{0}\"]` names them",
            field.name
        ));
    }
    Ok(AttentionSide { field, names })
}

pub(crate) fn field_names(
    spec: &JobSpec,
    classes: &[String],
    columns: &[Column],
    model: &str,
) -> Result<Vec<Vec<String>>, Diagnostic> {
    let template = spec.field.clone().unwrap_or_default();
    let columns: Vec<(&str, &str)> = columns.iter().map(|column| (column.method.name(), column.label.as_str())).collect();
    template.names(classes, &columns, model)
}

/// The field in which a run keeps what a field of this name shows.
pub(crate) fn written_field(spec: &JobSpec, name: &str) -> String {
    if spec.per_detection { detections_of(name) } else { name.to_owned() }
}

/// What stands for the class in fingerprints where each sample has its own.
pub(crate) const UNNAMED_CLASSES: [&str; 5] = [
    "the model's top class",
    "the sample's own class",
    "the class predicted by mistake",
    "the true class of a mistake",
    "the class predicted by mistake less the true one",
];

pub(crate) fn fields(names: &[Vec<String>], targets: &Targets, columns: &[Column]) -> HeatmapFields {
    let classes = match targets {
        Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes.iter().map(class_identity).collect(),
        Targets::Top => vec![UNNAMED_CLASSES[0].to_owned()],
        Targets::OwnClass => vec![UNNAMED_CLASSES[1].to_owned()],
        Targets::Wrong => UNNAMED_CLASSES[2..].iter().map(|class| (*class).to_owned()).collect(),
    };
    HeatmapFields::new(names.to_vec(), classes, columns.iter().map(column_identity).collect())
}

/// What a class is in fingerprints.
pub(crate) fn class_identity(class: &TargetClass) -> String {
    let TargetClass { name, index, mask_value, reference } = class;
    match reference {
        // Its place among others may change.
        Some(ReferenceDigest::Given(digest)) => format!("{name}\0{digest}"),
        Some(ReferenceDigest::OfLabels(_)) => format!("{name}\0labels"),
        None => format!("{name}\0{index}\0{mask_value:?}"),
    }
}

/// What a column is in fingerprints.
pub(crate) fn column_identity(column: &Column) -> String {
    format!("{}\0{}", column.method.name(), column.path)
}

/// Of each column the one of the layer before it, by the same method.
pub(crate) fn preceding(columns: &[Column]) -> Vec<Option<ColumnIndex>> {
    let is_same = |before: usize, column: usize| columns[before].method == columns[column].method;
    let before = |column: usize| column.checked_sub(1).filter(|before| is_same(*before, column)).map(ColumnIndex);
    (0..columns.len()).map(before).collect()
}

/// The fields that are written, those with these names or those of detections that these show in a view.
pub(crate) fn describe_fields(spec: &JobSpec, names: &[Vec<String>], columns: &[Column], program: &Program) -> Vec<HeatmapField> {
    let describe = |(name, column): (&String, &Column)| HeatmapField {
        name: written_field(spec, name),
        layer: column.path.clone(),
        method: column.method.name().to_owned(),
        model: program.metadata.name.clone(),
        shown_in: spec.per_detection.then(|| name.clone()),
        attention_on: spec.attention_on.clone(),
    };
    names.iter().flat_map(|row| row.iter().zip(columns).map(describe)).collect()
}

/// Everything that the heatmaps of all samples depend on.
pub(crate) fn job_fingerprint(spec: &JobSpec, program: &Program, label: Option<&LabelField>) -> Fingerprint {
    fingerprint_of(program, &job_settings(spec, program, label))
}

/// The fingerprint of a job with these settings.
pub(crate) fn fingerprint_of(program: &Program, settings: &[(&str, String)]) -> Fingerprint {
    Fingerprint::of_job(&program.digest(), &settings_text(settings))
}

fn settings_text(settings: &[(&str, String)]) -> String {
    let settings: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    settings.join("\0")
}

/// What was asked for, as far as heatmaps depend on it.
pub(crate) fn job_settings(spec: &JobSpec, program: &Program, label: Option<&LabelField>) -> Vec<(&'static str, String)> {
    let mut settings = settings(spec, &program.metadata, program.one_channel(), label);
    settings.extend(texts::setting(program, spec));
    settings
}

/// What was asked for, as far as the model's predictions depend on it.
pub(crate) fn prediction_settings(spec: &JobSpec, program: &Program) -> Vec<(&'static str, String)> {
    let metadata = &program.metadata;
    let mut settings = vec![("precision", precision_setting(spec, metadata)), ("exif", spec.apply_exif.to_string())];
    settings.extend(one_channel_setting(program.one_channel()));
    if metadata.is_one_by_one() {
        settings.push(("batch", "one by one".to_owned()));
    }
    settings.extend(texts::setting_of_all(program));
    settings
}

/// A run that is exact and one that is not differ in the last bits.
fn precision_setting(spec: &JobSpec, metadata: &ModelMetadata) -> String {
    if spec.cam().device.is_exact(metadata) { "exact" } else { spec.precision.name() }.to_owned()
}

fn settings(
    spec: &JobSpec,
    metadata: &ModelMetadata,
    one_channel: Option<OneChannel>,
    label: Option<&LabelField>,
) -> Vec<(&'static str, String)> {
    let target = match (spec.target(), label) {
        // To what, the class says: wherever it comes from, it is the same.
        (TargetSpec::Similar(similarity), None) => similarity.word().to_owned(),
        (target, label) => target_text(target, label),
    };
    let mut settings = vec![
        ("smooth", format!("eigen={} aug={}", spec.eigen_smooth, spec.aug_smooth)),
        ("target", target),
        ("size", spec.size.name().to_owned()),
        ("npy", spec.npy.setting().to_owned()),
        ("store", spec.store.name().to_owned()),
        ("precision", precision_setting(spec, metadata)),
        ("exif", spec.apply_exif.to_string()),
        // Labels of earlier versions have none.
        ("measures", measures_setting(spec.faithfulness, spec.counterfactuals)),
    ];
    settings.extend(one_channel_setting(one_channel));
    settings.extend(spec.cam().slices.setting());
    if spec.score != ScoreKind::Logit {
        settings.push(("score", spec.score.name().to_owned()));
    }
    settings.extend(spec.sess.then(|| ("sess", "twelve scales".to_owned())));
    if spec.per_detection {
        settings.push(("of", "each detection".to_owned()));
    }
    // Earlier versions counted what a model predicts in the padding around an image.
    let pads = metadata.preprocess.steps.iter().any(|step| matches!(step, PreprocessStep::CenterCrop { .. }));
    if pads && is_predicted(spec, label) && metadata.task == Task::Segmentation {
        settings.push(("padding", "is no image".to_owned()));
    }
    // Earlier versions gave such a model whole batches.
    if metadata.is_one_by_one() {
        settings.push(("batch", "one by one".to_owned()));
    }
    settings
}

/// Whether the pixels that count are those where the model predicts the class: labels that name a class alone say no other.
pub(crate) fn is_predicted(spec: &JobSpec, label: Option<&LabelField>) -> bool {
    match label.map(|label| label.kind) {
        None => !matches!(*spec.target(), TargetSpec::Pixel { .. }),
        Some(kind) => matches!(kind, LabelKind::Classification | LabelKind::Classifications),
    }
}

/// Earlier versions read one channel as if it were one of several.
fn one_channel_setting(one_channel: Option<OneChannel>) -> Option<(&'static str, String)> {
    let classes = one_channel?;
    Some(("channels", if classes.negative.is_some() { "one of two classes" } else { "one" }.to_owned()))
}

pub(crate) fn selection(
    spec: &JobSpec,
    dataset: &Dataset,
    label: Option<LabelField>,
    attention: Option<LabelField>,
    fields: Vec<String>,
    view: Option<SavedView>,
    listed: Option<Vec<String>>,
) -> Result<Selection, Diagnostic> {
    if !spec.shuffle && spec.seed != 0 {
        return Err(Diagnostic::invalid("`--seed` does nothing by itself").hint("add `--shuffle`"));
    }
    let (viewed, changes) = view.map(|view| (view.ids, view.changes)).unzip();
    let ids = chosen_ids(viewed, listed);
    Ok(Selection {
        label,
        attention,
        changes: changes.flatten(),
        heatmap_fields: fields,
        per_detection: spec.per_detection,
        tags: chosen_tags(dataset, &spec.tags)?,
        ids,
        matching: spec.matching.clone(),
        slices: spec.slices.names(|slice| dataset.has_slice(slice)),
        shuffle: spec.shuffle.then_some(spec.seed),
        limit: spec.limit,
        ..Selection::default()
    })
}

/// Absolute, because the database holds these paths and the App runs elsewhere. `base` has a folder for each dataset.
///
/// # Errors
/// There is neither, or `out` is not a path.
pub fn output_folder(out: Option<&Path>, base: Option<&Path>, dataset: &str) -> Result<PathBuf, Diagnostic> {
    if let Some(out) = out {
        let absolute = std::path::absolute(out);
        return absolute.map_err(|error| Diagnostic::invalid(format!("`--out {}` is not a path", shown(out))).because(&error));
    }
    let Some(base) = base else {
        return Err(Diagnostic::invalid("no home folder is known").hint("choose a folder with `--out`"));
    };
    let name: String = dataset.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    // `..` would be the folder above.
    let name = if name.trim_matches('.').is_empty() { name.replace('.', "_") } else { name };
    Ok(base.join(name))
}

/// The output folder, which can be written to; `None` where nothing is written to disk.
pub(crate) fn destination(spec: &JobSpec, engine: &Engine, dataset: &Dataset) -> Result<Option<PathBuf>, Diagnostic> {
    if spec.store != Store::Path && spec.npy == NpyFormat::None && spec.predictions.is_none() {
        return Ok(None);
    }
    let folder = output_folder(spec.out.as_deref(), engine.folders.heatmaps.as_deref(), dataset.name())?;
    check_folder(dataset, &folder, spec.new_folder)?;
    check_writable(&folder, spec.is_dry())?;
    Ok(Some(folder))
}

/// Makes sure that the folder is the one that the dataset's heatmaps were written to: what is there instead may be the place where
/// a disk is mounted on other days. Writes nothing.
pub(crate) fn check_folder(dataset: &Dataset, path: &Path, is_new: bool) -> Result<(), Diagnostic> {
    let Some(known) = folder_at(dataset, path)?.filter(|_| !is_new) else { return Ok(()) };
    let what = match OutputFolder::open_if_any(path) {
        Ok(Some(folder)) if folder.identity() == known => return Ok(()),
        Ok(Some(_)) => "it is another folder of camflow's",
        Ok(None) => "camflow has never written there",
        Err(StorageError::NoFolder { .. }) => "it is not there",
        Err(error) => return Err(error.into()),
    };
    Err(Diagnostic::invalid(format!(
        "`{}` is not the folder that the heatmaps of dataset `{}` were written to: {what}",
        shown(path),
        dataset.name()
    ))
    .hint("if it is on a disk that is not mounted, mount it; if the folder was deleted or moved, or the disk is another one now, say `--new-folder` once"))
}

/// A dry run looks and changes nothing.
pub(crate) fn check_writable(folder: &Path, is_dry: bool) -> Result<(), Diagnostic> {
    let refused = |what: &str, error: &std::io::Error| {
        let what = format!("cannot {what} the folder `{}`", shown(folder));
        Diagnostic::invalid(what).because(error).hint("choose another folder with `--out`")
    };
    if is_dry {
        return camflow_media::check_folder_untouched(folder).map_err(|error| refused("write to", &error));
    }
    camflow_media::create_folders(folder).map_err(|error| refused("make", &error))?;
    tempfile::tempfile_in(folder).map_err(|error| refused("write to", &error))?;
    Ok(())
}

/// The database can name the folder, and the folder can hold the fields: both before anything is computed.
pub(crate) fn check_paths<'a>(folder: &Path, fields: impl Iterator<Item = &'a str>) -> Result<(), Diagnostic> {
    if folder.to_str().is_none() {
        return Err(Diagnostic::invalid(format!(
            "the folder `{}` is not UTF-8, and a database can name no other files",
            shown(folder)
        ))
        .hint("choose another folder with `--out`"));
    }
    // What is too long, a file system says of names in folders that it has.
    let present = folder.ancestors().find(|above| above.is_dir()).unwrap_or(folder);
    for field in fields {
        // As long as any file of it will be.
        let file = folder.join(field).join("00").join("000000000000000000000000.00000000.npy");
        for path in [present.join(field), file] {
            // Whatever else is wrong is the folder's, and said of it when it is made.
            let is_of_name = |error: &std::io::Error| match error.kind() {
                ErrorKind::InvalidFilename | ErrorKind::InvalidInput => true,
                // A file stands where the field's folder belongs.
                ErrorKind::NotADirectory => present == folder,
                _ => false,
            };
            match std::fs::symlink_metadata(&path) {
                Err(error) if is_of_name(&error) => {
                    return Err(Diagnostic::invalid(format!(
                        "field `{field}` cannot have a folder below `{}`: {error}",
                        shown(folder)
                    ))
                    .hint("choose another name with `--field`, or another folder with `--out`"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Someone may have deleted a field while the run lasted; a sample with an undeclared field makes the dataset unreadable.
pub(crate) fn check_schema(sink: &UpdateSink, has_committed: bool, observer: &dyn Observer) -> Result<(), Diagnostic> {
    /// FiftyOne takes a field from the samples first, and a moment later from the schema; updates may have come in between.
    const MOMENT: Duration = Duration::from_millis(250);
    /// That moment on a machine that is busy, or with a dataset that is large.
    const PATIENCE: Duration = Duration::from_secs(30);
    if has_committed {
        sleep(MOMENT);
    }
    let start = Instant::now();
    let restored = loop {
        let restored = sink.schema().declare()?;
        if !restored.is_empty() || start.elapsed() >= PATIENCE || !sink.is_losing_a_field()? {
            break restored;
        }
        sleep(MOMENT);
    };
    if !restored.is_empty() {
        let fields = backticked(restored.iter().map(String::as_str));
        match has_committed {
            true => observer.warning(&format!("declared again, after someone removed them meanwhile: {fields}")),
            // An earlier camflow knew fewer attributes.
            false => observer.notice(&format!("declared what the dataset's schema lacked of: {fields}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_of(asked: &[&str], more: &str) -> String {
        let is_asked = |flag: &str| asked.contains(&flag);
        let (exact, fast) = (is_asked("exact"), is_asked("fast"));
        let per_detection = is_asked("per-detection");
        let spec = JobSpec { target: TargetSpec::Top, exact, fast, per_detection, ..JobSpec::new("d") };
        let metadata = format!(
            r#"{{"camflow": 1, "name": "m", "input": {{"example": [2, 3, 8, 8], "dynamic": "batch"}}, "preprocess": []{more}}}"#
        );
        settings_text(&settings(&spec, &ModelMetadata::parse(&metadata).expect("metadata"), None, None))
    }

    /// The labels of every dataset hold digests of these texts: another one would have all heatmaps made again.
    #[test]
    fn settings_stay_what_they_are_but_for_models_that_are_run_otherwise_than_before() {
        const PLAIN: &str =
            "smooth=eigen=false aug=false\0target=top\0size=input\0npy=f32\0store=path\0precision=fp32\0exif=false\0measures=2";
        let exact = PLAIN.replace("fp32", "exact");
        let bounded =
            r#", "independent_of_batch": true, "default_mode": [{"size": [8, 8], "apart": 1e-6, "from_float64": null}]"#;
        let missed = r#", "default_mode": [{"size": [8, 8], "apart": 1e-2, "from_float64": {"default": 1e-2, "exact": 1e-6}}]"#;
        assert_eq!(settings_of(&[], ""), PLAIN);
        assert_eq!(settings_of(&[], bounded), PLAIN);
        assert_eq!(settings_of(&[], missed), exact, "run with PyTorch's operators");
        assert_eq!(settings_of(&["exact"], missed), exact);
        assert_eq!(settings_of(&["fast"], missed), PLAIN);
        assert_eq!(settings_of(&["per-detection"], ""), format!("{PLAIN}\0of=each detection"));
        let spec = JobSpec { slice_width: std::num::NonZeroUsize::new(64), ..JobSpec::new("d") };
        assert_eq!(spec.cam().slices.setting(), Some(("slices", "64x64 overlap 0.2 0.2".to_owned())));
        let mixing = r#", "independent_of_batch": false"#;
        assert_eq!(settings_of(&[], mixing), format!("{PLAIN}\0batch=one by one"), "what was made in batches was wrong");
    }

    #[test]
    fn heatmaps_that_were_made_of_one_channel_as_of_several_are_out_of_date() {
        let setting = |negative| one_channel_setting(Some(OneChannel { positive: 1, negative }));
        assert_eq!(one_channel_setting(None), None, "those of other models stay");
        assert!(setting(None).is_some() && setting(Some(0)).is_some() && setting(None) != setting(Some(0)));
    }
}
