//! `camflow localize`: boxes and masks from stored heatmaps, and how well these localize.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};

use super::{
    Exit,
    dataset::{DatasetArgs, chosen_heatmap_fields},
    model::heatmap_folder,
    print,
    selection::SelectionArgs,
    signals::cancel_on_signals,
};
use crate::{
    diagnostic::Diagnostic,
    engine::{ClassLocalization, Localization, LocalizeSpec, Observer, ThresholdSource, check_written, localize},
    fiftyone::Dataset,
    job::ClassMapping,
    measure::localization::{IOU_THRESHOLDS, STEPS, Threshold},
    media::{Durability, write_named},
    names::{self, backticked, counted},
    report::{Format, Reporter},
    storage::Grace,
};

/// Make boxes and masks of stored heatmaps, and measure how well these localize
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// The heatmap fields, one for each class; default: all that camflow made
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    fields: Vec<String>,
    /// The heatmap fields of this run; `camflow runs` lists them
    #[arg(long, value_name = "RUN", conflicts_with = "fields")]
    run: Option<String>,
    /// Field for boxes (`Detections`)
    #[arg(long, value_name = "FIELD", value_parser = NonEmptyStringValueParser::new())]
    boxes: Option<String>,
    /// Field for masks (`Segmentation`)
    #[arg(long, value_name = "FIELD", value_parser = NonEmptyStringValueParser::new())]
    masks: Option<String>,
    /// Threshold for all heatmaps, as a share of a heatmap's highest value: 0.01 to 1 in hundredths
    #[arg(long, value_name = "SHARE", value_parser = threshold)]
    threshold: Option<Threshold>,
    /// Label field that says where objects are. Thresholds are learnt on it, one for each field and class, and all is compared with it
    #[arg(long, value_name = "FIELD", value_parser = NonEmptyStringValueParser::new())]
    truth: Option<String>,
    /// Labels of that field whose pixels count nowhere, such as `void`
    #[arg(long, value_name = "LABEL")]
    ignore: Vec<String>,
    /// Which class a label of that field is, where it is spelt otherwise
    #[arg(long, value_name = "LABEL=CLASS")]
    map: Vec<ClassMapping>,
    /// The least share of the image that a connected part of a heatmap has to have, to be kept
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, value_parser = share)]
    min_area: f64,
    /// Keep the largest connected part of each heatmap alone
    #[arg(long)]
    largest: bool,
    /// Folder for the files of masks; default: as for `annotate`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// That is another folder than the one that the dataset's heatmaps were written to
    #[arg(long)]
    new_folder: bool,
    /// How long files stay that are replaced: `1d`, `36h`, `0`
    #[arg(long, value_name = "TIME", default_value_t)]
    grace: Grace,
    /// Replace labels in these fields that were made of other heatmaps, or that somebody else put there
    #[arg(long)]
    replace: bool,
    /// Learn, compare and count, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the numbers here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    samples: SelectionArgs,
}

fn threshold(text: &str) -> Result<Threshold, String> {
    let share: f64 = text.parse().map_err(|_| "it is a number, such as 0.2".to_owned())?;
    Threshold::of_share(share).ok_or_else(|| "it is 0.01 to 1, in whole hundredths".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "it is a number, such as 0.01".to_owned())?;
    if (0.0..1.0).contains(&share) { Ok(share) } else { Err("it is from 0 to below 1".to_owned()) }
}

/// What is said meanwhile.
struct Told(Reporter);

impl Observer for Told {
    fn notice(&self, text: &str) {
        self.0.notice(text);
    }

    fn step(&self, text: &str) {
        self.0.step(text);
    }

    fn warning(&self, text: &str) {
        self.0.warning(text);
    }
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    args.json.as_deref().map_or(Ok(()), |path| check_written("--json", path))?;
    let (_connected, dataset) = args.dataset.open()?;
    let spec = spec(args, &dataset)?;
    let found = localize(&spec, &dataset, &cancellation, &Told(Reporter::new(Format::Human)))?;
    lines(&found, &spec).iter().for_each(|line| print(&names::shown(line).to_string()));
    if let Some(path) = args.json.as_deref().filter(|_| found.exit != Exit::Interrupted) {
        let text = format!("{:#}\n", numbers(&found, &spec, dataset.name()));
        let written = write_named(path, Durability::Process, |file| std::io::Write::write_all(file, text.as_bytes()));
        written.map_err(|error| Diagnostic::from(error).of_class(crate::diagnostic::Class::Aborted))?;
    }
    Ok(found.exit)
}

fn spec(args: &Args, dataset: &Dataset) -> Result<LocalizeSpec, Diagnostic> {
    let fields = chosen_heatmap_fields(dataset, dataset.heatmap_fields(), &args.fields, args.run.as_deref())?;
    let selection = args.samples.samples_of_all(&args.dataset, dataset, &fields)?;
    Ok(LocalizeSpec {
        fields,
        are_named: !args.fields.is_empty(),
        boxes: args.boxes.clone(),
        masks: args.masks.clone(),
        threshold: args.threshold,
        truth: args.truth.clone(),
        ignore: args.ignore.clone(),
        map: args.map.clone(),
        min_area: args.min_area,
        largest: args.largest,
        selection,
        folder: heatmap_folder(args.out.as_deref(), dataset.name())?,
        new_folder: args.new_folder,
        grace: args.grace,
        replace: args.replace,
        dry_run: args.dry_run,
    })
}

