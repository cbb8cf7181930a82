//! What is in the fields of a run before it begins: the heatmaps of another model, or of something else, are never replaced without
//! a word.

use std::{collections::BTreeSet, num::NonZeroUsize};

use serde_json::Value;

use super::{
    Counterfactuals, JobSpec, Observer,
    counterfactuals::measures_setting,
    resolve::{UNNAMED_CLASSES, class_identity, column_identity, fingerprint_of, job_fingerprint, job_settings},
    session::Work,
    target::target_text,
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{ExpectedHeatmaps, HeatmapOrigin, LabelField, StoredRun, other_heatmaps, same_heatmaps, stored_runs};
use camflow_media::MaskValue;
use camflow_names::{Choice, backticked};
use camflow_pipeline::{Fingerprint, HeatmapFields, NpyFormat, Store, TargetClass, Targets};
use camflow_torch::explain::Column;
use camflow_torch::program::{Precision, Program};

/// Origins that a message names.
const NAMED: usize = 3;

/// Refuses to replace what is none of the run's own, unless that was asked for, and says which fields will hold what others hold.
pub(crate) fn check_present(
    spec: &JobSpec,
    program: &Program,
    columns: &[Column],
    work: &Work,
    observer: &dyn Observer,
) -> Result<(), Diagnostic> {
    let Work { dataset, fields, .. } = work;
    let job = job_fingerprint(spec, program, work.label.as_ref()).into();
    let expected: Vec<ExpectedHeatmaps> = fields
        .cells()
        .map(|((class, column), name)| ExpectedHeatmaps {
            field: name.to_owned(),
            fingerprint: beginning(fields.fingerprint(&job, class, column)),
        })
        .collect();
    let others = other_heatmaps(dataset, &expected)?;
    let runs = if others.is_empty() { Vec::new() } else { stored_runs(dataset)? };
    let of_job = OfJob { spec, program, label: work.label.as_ref(), runs };
    let (mut told, mut again) = (Vec::new(), Vec::new());
    for origin in &others {
        let Some(((class, column), _)) = fields.cells().find(|(_, name)| *name == origin.field) else { continue };
        let class = match &work.targets {
            Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes.get(class.0),
            Targets::Top | Targets::OwnClass | Targets::Wrong => None,
        };
        let heatmaps = if origin.count == 1 { "heatmap" } else { "heatmaps" };
        match of_job.difference(origin, class, &columns[column.0]) {
            Some(what) => told.push(format!("field `{}` holds {} {heatmaps} {what}", origin.field, origin.count)),
            None => again.push(format!("{} {heatmaps} of field `{}`", origin.count, origin.field)),
        }
    }
    let (told, again) = (first_of(told), first_of(again));
    match (told.is_empty(), spec.replace || spec.overwrite) {
        (true, _) => {}
        (false, true) => observer.notice(&format!("heatmaps of dataset `{}` are replaced: {told}", dataset.name())),
        (false, false) => {
            let what = format!("the run would replace other heatmaps of dataset `{}`: {told}", dataset.name());
            return Err(Diagnostic::invalid(what).hint(
                "give this run fields of its own with `--field`, in which `{model}` stands for the model's name, or replace them with `--replace` (`replace = true` in a job file)",
            ));
        }
    }
    if !again.is_empty() && !spec.overwrite {
        observer.notice(&format!(
            "heatmaps that show the same, but were stored, rounded or measured otherwise (`--npy`, `--store`, `--precision`, `--exact`, \
             `--faithfulness`, `--counterfactuals`, the class's value in masks, an earlier camflow), are made anew: {again}"
        ));
    }
    // Several may be the same as one.
    let (old, new): (BTreeSet<String>, BTreeSet<String>) = same_heatmaps(dataset, &expected)?.into_iter().unzip();
    if !old.is_empty() {
        observer.notice(&format!(
            "{} will hold the same heatmaps as {}, and whoever looks at measures counts both; `camflow remove --fields` takes the old ones away",
            backticked(&new),
            backticked(&old)
        ));
    }
    Ok(())
}

/// The first of several, and how many more there are.
fn first_of(mut several: Vec<String>) -> String {
    let more = several.len().saturating_sub(NAMED);
    several.truncate(NAMED);
    several.join("; ") + &if more > 0 { format!("; and {more} more") } else { String::new() }
}

/// The parts of a fingerprint for model and settings.
fn beginning(fingerprint: Fingerprint) -> String {
    let text = fingerprint.to_string();
    Fingerprint::job_parts(&text).map(|(model, settings)| format!("{model}-{settings}")).unwrap_or_default()
}

/// What a run makes, to be compared with what is there.
struct OfJob<'a> {
    spec: &'a JobSpec,
    program: &'a Program,
    label: Option<&'a LabelField>,
    runs: Vec<StoredRun>,
}

