//! Whether the labels of the dataset have the classes that a run is to explain: a name that is spelt otherwise there would end in a
//! run with nothing to do.

use super::{Observer, session::Work};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{LabelField, LabelKind, has_label, label_names};
use camflow_names::{ClassNames, Meaning, backticked, nearest};
use camflow_pipeline::{TargetClass, Targets};

/// Labels that an error names.
const NAMED: usize = 10;

/// Classes to look for one by one, before all labels are looked at: most are found at once.
const FEW: usize = 10;

/// Refuses a class that no label of the whole field is of. That none of the selected samples has it is fine, and so is one whose
/// heatmaps are there: labels may lose a class.
pub(crate) fn check_labels(work: &Work, names: &ClassNames, observer: &dyn Observer) -> Result<(), Diagnostic> {
    let Some(field) = work.label.as_ref().filter(|label| label.kind != LabelKind::Segmentation) else { return Ok(()) };
    check_mapped(work, field, names, observer)?;
    let missing: Vec<usize> = match &work.targets {
        Targets::Classes(classes) => {
            let mut missing = Vec::new();
            for (index, class) in classes.iter().enumerate() {
                if classes.len() > FEW || !is_written(work, field, names, class)? {
                    missing.push(index);
                }
            }
            missing
        }
        // Any class will do.
        Targets::OwnClass | Targets::Wrong => {
            let written: Vec<&str> = names.classes().values().map(String::as_str).collect();
            if has_written(work, field, &written)? { Vec::new() } else { vec![0] }
        }
        Targets::Pixel { .. } | Targets::Top => Vec::new(),
    };
    if missing.is_empty() {
        return Ok(());
    }
    let (dataset, labels) = (work.dataset.name(), label_names(&work.dataset, field, work.view.as_ref())?);
    if labels.is_empty() {
        let is_viewed = work.view.as_ref().is_some_and(|view| view.changes.is_some());
        let whose = if is_viewed { "that the view shows" } else { "with a name" };
        let text = format!("field `{}` of dataset `{dataset}` has no labels {whose}, so there is nothing to explain", field.name);
        observer.warning(&text);
        return Ok(());
    }
    let is_of = |label: &String, index: usize| match &work.targets {
        Targets::Classes(classes) => names.means(label, (&classes[index].name, classes[index].index)),
        _ => !matches!(names.meaning(label), Meaning::Unknown),
    };
    let mut problems = Vec::new();
    for index in missing.into_iter().filter(|index| !labels.iter().any(|label| is_of(label, *index))) {
        let (what, name) = match &work.targets {
            Targets::Classes(classes) => (format!("of class `{}`", classes[index].name), classes[index].name.as_str()),
            _ => {
                let classes: Vec<&str> = names.classes().values().map(String::as_str).take(NAMED).collect();
                (format!("of a class of the model, such as {}", backticked(&classes)), classes[0])
            }
        };
        let fields = &work.names[index];
        let known = work.dataset.written_fields();
        let text = format!("no label in field `{}` of dataset `{dataset}` is {what}", field.name);
        if fields.iter().any(|field| known.contains(field)) {
            observer.warning(&format!("{text} any more"));
            continue;
        }
        let near = backticked(nearest(name, &labels, NAMED));
        let there_are = match labels.len() {
            ..=NAMED => format!("its labels are {near}"),
            count => format!("the nearest of its {count} labels are {near}"),
        };
        problems.push(Diagnostic::invalid(text).hint(format!("{there_are}; `--map LABEL=CLASS` says which class a label is")));
    }
    Diagnostic::join(problems).map_or(Ok(()), Err)
}

/// Mentions the labels of `--map` that no sample has: one that is misspelt would be passed over for ever.
fn check_mapped(work: &Work, field: &LabelField, names: &ClassNames, observer: &dyn Observer) -> Result<(), Diagnostic> {
    let mut absent: Vec<&str> = Vec::new();
    let few = names.mapped().count() <= FEW && work.view.as_ref().is_none_or(|view| view.changes.is_none());
    let labels = if few { Vec::new() } else { label_names(&work.dataset, field, work.view.as_ref())? };
    for label in names.mapped() {
        let is_there = if few { has_label(&work.dataset, field, &[label])? } else { labels.iter().any(|other| other == label) };
        if !is_there {
            absent.push(label);
        }
    }
    if !absent.is_empty() {
        let dataset = work.dataset.name();
        let what = if absent.len() == 1 { "a label" } else { "labels" };
        observer.notice(&format!(
            "`--map` names {what} that field `{}` of dataset `{dataset}` does not have: {}",
            field.name,
            backticked(&absent)
        ));
    }
    Ok(())
}

/// Whether labels are written as the class is, or as the user says.
fn is_written(work: &Work, field: &LabelField, names: &ClassNames, class: &TargetClass) -> Result<bool, Diagnostic> {
    let own = Some(class.name.as_str()).filter(|name| names.means(name, (&class.name, class.index)));
    let written: Vec<&str> = own.into_iter().chain(names.mapped_to(class.index)).collect();
    has_written(work, field, &written)
}

/// A view may show other names than those that are stored.
fn has_written(work: &Work, field: &LabelField, written: &[&str]) -> Result<bool, Diagnostic> {
    let is_stored = work.view.as_ref().is_none_or(|view| view.changes.is_none());
    Ok(is_stored && has_label(&work.dataset, field, written)?)
}
