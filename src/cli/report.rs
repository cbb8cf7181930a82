//! `camflow report`: what the measures of a dataset's heatmaps say, as a page, as JSON and as CSV.

use std::path::{Path, PathBuf};

use super::{
    Exit,
    dataset::{DatasetArgs, chosen_heatmap_fields},
    print,
    selection::SelectionArgs,
    signals::cancel_on_signals,
    whole,
};
use crate::{
    diagnostic::Diagnostic,
    engine::{APP, NUM_WORST, Studied, StudyFiles, baseline_notice, check_written, read_baseline, shared},
    fiftyone::MeasuredSource,
    media::shown,
    names::{self, backticked, counted, flag},
    study::Example,
};

/// Samples that are listed below a sentence, or as many as `--worst` says.
const LISTED: usize = 8;

/// Report where the model looks: distributions, extreme samples, what stands out
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Only these heatmap fields; default: all that camflow made
    #[arg(long, value_delimiter = ',', value_name = "FIELD")]
    fields: Vec<String>,
    /// Only the fields of this run; `camflow runs` lists them
    #[arg(long, value_name = "RUN", conflicts_with = "fields")]
    run: Option<String>,
    /// The page to write
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Write the numbers here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a line for each heatmap here, too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The JSON of an earlier report, to compare with
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// How many of the worst and of the best samples to show of each field and class
    #[arg(long, value_name = "N", default_value_t = NUM_WORST, value_parser = whole::<usize>)]
    worst: usize,
    /// Save the samples of each finding as a view of the dataset, `camflow finding 1` and so on, which the page links to
    #[arg(long)]
    save_views: bool,
    /// Where FiftyOne's App is, which the page's pictures lead to
    #[arg(long, value_name = "URL", default_value = APP, value_parser = web_address)]
    app_url: String,
    #[command(flatten)]
    samples: SelectionArgs,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    let baseline = args.baseline.as_deref().map(read_baseline).transpose()?;
    check_files(args)?;
    let (_connected, dataset) = args.dataset.open()?;
    let notice = baseline.as_ref().and_then(|baseline| baseline_notice(baseline, dataset.name()));
    notice.iter().for_each(|notice| print(&format!("note: {notice}")));
    let mut fields = chosen_heatmap_fields(&dataset, dataset.written_fields(), &args.fields, args.run.as_deref())?;
    let (selection, hidden) = args.samples.samples(&args.dataset, &dataset, &fields)?;
    leave_out(args, &mut fields, &hidden)?;
    let mut source = MeasuredSource::new(&dataset, fields.clone(), &selection)?;
    let notices = source.notices().to_vec();
    let files = StudyFiles {
        page: &args.out,
        json: args.json.as_deref(),
        csv: args.csv.as_deref(),
        num_worst: args.worst,
        baseline: baseline.as_ref(),
        selection: args.samples.text(),
        app: &args.app_url,
        saves_views: args.save_views,
    };
    let Studied { study, findings, unsaved } = files.write(&dataset, &mut source, &cancellation)?;
    if cancellation.is_cancelled() {
        return Ok(Exit::Interrupted);
    }
    if study.num_samples == 0 {
        let (fields, name) = (backticked(fields.iter().map(String::as_str)), dataset.name());
        let dataset = flag("--dataset", name);
        let problem = format!("no sample of the selection has heatmaps of camflow's in {fields} of dataset `{name}`");
        let hint = format!("make them with `camflow annotate {dataset}`, or select other samples");
        let error = Diagnostic::invalid(problem);
        return Err(notices.into_iter().fold(error, Diagnostic::hint).hint(hint));
    }

    notices.iter().for_each(|notice| print(&format!("note: {notice}")));
    if !unsaved.is_empty() {
        let names = backticked(&unsaved);
        print(&format!(
            "note: not saved: {names}; the dataset has views of these names that no report made. Rename them, and report again"
        ));
    }
    for finding in &findings {
        print(&names::shown(&finding.text).to_string());
        let num_listed = finding.examples.len().min(args.worst.max(LISTED));
        for Example { sample, media_path, .. } in &finding.examples[..num_listed] {
            print(&format!("  {sample}  {}", shown(media_path)));
        }
        match finding.examples.len() - num_listed {
            0 => {}
            more => print(&format!("  and {more} more: `--json` lists them, `--save-views` shows them in the App")),
        }
    }
    let heatmaps = counted(study.num_heatmaps(), "heatmap", "heatmaps");
    let samples = counted(study.num_samples, "sample", "samples");
    print(&format!("{heatmaps} of {samples}: {}", shown(&args.out)));
    Ok(Exit::Done)
}

/// An address that a page may lead to.
fn web_address(text: &str) -> Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.to_owned());
    }
    Err("it begins with `http://` or `https://`".to_owned())
}

/// Refuses files that cannot be written, or would be written over each other.
fn check_files(args: &Args) -> Result<(), Diagnostic> {
    let files = [("--out", Some(&args.out)), ("--json", args.json.as_ref()), ("--csv", args.csv.as_ref())];
    let written: Vec<(&str, &Path)> = files.into_iter().filter_map(|(flag, path)| Some((flag, path?.as_path()))).collect();
    let baseline = args.baseline.as_deref().filter(|path| args.json.as_deref() != Some(*path));
    let read: Vec<(&str, &Path)> = [("--baseline", baseline), ("--ids", args.samples.ids_file())]
        .into_iter()
        .filter_map(|(flag, path)| Some((flag, path?)))
        .collect();
    if let Some((first, second, path)) = shared(&written, &read).first() {
        return Err(
            Diagnostic::invalid(format!("`{first}` and `{second}` are the same file, `{}`", shown(path))).hint("name two files")
        );
    }
    written.iter().try_for_each(|(flag, path)| check_written(flag, path))
}

/// Leaves out the fields that the saved view hides, with a word about it, unless they were asked for.
fn leave_out(args: &Args, fields: &mut Vec<String>, hidden: &[String]) -> Result<(), Diagnostic> {
    if hidden.is_empty() {
        return Ok(());
    }
    fields.retain(|field| !hidden.contains(field));
    if fields.is_empty() || !args.fields.is_empty() {
        return Err(args.samples.hides(hidden));
    }
    print(&format!("note: {}: left out", args.samples.hiding(hidden)));
    Ok(())
}