impl OfJob<'_> {
    /// In what heatmaps differ from those that the run makes in their place; `None` where they show the same.
    fn difference(&self, origin: &HeatmapOrigin, class: Option<&TargetClass>, column: &Column) -> Option<String> {
        let Some(stored) = &origin.fingerprint else { return Some("of another program".to_owned()) };
        // An earlier camflow had other fingerprints.
        let (model, settings) = Fingerprint::job_parts(stored)?;
        let base = job_fingerprint(self.spec, self.program, self.label).to_string();
        let (own_model, _) = Fingerprint::job_parts(&base)?;
        let name = &self.program.metadata.name;
        if model != own_model {
            return Some(match origin.model == *name {
                true => format!("from another file of model `{name}`"),
                false => format!("of model `{}`, this run's is `{name}`", origin.model),
            });
        }
        if self.shows_the_same(settings, class, column) {
            return None;
        }
        Some(match class {
            Some(class) if origin.class != class.name => format!("of class `{}`, this run's is `{}`", origin.class, class.name),
            _ if origin.method != column.method.name() => {
                format!("by {}, this run's are by {}", origin.method, column.method.name())
            }
            _ if origin.layer != column.path => format!("of layer `{}`, this run's is `{}`", origin.layer, column.path),
            _ => self.recorded_difference(&origin.field).unwrap_or_else(|| "that were made with other settings".to_owned()),
        })
    }

    /// Whether settings differ only in how heatmaps are stored, measured and rounded, in what earlier versions had of that, or in the
    /// value that stands for the class in masks, which is the dataset's to change.
    fn shows_the_same(&self, stored: &str, class: Option<&TargetClass>, column: &Column) -> bool {
        let asked = |faithfulness| Counterfactuals::ALL.iter().map(move |asked| Some(measures_setting(faithfulness, *asked)));
        let measures = [None, Some("1".to_owned())].into_iter().chain(asked(false)).chain(asked(true));
        let precisions = Precision::ALL.iter().map(|precision| Some(precision.name().to_owned()));
        let now = job_settings(self.spec, self.program, self.label);
        // Earlier versions had nothing there.
        let added = |key: &'static str| {
            let mut values = vec![None, now.iter().find(|(other, _)| *other == key).map(|(_, value)| value.clone())];
            values.dedup();
            (key, values)
        };
        let free: [(&str, Vec<Option<String>>); 7] = [
            ("npy", NpyFormat::ALL.iter().map(|format| Some(format.setting().to_owned())).collect()),
            ("store", Store::ALL.iter().map(|store| Some(store.name().to_owned())).collect()),
            ("precision", precisions.chain([Some("exact".to_owned())]).collect()),
            ("measures", measures.collect()),
            ("channels", [None, Some("one"), Some("one of two classes")].map(|value| value.map(str::to_owned)).to_vec()),
            added("padding"),
            added("batch"),
        ];
        let mut variants = vec![now.clone()];
        for (key, values) in &free {
            let with = |settings: &Vec<(&'static str, String)>, value: &Option<String>| {
                let mut settings = settings.clone();
                match (settings.iter().position(|(other, _)| other == key), value) {
                    (Some(at), Some(value)) => settings[at].1.clone_from(value),
                    (Some(at), None) => drop(settings.remove(at)),
                    (None, Some(value)) => settings.push((key, value.clone())),
                    (None, None) => {}
                }
                settings
            };
            variants = variants.iter().flat_map(|settings| values.iter().map(move |value| with(settings, value))).collect();
        }
        let bases: Vec<Fingerprint> = variants.iter().map(|settings| fingerprint_of(self.program, settings)).collect();
        let is_stored = |class: &str| {
            let with = |base: &Fingerprint| HeatmapFields::fingerprint_of(*base, class, &column_identity(column)).to_string();
            bases.iter().any(|base| Fingerprint::job_parts(&with(base)).is_some_and(|(_, settings)| settings == stored))
        };
        match class {
            Some(class) => {
                let of_value = |mask_value| class_identity(&TargetClass { mask_value, ..class.clone() });
                let values = (0..256).map(MaskValue::Index).chain([MaskValue::Object]).map(Some);
                is_stored(&class_identity(class))
                    || class.mask_value.is_some() && values.map(of_value).any(|class| is_stored(&class))
            }
            None => UNNAMED_CLASSES.iter().any(|class| is_stored(class)),
        }
    }

    /// What the record of the run that last wrote the field says of its settings.
    fn recorded_difference(&self, field: &str) -> Option<String> {
        let wrote = self.runs.iter().filter(|run| run.fields.iter().any(|other| other == field));
        let config = &wrote.max_by(|a, b| a.timestamp.cmp(&b.timestamp))?.config;
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let (target, is_wrong) = (text("target"), text("target").is_some_and(|target| target.starts_with("wrong")));
        let of_labels = |field: &str| if is_wrong { format!("wrong:{field}") } else { format!("labels:{field}") };
        let target = text("label_field").map(of_labels).or_else(|| target.map(str::to_owned));
        let own = target_text(self.spec.target(), self.label);
        if let Some(target) = target.filter(|target| *target != own) {
            return Some(format!("of target `{target}`, this run's is `{own}`"));
        }
        let settings = config.get("settings")?;
        let pixels = |side: Option<NonZeroUsize>| side.map_or(Value::Null, |side| Value::from(side.to_string()));
        let own = [
            ("text", if self.spec.text.is_empty() { Value::Null } else { Value::from(self.spec.text.clone()) }),
            ("text-template", Value::from(self.spec.text_template.clone())),
            ("score", Value::from(self.spec.score.name())),
            ("eigen-smooth", Value::from(self.spec.eigen_smooth)),
            ("aug-smooth", Value::from(self.spec.aug_smooth)),
            ("sess", Value::from(self.spec.sess)),
            ("apply-exif", Value::from(self.spec.apply_exif)),
            ("size", Value::from(self.spec.size.name())),
            ("slice-height", pixels(self.spec.slice_height)),
            ("slice-width", pixels(self.spec.slice_width)),
            ("overlap-height-ratio", Value::from(self.spec.overlap_height_ratio.to_string())),
            ("overlap-width-ratio", Value::from(self.spec.overlap_width_ratio.to_string())),
        ];
        let differs = |(key, value): &&(&str, Value)| settings.get(key).is_some_and(|stored| stored != value);
        let (key, value) = own.iter().find(differs)?;
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(format!("made with `{key} = {}`, this run has `{}`", plain(&settings[*key]), plain(value)))
    }
}
