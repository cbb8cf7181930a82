//! From stored heatmaps to boxes and masks (weakly supervised object localization): thresholds that are given or learnt on labelled
//! samples, labels for all, and how well they localize. No model is needed. docs/how-to/localize.md says it for users.
//!
//! Heatmaps are read twice: those of labelled samples to learn, then those whose labels are not up to date. Neither takes more memory
//! for more samples.

mod heat;
mod inline;
mod labels;
mod study;
mod truth;
mod write;

use std::{collections::BTreeMap, path::PathBuf};

use self::{
    study::{Studies, Study, threshold},
    truth::TruthReader,
    write::Writer,
};
use super::{
    Exit, Observer, aborted,
    job::ClassMapping,
    resolve::{check_folder, check_paths, check_writable},
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{
    Dataset, LabelField, LabelKind, LocalizedKind, LocalizedSample, LocalizedSchema, LocalizedSource, Lock, Selection,
    explained_classes, has_other_localized, mask_numbers,
};
use camflow_measure::localization::{BoxRule, IOU_THRESHOLDS, Threshold};
use camflow_media::{ImageLimits, MediaError, shown};
use camflow_names::{ClassNames, backticked, counted, flag};
use camflow_pipeline::Cancellation;
use camflow_storage::Grace;

pub use self::study::{Criterion, ThresholdSource};

/// Samples that failed, each of which is told.
const TOLD: u64 = 10;

/// What is asked.
#[derive(Clone, Debug)]
pub struct LocalizeSpec {
    /// The heatmap fields.
    pub fields: Vec<String>,
    /// Whether somebody named them, so that one without heatmaps is a mistake.
    pub are_named: bool,
    /// The field that gets the boxes.
    pub boxes: Option<String>,
    /// The field that gets the masks.
    pub masks: Option<String>,
    /// The threshold; `None` where it is learnt.
    pub threshold: Option<Threshold>,
    /// The label field that says what is true.
    pub truth: Option<String>,
    /// Its labels whose pixels count nowhere.
    pub ignore: Vec<String>,
    /// Which class its labels are.
    pub map: Vec<ClassMapping>,
    /// The least share of the image that a component has.
    pub min_area: f64,
    /// Whether only the largest component of a heatmap counts.
    pub largest: bool,
    /// Which samples.
    pub selection: Selection,
    /// Where the files of masks go: an absolute path.
    pub folder: PathBuf,
    /// Whether that is another folder than the one that the dataset's heatmaps were written to.
    pub new_folder: bool,
    /// How long files stay that are replaced.
    pub grace: Grace,
    /// Whether labels of these fields may be replaced that were made of other heatmaps, or by others.
    pub replace: bool,
    /// Whether nothing is written.
    pub dry_run: bool,
}

impl LocalizeSpec {
    fn rule(&self) -> BoxRule {
        BoxRule { min_area: self.min_area, largest: self.largest }
    }

    /// The fields that are written.
    fn written(&self) -> Vec<(String, LocalizedKind)> {
        let kinds = [(&self.boxes, LocalizedKind::Boxes), (&self.masks, LocalizedKind::Masks)];
        kinds.into_iter().filter_map(|(field, kind)| Some((field.clone()?, kind))).collect()
    }

    fn check(&self) -> Result<(), Diagnostic> {
        let written = self.written();
        if self.threshold.is_none() && self.truth.is_none() {
            let text = "no threshold is given, and no label field to learn one on";
            let hint = "add `--truth FIELD`, the field that says where objects are, or `--threshold 0.2`";
            return Err(Diagnostic::invalid(text).hint(hint));
        }
        if written.is_empty() && self.truth.is_none() {
            let text = "there is nothing to do: neither boxes nor masks are asked for, nor how well heatmaps localize";
            return Err(Diagnostic::invalid(text).hint("add `--boxes FIELD`, `--masks FIELD`, or `--truth FIELD`"));
        }
        let others = self.fields.iter().chain(&self.truth);
        let named: Vec<&String> = written.iter().map(|(field, _)| field).chain(others).collect();
        match named.iter().enumerate().find(|(index, field)| named[..*index].contains(field)) {
            Some((_, field)) => {
                let text = format!("field `{field}` is named for two things");
                Err(Diagnostic::invalid(text).hint("name fields of their own with `--boxes` and `--masks`"))
            }
            None => Ok(()),
        }
    }
}

/// A heatmap field and one of its classes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Series {
    field: String,
    class: String,
}

