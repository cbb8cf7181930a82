//! `camflow report`: what the measures of a dataset's heatmaps say, as a page, as JSON and as CSV.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    Exit, Failure,
    dataset::{DatasetArgs, check_heatmap_fields, check_runs, chosen_ids, chosen_tags, listed_ids},
    print,
    signals::cancel_on_signals,
};
use crate::{
    diagnostic::{Class, Diagnose, Diagnostic},
    fiftyone::{Dataset, MeasuredSource, Selection},
    media::{Durability, MediaError, check_named, read_text, shown, write_named},
    names::{self, backticked, counted, flag},
    pipeline::Cancellation,
    study::{Baseline, CSV_HEADER, Finding, Heading, Study, csv_rows, findings, json, page},
};

/// Report where the model looks: distributions, extreme samples, what stands out
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
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
    #[arg(long, value_name = "N", default_value_t = NUM_WORST)]
    worst: usize,
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

/// The files of a report.
pub struct ReportFiles<'a> {
    /// The page.
    pub page: &'a Path,
    /// The numbers.
    pub json: Option<&'a Path>,
    /// A line for each heatmap.
    pub csv: Option<&'a Path>,
    /// How many of the worst and of the best samples to show.
    pub num_worst: usize,
    /// What to compare with.
    pub baseline: Option<&'a Baseline>,
    /// The selection in words.
    pub selection: Option<String>,
}

/// How many of the worst and of the best samples a page shows.
pub const NUM_WORST: usize = 6;

impl ReportFiles<'_> {
    /// Reads heatmaps and writes the files, unless there is none; what was found. Less was read if it was cancelled.
    pub fn write(
        &self,
        dataset: &Dataset,
        source: &mut MeasuredSource,
        cancellation: &Cancellation,
    ) -> Result<(Study, Vec<Finding>), Diagnostic> {
        let mut study = Study::new(self.num_worst);
        match self.csv {
            None => observe(source, &mut study, cancellation, None)?,
            Some(path) => observe_into(path, source, &mut study, cancellation)?,
        }
        let findings = findings(&study, self.baseline);
        if cancellation.is_cancelled() || study.num_samples == 0 {
            return Ok((study, findings));
        }
        let created = format!("{:.0}", jiff::Timestamp::now());
        let heading = Heading { dataset: dataset.name(), created: &created, selection: self.selection.as_deref() };
        write(self.page, &page(&study, &findings, self.baseline, heading))?;
        if let Some(path) = self.json {
            let report = json(&study, &findings, dataset.name(), &created);
            write(path, &format!("{report:#}\n"))?;
        }
        Ok((study, findings))
    }
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals().map_err(Failure::from)?;
    let baseline = args.baseline.as_deref().map(read_baseline).transpose()?;
    for (flag, path) in [("--out", Some(&args.out)), ("--json", args.json.as_ref()), ("--csv", args.csv.as_ref())] {
        if let Some(path) = path {
            check_written(flag, path)?;
        }
    }
    let (_connected, dataset) = args.dataset.open().map_err(Failure::from)?;
    let mut fields = fields(&dataset, args)?;
    let viewed = args.view.as_ref().map(|view| args.dataset.viewed(&dataset, view, &fields)).transpose();
    let viewed = viewed.map_err(Failure::from)?;
    let viewed = match viewed {
        Some((ids, shown)) => {
            fields = shown_fields(args, fields, shown)?;
            Some(ids)
        }
        None => None,
    };
    let ids = chosen_ids(viewed, args.ids.as_deref().map(listed_ids).transpose().map_err(Failure::from)?);
    let selection = Selection {
        tags: chosen_tags(&dataset, &args.tags).map_err(Failure::from)?,
        matching: args.matching.clone(),
        ids,
        ..Selection::default()
    };
    let mut source = dataset.measured(fields.clone(), &selection)?;
    let files = ReportFiles {
        page: &args.out,
        json: args.json.as_deref(),
        csv: args.csv.as_deref(),
        num_worst: args.worst,
        baseline: baseline.as_ref(),
        selection: selected(args),
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
        return Err(Diagnostic::invalid(problem).hint(hint));
    }

    for finding in &findings {
        print(&names::shown(&finding.text).to_string());
        if !finding.samples.is_empty() {
            print(&format!("  {}", finding.samples.join(" ")));
        }
    }
    let heatmaps = counted(study.num_heatmaps(), "heatmap", "heatmaps");
    let samples = counted(study.num_samples, "sample", "samples");
    print(&format!("{heatmaps} of {samples}: {}", shown(&args.out)));
    Ok(Exit::Done)
}

