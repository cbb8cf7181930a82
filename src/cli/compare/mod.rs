//! `camflow compare`: two models, two nights or two methods on the same samples, as a page, as JSON and as CSV, and as an exit code.

mod sides;

use std::path::{Path, PathBuf};

use super::{Exit, dataset::DatasetArgs, print, selection::SelectionArgs, signals::cancel_on_signals, whole};
use crate::{
    diagnostic::Diagnostic,
    engine::{CompareFiles, Compared, NUM_WORST, check_written, shared},
    fiftyone::{Dataset, LabelField, check_comparison_view, save_comparison_view},
    media::shown,
    names::{self, Choice, backticked, counted, existing, flag},
    study::{
        Example,
        compare::{Better, Comparison, Gate, Quantity, Row, Worse},
    },
};
use sides::{Pairing, Side, keep_both, pairing};

/// Compare two models, nights or methods on the same samples: differences with intervals, what changed most
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, group = clap::ArgGroup::new("thresholds").args(["max_drop", "max_rise"]).multiple(true))]
pub(super) struct Args {
    /// A: a heatmap field; several of them, with `*` for what is the same in B; or a run
    #[arg(value_name = "A")]
    a: String,
    /// B, likewise; with `--against-dataset` as A by default
    #[arg(value_name = "B", required_unless_present = "against_dataset")]
    b: Option<String>,
    #[command(flatten)]
    dataset: DatasetArgs,
    /// The dataset of B, if it is another one, such as a clone; samples belong together by the paths of their images
    #[arg(long, value_name = "NAME")]
    against_dataset: Option<String>,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "compare.html")]
    out: PathBuf,
    /// Write the numbers here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a line for each pair here, too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// End with 1 if the mean of a measure fell by more than this from A to B: `energy_inside=0.02`, of a class
    /// `person:energy_inside=0.02`; may be repeated
    #[arg(long, value_name = "[CLASS:]MEASURE=NUMBER", value_parser = |text: &str| Gate::parse(Worse::Drop, text))]
    max_drop: Vec<Gate>,
    /// The same of one that rose, where less is better: `center_offset=0.05`
    #[arg(long, value_name = "[CLASS:]MEASURE=NUMBER", value_parser = |text: &str| Gate::parse(Worse::Rise, text))]
    max_rise: Vec<Gate>,
    /// End with 1 also where there are too few samples to tell
    #[arg(long, requires = "thresholds")]
    strict: bool,
    /// The measure that samples are ranked by
    #[arg(long, value_name = "MEASURE", default_value = "energy_inside", value_parser = super::choice::<Quantity>(), hide_possible_values = true)]
    by: Quantity,
    /// How many of the samples that changed most to show
    #[arg(long, value_name = "N", default_value_t = NUM_WORST, value_parser = whole::<usize>)]
    most: usize,
    /// Save a view of the samples that changed most, those first, with the heatmaps of A and B, for the App
    #[arg(long, value_name = "NAME")]
    save_view: Option<String>,
    /// Compare measures alone, without reading heatmap files
    #[arg(long)]
    no_maps: bool,
    /// The label field with the objects around which mean heatmaps are taken; default: that of the runs
    #[arg(long, value_name = "FIELD")]
    align_on: Option<String>,
    #[command(flatten)]
    samples: SelectionArgs,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    check_files(args)?;
    let (_connected, dataset) = args.dataset.open()?;
    let other = args.against_dataset.as_ref().map(|name| dataset.beside(name)).transpose()?;
    let b = args.b.as_ref().unwrap_or(&args.a);
    let of_b = other.as_ref().unwrap_or(&dataset);
    let sides = [Side::find(&dataset, &args.a)?, Side::find(of_b, b)?];
    let Pairing { fields, left } = pairing(&sides, other.is_some()).map_err(|error| error.hint(keep_both(&dataset)))?;
    let objects = args.align_on.as_ref().map(|name| LabelField::with_places(&dataset, name, "--align-on")).transpose()?;
    args.save_view.as_ref().map_or(Ok(()), |name| check_comparison_view(&dataset, name))?;
    let read = fields.iter().flat_map(|(a, b)| if other.is_none() { vec![a.clone(), b.clone()] } else { vec![a.clone()] });
    let selection = args.samples.samples_of_all(&args.dataset, &dataset, &read.collect::<Vec<_>>())?;
    let gates: Vec<Gate> = args.max_drop.iter().chain(&args.max_rise).cloned().collect();
    let files = CompareFiles {
        names: [&args.a, b],
        fields: &fields,
        page: &args.out,
        json: args.json.as_deref(),
        csv: args.csv.as_deref(),
        ranked_by: args.by,
        num_most: args.most,
        reads_maps: !args.no_maps,
        objects,
        gates: &gates,
        is_strict: args.strict,
        selection: args.samples.text(),
    };
    let compared = files.write(&dataset, other.as_ref(), selection, &cancellation)?;
    if cancellation.is_cancelled() {
        return Ok(Exit::Interrupted);
    }
    let Compared { comparison, notices, .. } = &compared;
    if comparison.num_pairs == 0 {
        return Err(notices
            .iter()
            .fold(nothing_in_common(args, &dataset, comparison), |error, notice| error.hint(notice.clone())));
    }
    notices.iter().chain(&left).for_each(|notice| print(&format!("note: {notice}")));
    tell(args, &dataset, &compared, fields.len());
    if let Some(name) = &args.save_view {
        save(name, args, &dataset, other.is_none(), comparison, &fields)?;
    }
    judge(&compared)
}