/// How the heatmaps of a field and class localize.
#[derive(Clone, Debug)]
pub struct ClassLocalization {
    /// The field; `None` for all together.
    pub field: Option<String>,
    /// The class; `None` for all together.
    pub class: Option<String>,
    /// Heatmaps of samples whose label has an object of the class.
    pub num_labelled: u64,
    /// The threshold, as a share of a heatmap's highest value; `None` for all together.
    pub threshold: Option<f64>,
    /// Where it is from.
    pub source: Option<ThresholdSource>,
    /// Mean IoU at the threshold, on the samples that it was learnt on.
    pub iou: Option<f64>,
    /// The same on samples that it was not learnt on, by cross-validation; `None` where it was given.
    pub iou_cross_validated: Option<f64>,
    /// Mean IoU at 15 % of the highest value.
    pub iou_usual: Option<f64>,
    /// The share of heatmaps with a box that overlaps a labelled one by 0.3, 0.5 and 0.7, each at its best threshold.
    pub max_box_acc: Option<[f64; IOU_THRESHOLDS.len()]>,
    /// Their mean.
    pub max_box_acc_v2: Option<f64>,
    /// Average precision of pixels.
    pub px_ap: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Localization {
    /// How it ended.
    pub exit: Exit,
    /// By field and class, and all together last if there are several.
    pub classes: Vec<ClassLocalization>,
    /// What IoU is of; `None` without labels.
    pub criterion: Option<Criterion>,
    /// Heatmaps of labelled samples that have no object of the class: they count nowhere.
    pub num_without_object: u64,
    /// Samples that got other labels, or, in a dry run, would get some.
    pub num_written: u64,
    /// Samples whose labels are up to date.
    pub num_up_to_date: u64,
    /// Samples that lost their labels, as their heatmaps are gone.
    pub num_withdrawn: u64,
    /// Labels that somebody else put there, and that stay.
    pub num_kept: u64,
    /// Heatmaps that could not be read, or whose label could not.
    pub num_failed: u64,
}

/// Tells of samples that fail: the first ones, and counts all.
struct Failures<'a> {
    observer: &'a dyn Observer,
    count: u64,
}

impl Failures<'_> {
    fn add(&mut self, sample: &LocalizedSample, field: &str, error: &MediaError) {
        self.count += 1;
        if self.count <= TOLD {
            let (id, image) = (&sample.id, shown(&sample.media_path));
            self.observer.warning(&format!("sample `{id}` ({image}), field `{field}`: {error}"));
        }
    }
}

/// Does it.
///
/// # Errors
/// What is asked does not fit the dataset, or the database or the output folder fails; what was written by then stays.
pub fn localize(
    spec: &LocalizeSpec,
    dataset: &Dataset,
    cancellation: &Cancellation,
    observer: &dyn Observer,
) -> Result<Localization, Diagnostic> {
    spec.check()?;
    let written = spec.written();
    let truth = spec.truth.as_deref().map(|field| LabelField::with_places(dataset, field, "--truth")).transpose()?;
    let schema = LocalizedSchema::new(dataset, written.clone())?;
    let series = series(spec, dataset)?;
    let reader = truth.as_ref().map(|truth| truth_reader(spec, dataset, truth, &series)).transpose()?;
    let classes: Vec<String> = series.iter().map(|one| one.class.clone()).collect();
    let numbers = match &spec.masks {
        Some(field) => mask_numbers(dataset, field, &classes)?,
        None => vec![1; classes.len()],
    };
    if spec.masks.is_some() {
        check_folder(dataset, &spec.folder, spec.new_folder)?;
        check_writable(&spec.folder, spec.dry_run)?;
        check_paths(&spec.folder, written.iter().map(|(field, _)| field.as_str()))?;
    }
    check_others(spec, dataset, &written)?;
    let fields: Vec<String> = written.iter().map(|(field, _)| field.clone()).collect();
    // Who learns as well would write the same in vain.
    let lock = match written.is_empty() || spec.dry_run {
        true => None,
        false => Some(Lock::acquire(dataset, Some(&fields))?),
    };
    let mut source = LocalizedSource::new(dataset, spec.fields.clone(), fields, truth, &spec.selection)?;
    source.notices().iter().for_each(|notice| observer.notice(notice));
    let mut failures = Failures { observer, count: 0 };
    let studies = match &reader {
        Some(reader) => {
            observer.step(&format!("labels in field `{}` are compared with heatmaps", spec.truth.as_deref().unwrap_or_default()));
            Some(Studies::read(&mut source, reader, &series, spec, &mut failures, cancellation).map_err(aborted)?)
        }
        None => None,
    };
    let mut localization = Localization {
        exit: Exit::Interrupted,
        classes: Vec::new(),
        criterion: studies.as_ref().map(Studies::criterion),
        num_without_object: studies.as_ref().map_or(0, |studies| studies.num_without_object),
        num_written: 0,
        num_up_to_date: 0,
        num_withdrawn: 0,
        num_kept: 0,
        num_failed: failures.count,
    };
    if cancellation.is_cancelled() {
        return Ok(localization);
    }
    let thresholds = thresholds(spec, dataset, &series, studies.as_ref(), failures.count)?;
    localization.classes = results(&series, &thresholds, studies.as_ref());
    if !written.is_empty() {
        // What could not be read to learn is read again.
        failures.count = 0;
        let by_series = series.iter().zip(thresholds.iter().zip(numbers));
        let cuts: BTreeMap<(&str, &str), (Threshold, u8)> =
            by_series.map(|(one, ((threshold, _), number))| ((&*one.field, &*one.class), (*threshold, number))).collect();
        let mut writer = Writer::new(spec, dataset, schema, lock, cuts)?;
        writer.write(&mut source, &mut failures, &mut localization, cancellation, observer)?;
        localization.num_failed = localization.num_failed.max(failures.count);
    }
    localization.exit = match () {
        () if cancellation.is_cancelled() => Exit::Interrupted,
        () if localization.num_failed > 0 => Exit::SomeFailed,
        () => Exit::Done,
    };
    Ok(localization)
}