/// Refuses a file that cannot be written, before there is anything to write.
pub fn check_written(flag: &str, path: &Path) -> Result<(), Diagnostic> {
    check_named(path).map_err(|error| {
        Diagnostic::invalid(format!("cannot write to `{}`: {error}", shown(path))).hint(format!("choose another `{flag}`"))
    })
}

/// The numbers of an earlier report.
pub fn read_baseline(path: &Path) -> Result<Baseline, Diagnostic> {
    const HINT: &str = "`--baseline` takes what `camflow report --json` wrote";
    let unreadable = |error: io::Error| {
        Diagnostic::invalid(format!("cannot read the earlier report `{}`", shown(path))).because(&error).hint(HINT)
    };
    let text = read_text(path).map_err(unreadable)?;
    Baseline::parse(&text)
        .map_err(|reason| Diagnostic::invalid(format!("`{}` is not an earlier report: {reason}", shown(path))).hint(HINT))
}

/// The heatmap fields to read.
fn fields(dataset: &Dataset, args: &Args) -> Result<Vec<String>, Diagnostic> {
    let known = dataset.heatmap_fields();
    if known.is_empty() {
        let name = dataset.name();
        return Err(Diagnostic::invalid(format!("dataset `{name}` has no heatmaps"))
            .hint(format!("make them with `camflow annotate {}`", flag("--dataset", name))));
    }
    check_heatmap_fields(dataset, &args.fields).map_err(Failure::from)?;
    match &args.run {
        None if args.fields.is_empty() => Ok(known),
        None => Ok(args.fields.clone()),
        Some(key) => {
            let runs = dataset.runs()?;
            check_runs(dataset, &runs, [key]).map_err(Failure::from)?;
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

/// Reads all of the source into the study, and to the table a line for each heatmap.
fn observe(
    source: &mut MeasuredSource,
    study: &mut Study,
    cancellation: &Cancellation,
    mut table: Option<&mut dyn Write>,
) -> Result<(), Diagnostic> {
    while !cancellation.is_cancelled() {
        let samples = source.next_page()?;
        if samples.is_empty() {
            break;
        }
        for sample in &samples {
            study.observe(sample);
            table.iter_mut().try_for_each(|table| table.write_all(csv_rows(sample).as_bytes())).map_err(unwritable)?;
        }
    }
    Ok(())
}

/// The same into a file, which is there when it is complete.
fn observe_into(
    path: &Path,
    source: &mut MeasuredSource,
    study: &mut Study,
    cancellation: &Cancellation,
) -> Result<(), Diagnostic> {
    let mut fault = None;
    let written = write_named(path, Durability::Process, |file| {
        writeln!(file, "{CSV_HEADER}")?;
        observe(source, study, cancellation, Some(file)).map_err(|error| {
            fault = Some(error);
            io::Error::other("reading ended early")
        })?;
        if cancellation.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    match (fault, written) {
        (Some(fault), _) => Err(fault),
        (None, Err(_)) if cancellation.is_cancelled() => Ok(()),
        (None, written) => written.map_err(aborted),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Diagnostic> {
    write_named(path, Durability::Process, |file| file.write_all(text.as_bytes())).map_err(aborted)
}

fn aborted(error: MediaError) -> Diagnostic {
    error.diagnose().of_class(Class::Aborted)
}

fn unwritable(error: io::Error) -> Diagnostic {
    Diagnostic::aborted(format!("the table cannot be written: {error}"))
}
