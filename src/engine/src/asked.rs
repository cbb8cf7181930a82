//! What is asked of a dataset and a model together, whatever the layers and the fields are.

use camflow_diagnostic::{Class, Diagnostic};
use camflow_fiftyone::{Dataset, LabelField, LabelKind, SavedView, View, resolve_view};
use camflow_media::ExifPolicy;
use camflow_names::ClassNames;
use camflow_pipeline::{Decoder, HeatmapFields, LabelNames, SeenMasks, TargetClass, Targets};
use camflow_torch::program::Program;

use super::{
    Engine, JobSpec, Observer,
    reference::{self, FoundReference},
    resolve::{AttentionSide, DatasetSide, job_fingerprint},
    target::{Labels, class_names, class_names_of, one_channel_notice, resolve_targets},
    texts,
};

/// The parts of it.
pub(crate) struct Asked {
    pub dataset: Dataset,
    pub label: Option<LabelField>,
    pub attention: Option<AttentionSide>,
    pub view: Option<SavedView>,
    pub targets: Targets,
    pub names_of_classes: ClassNames,
    pub class_names: Vec<String>,
}

impl Asked {
    /// Of a job.
    ///
    /// # Errors
    /// The classes, the view or the labels do not fit.
    pub(crate) fn of(
        side: DatasetSide,
        spec: &JobSpec,
        engine: &Engine,
        program: &Program,
        references: &[FoundReference],
        observer: &dyn Observer,
    ) -> Result<Self, Diagnostic> {
        let DatasetSide { dataset, label, mask_targets, attention, notices } = side;
        notices.iter().for_each(|notice| observer.notice(notice));
        let view = spec.view.as_deref().map(View::Saved).or(spec.view_stages.as_deref().map(View::Stages));
        let mut shown: Vec<&LabelField> = label.iter().collect();
        shown.extend(
            attention
                .iter()
                .map(|attention| &attention.field)
                .filter(|field| label.as_ref().is_none_or(|label| label.name != field.name)),
        );
        let view = view.map(|view| resolve_view(&dataset, view, &shown, spec.python.clone()));
        let view = view.transpose().map_err(|error| match engine.cancellation.is_cancelled() {
            // Ctrl-C ends the Python that resolves a view, too.
            true => Diagnostic::from(error).of_class(Class::Interrupted),
            false => error.into(),
        })?;
        view.iter().flat_map(|view| &view.notices).for_each(|notice| observer.notice(notice));
        let mask_targets = mask_targets.as_deref();
        let labels = Labels { dataset: &dataset, field: label.as_ref(), view: view.as_ref(), mask_targets };
        let names_of_classes = class_names_of(program, &spec.map, observer)?;
        let targets = match references.is_empty() {
            true => {
                let targets = resolve_targets(spec.target(), &spec.classes(), program, &names_of_classes, labels, observer)?;
                texts::with_digests(targets, program)
            }
            false => reference::targets(references),
        };
        let from_masks = label.as_ref().is_some_and(|label| label.kind == LabelKind::Segmentation);
        let is_unnamed = from_masks && mask_targets.is_none();
        one_channel_notice(program, spec.target(), is_unnamed).iter().for_each(|notice| observer.notice(notice));
        if let (Targets::Classes(classes), Some(field), true) = (&targets, &label, is_unnamed && program.one_channel().is_none())
        {
            observer.notice(&unnamed_masks(field, classes));
        }
        let class_names = class_names(&targets, label.as_ref(), program);
        Ok(Asked { dataset, label, attention, view, targets, names_of_classes, class_names })
    }
}

/// What is taken of masks whose values nobody has named.
fn unnamed_masks(field: &LabelField, classes: &[TargetClass]) -> String {
    const NAMED: usize = 5;
    let value = |class: &TargetClass| Some(format!("{} is `{}`", class.mask_value.as_ref()?, class.name));
    let some: Vec<String> = classes.iter().filter_map(value).take(NAMED).collect();
    let more = if classes.len() > NAMED { ", and so on" } else { "" };
    format!(
        "field `{0}` has no mask targets, so that values in its masks are taken for the numbers of channels ({1}{more}); \
         `dataset.mask_targets[\"{0}\"]` says otherwise",
        field.name,
        some.join(", ")
    )
}

/// Whether a job turns images as their EXIF data say.
pub(crate) fn exif(spec: &JobSpec) -> ExifPolicy {
    if spec.apply_exif { ExifPolicy::Apply } else { ExifPolicy::Ignore }
}

/// What reads the samples of a job.
pub(crate) fn decoder(
    spec: &JobSpec,
    program: &Program,
    targets: Targets,
    labels: LabelNames,
    fields: HeatmapFields,
    label: Option<&LabelField>,
) -> Decoder {
    let cam = spec.cam();
    Decoder {
        preprocess: program.metadata.preprocess.clone(),
        targets,
        labels,
        fields,
        limits: cam.slices.limits(),
        exif: exif(spec),
        fingerprint: job_fingerprint(spec, program, label),
        overwrite: spec.overwrite,
        is_detector: program.detections().is_some(),
        has_truth: label.is_some_and(|label| label.kind == LabelKind::Classification),
        per_detection: spec.per_detection,
        slicing: cam.slices.slicing(),
        attention: None,
        predictions: None,
        masks: SeenMasks::default(),
    }
}