/// The classes of each field.
fn series(spec: &LocalizeSpec, dataset: &Dataset) -> Result<Vec<Series>, Diagnostic> {
    let name = dataset.name();
    let mut series: Vec<Series> = Vec::new();
    for field in &spec.fields {
        let classes = explained_classes(dataset, field)?;
        if classes.is_empty() && spec.are_named {
            return Err(without_heatmaps(format!("field `{field}` of dataset `{name}` has no heatmaps of camflow's"), name));
        }
        for class in classes {
            // They can be compared, but a label can have only one of them.
            let other = series.iter().find(|other| other.class == class).filter(|_| !spec.written().is_empty());
            if let Some(other) = other {
                let text = format!("`{}` and `{field}` of dataset `{name}` both hold heatmaps of class `{class}`", other.field);
                let hint = "name one field for each class with `--fields`: the one that localizes best, as `--truth` without `--boxes` and `--masks` says of each";
                return Err(Diagnostic::invalid(text).hint(hint));
            }
            series.push(Series { field: field.clone(), class });
        }
    }
    match series.is_empty() {
        true => Err(without_heatmaps(format!("dataset `{name}` has no heatmaps of camflow's"), name)),
        false => Ok(series),
    }
}

fn without_heatmaps(text: String, dataset: &str) -> Diagnostic {
    Diagnostic::invalid(text).hint(format!("make them with `camflow annotate {}`", flag("--dataset", dataset)))
}

fn truth_reader(
    spec: &LocalizeSpec,
    dataset: &Dataset,
    truth: &LabelField,
    series: &[Series],
) -> Result<TruthReader, Diagnostic> {
    let mut names = ClassNames::new((0..).zip(series.iter().map(|one| one.class.clone())).collect());
    for ClassMapping { label, class } in &spec.map {
        let Some(number) = series.iter().position(|one| one.class == *class) else {
            let classes = backticked(series.iter().map(|one| one.class.as_str()));
            let text = format!("`--map {label}={class}` names a class that no heatmap explains");
            return Err(Diagnostic::invalid(text).hint(format!("the heatmaps are of {classes}")));
        };
        names.map(label.clone(), number as i64);
    }
    let values = match truth.kind {
        LabelKind::Segmentation => dataset.mask_targets(&truth.name)?,
        _ => Vec::new(),
    };
    Ok(TruthReader { names, values, ignored: spec.ignore.clone(), limits: ImageLimits::default() })
}

