//! `camflow report`: what the measures of a dataset's heatmaps say, as a page, as JSON and as CSV.

use std::path::{Path, PathBuf};

use super::{
    Exit,
    dataset::{DatasetArgs, asked_heatmap_fields, check_runs},
    print,
    signals::cancel_on_signals,
    whole,
};
use crate::{
    diagnostic::Diagnostic,
    engine::{
        APP, NUM_WORST, StudyFiles, baseline_notice, check_written, chosen_ids, chosen_tags, listed_ids, read_baseline, shared,
    },
    fiftyone::{Dataset, MeasuredSource, Selection, stored_runs},
    job::NameList,
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
    /// Only samples with one of these tags
    #[arg(long, value_name = "TAG")]
    tags: Vec<String>,
    /// Only samples that match this MongoDB query (JSON)
    #[arg(long = "match", value_name = "QUERY")]
    matching: Option<String>,
    /// Only the samples of this saved view
    #[arg(long, value_name = "VIEW")]
    view: Option<String>,
    /// Only the samples whose ids stand in this file, one a line
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    let baseline = args.baseline.as_deref().map(read_baseline).transpose()?;
    check_files(args)?;
    let (_connected, dataset) = args.dataset.open()?;
    let notice = baseline.as_ref().and_then(|baseline| baseline_notice(baseline, dataset.name()));
    notice.iter().for_each(|notice| print(&format!("note: {notice}")));
    let mut fields = fields(&dataset, args)?;
    let viewed = args.view.as_ref().map(|view| args.dataset.viewed(&dataset, view, &fields)).transpose()?;
    let viewed = match viewed {
        Some((ids, shown)) => {
            fields = shown_fields(args, fields, shown)?;
            Some(ids)
        }
        None => None,
    };
    let ids = chosen_ids(viewed, args.ids.as_deref().map(listed_ids).transpose()?);
    let selection = Selection {
        tags: chosen_tags(&dataset, &NameList::from_texts(&args.tags))?,
        matching: args.matching.clone(),
        ids,
        ..Selection::default()
    };
    let mut source = MeasuredSource::new(&dataset, fields.clone(), &selection)?;
    let notices = source.notices().to_vec();
    let files = StudyFiles {
        page: &args.out,
        json: args.json.as_deref(),
        csv: args.csv.as_deref(),
        num_worst: args.worst,
        baseline: baseline.as_ref(),
        selection: selected(args),
        app: &args.app_url,
        saves_views: args.save_views,
    };
    let (study, findings) = files.write(&dataset, &mut source, &cancellation)?;
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
    let read: Vec<(&str, &Path)> = [("--baseline", baseline), ("--ids", args.ids.as_deref())]
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

/// The heatmap fields to read.
fn fields(dataset: &Dataset, args: &Args) -> Result<Vec<String>, Diagnostic> {
    let known = dataset.written_fields();
    if known.is_empty() {
        let name = dataset.name();
        return Err(Diagnostic::invalid(format!("dataset `{name}` has no heatmaps"))
            .hint(format!("make them with `camflow annotate {}`", flag("--dataset", name))));
    }
    let asked = asked_heatmap_fields(dataset, &known, &args.fields)?;
    match &args.run {
        None if asked.is_empty() => Ok(known),
        None => Ok(asked),
        Some(key) => {
            let runs = stored_runs(dataset)?;
            check_runs(dataset, &runs, [key])?;
            let written: Vec<&String> = runs.iter().filter(|run| run.key == *key).flat_map(|run| &run.fields).collect();
            // Somebody may have deleted one since.
            Ok(known.into_iter().filter(|field| written.contains(&field)).collect())
        }
    }
}

/// The fields that the view shows, with a word about those that it does not.
fn shown_fields(args: &Args, fields: Vec<String>, shown: Vec<String>) -> Result<Vec<String>, Diagnostic> {
    let hidden: Vec<&str> = fields.iter().filter(|field| !shown.contains(field)).map(String::as_str).collect();
    if hidden.is_empty() {
        return Ok(shown);
    }
    let (view, hidden) = (args.view.as_deref().unwrap_or_default(), backticked(hidden));
    if shown.is_empty() || !args.fields.is_empty() {
        return Err(Diagnostic::invalid(format!("the saved view `{view}` hides {hidden}"))
            .hint("keep the heatmaps in the view, or list its samples in a file for `--ids`"));
    }
    print(&format!("note: the saved view `{view}` hides {hidden}: left out"));
    Ok(shown)
}

/// The selection in words.
fn selected(args: &Args) -> Option<String> {
    let tags = (!args.tags.is_empty()).then(|| format!("tagged {}", args.tags.join(" or ")));
    let matching = args.matching.as_ref().map(|query| format!("matching {query}"));
    let view = args.view.as_ref().map(|view| format!("of the view {view}"));
    let ids = args.ids.as_ref().map(|path| format!("listed in {}", shown(path)));
    let parts: Vec<String> = tags.into_iter().chain(matching).chain(view).chain(ids).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