/// Prints what was found.
fn tell(args: &Args, dataset: &Dataset, compared: &Compared, num_fields: usize) {
    let Compared { comparison, findings, .. } = compared;
    unpaired(comparison).iter().for_each(|text| print(&format!("note: {text}: left out")));
    let num_unreadable = comparison.maps.num_unreadable;
    if num_unreadable > 0 {
        let pairs = counted(num_unreadable, "pair has", "pairs have");
        let reasons = comparison.unreadable.join("; ");
        let dataset = flag("--dataset", dataset.name());
        print(&format!(
            "note: {pairs} a heatmap file that cannot be read, so that their measures count and their maps do not: {} (`camflow check {dataset} --read-data` looks at all)",
            names::shown(&reasons)
        ));
    }
    let totals = comparison.totals();
    if !totals.iter().any(|row| row.quantity == args.by) {
        print(&format!("note: no pair has `{}`: samples are ranked by the overlap of their heatmaps alone", args.by.name()));
    }
    totals.iter().for_each(|row| print(&line(row)));
    for finding in findings {
        print(&names::shown(&finding.text).to_string());
        for Example { sample, media_path, .. } in &finding.examples {
            print(&format!("  {sample}  {}", shown(media_path)));
        }
    }
    let pairs = counted(comparison.num_pairs, "pair", "pairs");
    let samples = counted(comparison.num_samples, "sample", "samples");
    let fields = counted(num_fields, "pair of fields", "pairs of fields");
    print(&format!("{pairs} of {samples} in {fields}: {}", shown(&args.out)));
}

/// A measure over all samples, in one line.
fn line(row: &Row<'_>) -> String {
    let difference = row.difference;
    let interval = difference.interval.map_or_else(String::new, |[low, high]| format!("  95 % {low:+.4} to {high:+.4}"));
    let is_less = difference.mean < 0.0;
    let said = match (row.is_clear(), row.quantity.better()) {
        (false, _) => "",
        (true, Better::Neither) => "  differs",
        (true, better) if is_less == (better == Better::Higher) => "  worse",
        (true, _) => "  better",
    };
    let little = if row.is_clear() && row.is_small() { ", by little" } else { "" };
    let [a, b] = difference.means;
    format!("{:<19} A {a:.4}  B {b:.4}  {:+.4}{interval}{said}{little}", row.quantity.name(), difference.mean)
}