/// Refuses to write over labels that were made of other heatmaps.
fn check_others(spec: &LocalizeSpec, dataset: &Dataset, written: &[(String, LocalizedKind)]) -> Result<(), Diagnostic> {
    for (field, kind) in written.iter().filter(|_| !spec.replace) {
        if let Some(heatmaps) = has_other_localized(dataset, field, &write::origin(&spec.fields))? {
            let text =
                format!("field `{field}` of dataset `{}` holds {} of other heatmaps ({heatmaps})", dataset.name(), kind.name());
            let hint = format!("name another field with `--{}`, or add `--replace`", kind.name());
            return Err(Diagnostic::invalid(text).hint(hint));
        }
    }
    Ok(())
}

/// Of each series; an error where one cannot be learnt.
fn thresholds(
    spec: &LocalizeSpec,
    dataset: &Dataset,
    series: &[Series],
    studies: Option<&Studies>,
    num_failed: u64,
) -> Result<Vec<(Threshold, ThresholdSource)>, Diagnostic> {
    let found: Vec<_> = series.iter().map(|one| threshold(one, spec.threshold, studies)).collect();
    let Some(missing) = found.iter().position(Option::is_none) else { return Ok(found.into_iter().flatten().collect()) };
    let Series { field, .. } = &series[missing];
    let classes: Vec<&str> = series.iter().filter(|one| one.field == *field).map(|one| one.class.as_str()).collect();
    let (truth, name) = (spec.truth.as_deref().unwrap_or_default(), dataset.name());
    let text = format!(
        "no threshold can be learnt for the heatmaps in `{field}` of dataset `{name}`: no selected sample with one has an object of {} in field `{truth}`{}",
        backticked(classes.iter().take(10).copied()),
        match num_failed {
            0 => String::new(),
            _ => format!(" that could be read ({})", counted(num_failed, "could not", "could not")),
        },
    );
    Err(Diagnostic::invalid(text).hint(
        "`--map LABEL=CLASS` says which class a label is; `--threshold 0.2` needs no labels, and `--fields` leaves heatmaps out",
    ))
}

fn results(series: &[Series], thresholds: &[(Threshold, ThresholdSource)], studies: Option<&Studies>) -> Vec<ClassLocalization> {
    let nothing = Study::default();
    let mut results: Vec<ClassLocalization> = Vec::new();
    for (one, (threshold, source)) in series.iter().zip(thresholds) {
        let study = studies.and_then(|studies| studies.by_series.get(&(one.field.clone(), one.class.clone())));
        let (field, class) = (Some(one.field.clone()), Some(one.class.clone()));
        results.push(result(study.unwrap_or(&nothing), studies, Some((*threshold, *source)), (field, class)));
    }
    if let Some(studies) = studies.filter(|_| series.len() > 1) {
        let mut all = result(&studies.all, Some(studies), None, (None, None));
        // Each at its own threshold.
        let mean = |of: &dyn Fn(&ClassLocalization) -> Option<f64>| {
            let (mut sum, mut count) = (0.0, 0);
            for one in results.iter().filter(|one| one.num_labelled > 0) {
                sum += of(one)? * one.num_labelled as f64;
                count += one.num_labelled;
            }
            (count > 0).then(|| sum / count as f64)
        };
        all.iou = mean(&|one| one.iou);
        all.iou_cross_validated = mean(&|one| one.iou_cross_validated);
        results.push(all);
    }
    results
}

fn result(
    study: &Study,
    studies: Option<&Studies>,
    threshold: Option<(Threshold, ThresholdSource)>,
    (field, class): (Option<String>, Option<String>),
) -> ClassLocalization {
    let criterion = studies.map_or(Criterion::Pixels, Studies::criterion);
    let ious = study.by(criterion);
    let is_learnt = threshold.is_some_and(|(_, source)| source == ThresholdSource::Learnt);
    ClassLocalization {
        field,
        class,
        num_labelled: study.num_maps(),
        threshold: threshold.map(|(threshold, _)| threshold.share()),
        source: threshold.map(|(_, source)| source),
        iou: threshold.and_then(|(threshold, _)| ious.mean(threshold)),
        iou_cross_validated: is_learnt.then(|| ious.cross_validated()).flatten(),
        iou_usual: ious.mean(Threshold::USUAL),
        max_box_acc: study.accuracy.by_iou(),
        max_box_acc_v2: study.accuracy.max_box_acc_v2(),
        // Boxes say which pixels are not the object's, but not which are.
        px_ap: (criterion == Criterion::Pixels).then(|| study.precision.px_ap()).flatten(),
    }
}