/// What came of it, in words.
fn lines(found: &Localization, spec: &LocalizeSpec) -> Vec<String> {
    let mut lines = Vec::new();
    if found.criterion.is_some() {
        lines.extend(table(&found.classes));
    }
    if let Some(criterion) = found.criterion {
        lines.push(format!(
            "IoU of {} with those in `{}`, mean over heatmaps; cross-validated: on samples that the threshold was not learnt on",
            criterion.name(),
            spec.truth.as_deref().unwrap_or_default()
        ));
    }
    if found.criterion.is_some() && found.classes.iter().all(|one| one.num_labelled == 0) {
        lines.push(format!(
            "nothing was compared: no sample with a heatmap has an object of its class in `{}`; `--map LABEL=CLASS` says which class a label is",
            spec.truth.as_deref().unwrap_or_default()
        ));
    }
    let is_lowest = |one: &&ClassLocalization| {
        one.source == Some(ThresholdSource::Learnt) && one.threshold.is_some_and(|share| share < 1.5 / STEPS as f64)
    };
    let lowest: Vec<&String> = found.classes.iter().filter(is_lowest).filter_map(|one| one.field.as_ref()).collect();
    if !lowest.is_empty() {
        lines.push(format!(
            "the lowest threshold that is tried is the best for {}: a few pixels of these heatmaps are far above all others",
            backticked(lowest)
        ));
    }
    if found.num_without_object > 0 {
        lines.push(format!(
            "{} left out: the label has no object of the class that the model could see",
            counted(found.num_without_object, "labelled heatmap", "labelled heatmaps")
        ));
    }
    if found.exit == Exit::Interrupted {
        lines.push("stopped; run the same command again to go on".to_owned());
    }
    if spec.boxes.is_some() || spec.masks.is_some() {
        let fields = backticked([&spec.boxes, &spec.masks].into_iter().flatten());
        let samples = |count: u64| counted(count, "sample", "samples");
        let verb = if spec.dry_run { "would be written" } else { "written" };
        let mut line = format!("{fields}: {} {verb}, {} up to date", samples(found.num_written), found.num_up_to_date);
        let mut more =
            |count: u64, what: &str| line.push_str(&if count > 0 { format!(", {count} {what}") } else { String::new() });
        more(found.num_withdrawn, "without heatmaps any more, whose labels are gone");
        more(found.num_kept, "labels that somebody else put there stay (`--replace` replaces them)");
        lines.push(line);
    }
    if found.num_failed > 0 {
        lines.push(format!(
            "{} could not be read; `camflow check` names damaged files, which the next `camflow annotate` of the same job makes again",
            counted(found.num_failed, "heatmap or its label", "heatmaps or their labels")
        ));
    }
    lines
}

/// A line for each class, in columns.
fn table(classes: &[ClassLocalization]) -> Vec<String> {
    let number = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"));
    let usual = format!("at {:.2}", Threshold::USUAL.share());
    let head = ["class", "field", "heatmaps", "threshold", "IoU", "cross-validated", &usual, "MaxBoxAccV2", "PxAP"];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for one in classes {
        let threshold = one.threshold.map_or_else(String::new, |threshold| format!("{threshold:.2}"));
        let source = one.source.map_or_else(String::new, |source| format!(" {}", source.name()));
        rows.push(vec![
            one.class.clone().unwrap_or_else(|| "all".to_owned()),
            one.field.clone().unwrap_or_default(),
            one.num_labelled.to_string(),
            format!("{threshold}{source}"),
            number(one.iou),
            number(one.iou_cross_validated),
            number(one.iou_usual),
            number(one.max_box_acc_v2),
            number(one.px_ap),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The same in numbers.
fn numbers(found: &Localization, spec: &LocalizeSpec, dataset: &str) -> Value {
    let of_class = |one: &ClassLocalization| {
        let by_iou = one.max_box_acc.map(|by_iou| {
            let pairs = IOU_THRESHOLDS.iter().zip(by_iou);
            pairs.map(|(iou, share)| (iou.to_string(), Value::from(share))).collect::<serde_json::Map<_, _>>()
        });
        json!({
            "field": one.field, "class": one.class, "num_labelled": one.num_labelled,
            "threshold": one.threshold, "threshold_source": one.source.map(|source| source.name()),
            "iou": one.iou, "iou_cross_validated": one.iou_cross_validated, "iou_at_0.15": one.iou_usual,
            "max_box_acc": by_iou, "max_box_acc_v2": one.max_box_acc_v2, "px_ap": one.px_ap,
        })
    };
    json!({
        "dataset": dataset, "fields": spec.fields, "boxes": spec.boxes, "masks": spec.masks, "truth": spec.truth,
        "iou_of": found.criterion.map(|criterion| criterion.name()),
        "min_area": spec.min_area, "largest": spec.largest, "dry_run": spec.dry_run,
        "classes": found.classes.iter().map(of_class).collect::<Vec<_>>(),
        "num_without_object": found.num_without_object, "num_written": found.num_written,
        "num_up_to_date": found.num_up_to_date, "num_withdrawn": found.num_withdrawn, "num_kept": found.num_kept,
        "num_failed": found.num_failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_and_shares_are_in_their_range() {
        assert_eq!(threshold("0.2").map(Threshold::share), Ok(0.2));
        for wrong in ["0", "0.155", "1.1", "20%", "nan"] {
            assert!(threshold(wrong).is_err(), "{wrong}");
        }
        assert_eq!((share("0"), share("0.5").is_ok(), share("1").is_err()), (Ok(0.0), true, true));
    }
}