/// What has nothing to be compared with, in words.
fn unpaired(comparison: &Comparison) -> Vec<String> {
    let unpaired = comparison.unpaired;
    [
        (unpaired.only_a, "of A has none of B in its sample", "of A have none of B in their samples", "heatmap"),
        (unpaired.only_b, "of B has none of A in its sample", "of B have none of A in their samples", "heatmap"),
        (unpaired.other_class, "explains another class in B than in A", "explain other classes in B than in A", "pair"),
        (
            unpaired.samples_only_a,
            "of A has no heatmap in the dataset of B",
            "of A have no heatmaps in the dataset of B",
            "sample",
        ),
        (unpaired.samples_only_b, "of the dataset of B has no pair", "of the dataset of B have no pairs", "sample"),
        (
            unpaired.samples_several,
            "of A has an image of which the dataset of B has several samples",
            "of A have images of which the dataset of B has several samples",
            "sample",
        ),
    ]
    .into_iter()
    .filter(|(num, ..)| *num > 0)
    .map(|(num, one, several, thing)| {
        let said = if num == 1 { one } else { several };
        format!("{} {said}", counted(num, thing, &format!("{thing}s")))
    })
    .collect()
}

fn nothing_in_common(args: &Args, dataset: &Dataset, comparison: &Comparison) -> Diagnostic {
    let (a, b) = (&args.a, args.b.as_ref().unwrap_or(&args.a));
    let of = match &args.against_dataset {
        None => format!("dataset `{}`", dataset.name()),
        Some(other) => format!("datasets `{}` and `{other}`", dataset.name()),
    };
    let error = Diagnostic::invalid(format!("no sample of the selection has heatmaps of both `{a}` and `{b}` in {of}"));
    let error = unpaired(comparison).into_iter().fold(error, Diagnostic::hint);
    error.hint("make both of the same samples with `camflow annotate`, or select other samples")
}

/// Saves the view.
fn save(
    name: &str,
    args: &Args,
    dataset: &Dataset,
    has_both: bool,
    comparison: &Comparison,
    fields: &[(String, String)],
) -> Result<(), Diagnostic> {
    let ids = comparison.ranking();
    if ids.is_empty() {
        print(&format!("note: no view is saved: no pair has `{}`, and no maps were compared", args.by.name()));
        return Ok(());
    }
    let mut shown: Vec<String> = Vec::new();
    for field in fields.iter().flat_map(|(a, b)| if has_both { vec![a, b] } else { vec![a] }) {
        if !shown.contains(field) {
            shown.push(field.clone());
        }
    }
    let compared = format!("{} against {}", args.a, args.b.as_ref().or(args.against_dataset.as_ref()).unwrap_or(&args.a));
    save_comparison_view(dataset, name, &compared, &ids, &shown)?;
    print(&format!("view `{}`: {}, those that changed most first", names::shown(name), counted(ids.len(), "sample", "samples")));
    Ok(())
}

/// The exit code of the gates.
fn judge(compared: &Compared) -> Result<Exit, Diagnostic> {
    let comparison = &compared.comparison;
    let mut exit = Exit::Done;
    for judged in &compared.judged {
        let Some(text) = judged.text() else {
            let name = judged.gate.name();
            let error = Diagnostic::invalid(format!("no pair has {name}, so that its threshold judges nothing"));
            let known: Vec<&str> = comparison.totals().iter().map(|row| row.quantity.name()).collect();
            return Err(match &judged.gate.class {
                Some(class) if !comparison.classes().contains(&class.as_str()) => {
                    error.hint(existing("classes", class, &comparison.classes()))
                }
                _ => error.hint(format!("the measures that pairs have are {}", backticked(known))),
            });
        };
        print(&names::shown(&text).to_string());
        if judged.fails() {
            exit = Exit::SomeFailed;
        }
    }
    Ok(exit)
}

/// Refuses files that cannot be written, or would be written over each other.
fn check_files(args: &Args) -> Result<(), Diagnostic> {
    let files = [("--out", Some(&args.out)), ("--json", args.json.as_ref()), ("--csv", args.csv.as_ref())];
    let written: Vec<(&str, &Path)> = files.into_iter().filter_map(|(flag, path)| Some((flag, path?.as_path()))).collect();
    let read: Vec<(&str, &Path)> = args.samples.ids_file().map(|path| ("--ids", path)).into_iter().collect();
    if let Some((first, second, path)) = shared(&written, &read).first() {
        return Err(
            Diagnostic::invalid(format!("`{first}` and `{second}` are the same file, `{}`", shown(path))).hint("name two files")
        );
    }
    written.iter().try_for_each(|(flag, path)| check_written(flag, path))
}
