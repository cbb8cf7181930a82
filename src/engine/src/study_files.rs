//! What the measures of heatmaps say, as files: a page, numbers, a table.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::Value;

use super::{
    aborted,
    written::{write_table, write_text},
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{ChosenSamples, Dataset, MeasuredSource, StoredRun, save_chosen, stored_runs, view_name};
use camflow_media::{read_text, shown};
use camflow_names::counted;
use camflow_pipeline::Cancellation;
use camflow_study::{Baseline, CSV_HEADER, Finding, Heading, Study, csv_rows, findings, json, page};

/// The files of a report.
pub struct StudyFiles<'a> {
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
    /// Where FiftyOne's App is, for links to samples.
    pub app: &'a str,
    /// Whether the samples of each finding are saved as a view of the dataset.
    pub saves_views: bool,
}

/// Where FiftyOne serves its App, unless it is told another place.
pub const APP: &str = "http://localhost:5151";

/// How many of the worst and of the best samples a page shows.
pub const NUM_WORST: usize = 6;

/// What the measures say.
pub struct Studied {
    /// The numbers.
    pub study: Study,
    /// What stands out.
    pub findings: Vec<Finding>,
    /// Names of views that were not saved, as somebody else has one of that name.
    pub unsaved: Vec<String>,
}

impl StudyFiles<'_> {
    /// Reads heatmaps and writes the files, unless there is none; what was found. Less was read if it was cancelled.
    ///
    /// # Errors
    /// The database is lost, or a file cannot be written.
    pub fn write(
        &self,
        dataset: &Dataset,
        source: &mut MeasuredSource,
        cancellation: &Cancellation,
    ) -> Result<Studied, Diagnostic> {
        let mut study = Study::new(self.num_worst);
        match self.csv {
            None => observe(source, &mut study, cancellation, None)?,
            Some(path) => {
                write_table(path, CSV_HEADER, cancellation, |table| observe(source, &mut study, cancellation, Some(table)))?
            }
        }
        if !cancellation.is_cancelled() {
            study.find_slices();
        }
        let findings = findings(&study, self.baseline);
        if cancellation.is_cancelled() || study.num_samples == 0 {
            return Ok(Studied { study, findings, unsaved: Vec::new() });
        }
        let created = format!("{:.0}", jiff::Timestamp::now());
        let runs = runs(dataset, &study)?;
        let views = if self.saves_views { save_chosen(dataset, &chosen(&findings))? } else { Vec::new() };
        let heading = Heading {
            dataset: dataset.name(),
            created: &created,
            selection: self.selection.as_deref(),
            runs: &runs,
            app: self.app.trim_end_matches('/'),
            views: &views,
        };
        write_text(self.page, &page(&study, &findings, self.baseline, heading))?;
        if let Some(path) = self.json {
            let report = json(&study, &findings, dataset.name(), &created);
            write_text(path, &format!("{report:#}\n"))?;
        }
        let is_unsaved = |(finding, view): (&Finding, &Option<String>)| view.is_none() && !finding.examples.is_empty();
        let unsaved = (1..).zip(findings.iter().zip(&views)).filter(|(_, pair)| is_unsaved(*pair)).map(|(number, _)| number);
        let unsaved = unsaved.map(view_name).collect();
        Ok(Studied { study, findings, unsaved })
    }
}

/// The samples that findings are shown by.
fn chosen(findings: &[Finding]) -> Vec<ChosenSamples<'_>> {
    let ids = |finding: &'_ Finding| finding.examples.iter().map(|example| example.sample.clone()).collect();
    findings.iter().map(|finding| ChosenSamples { text: &finding.text, ids: ids(finding) }).collect()
}

/// What came of the runs that made these heatmaps, when they last changed something.
fn runs(dataset: &Dataset, study: &Study) -> Result<Vec<(String, String)>, Diagnostic> {
    let is_of = |run: &StoredRun| study.series.keys().any(|series| run.fields.contains(&series.field));
    let text = |run: StoredRun| {
        let counts = run.config.get("counts");
        let count = |key: &str| counts.and_then(|counts| counts.get(key)).and_then(Value::as_u64).unwrap_or(0);
        let annotated = counted(count("num_committed"), "sample", "samples");
        let text =
            format!("{}: {annotated} annotated, {} skipped, {} failed", run.timestamp, count("num_skipped"), count("num_failed"));
        (run.key, text)
    };
    Ok(stored_runs(dataset)?.into_iter().filter(is_of).map(text).collect())
}

/// The numbers of an earlier report.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read_baseline(path: &Path) -> Result<Baseline, Diagnostic> {
    const HINT: &str = "`--baseline` takes what `camflow report --json` wrote";
    let unreadable = |error: io::Error| {
        Diagnostic::invalid(format!("cannot read the earlier report `{}`", shown(path))).because(&error).hint(HINT)
    };
    let text = read_text(path).map_err(unreadable)?;
    Baseline::parse(&text)
        .map_err(|reason| Diagnostic::invalid(format!("`{}` is not an earlier report: {reason}", shown(path))).hint(HINT))
}

/// What to say of an earlier report of another dataset: a clone may be compared with what it was made from, or one that was renamed.
pub fn baseline_notice(baseline: &Baseline, dataset: &str) -> Option<String> {
    let other = baseline.dataset();
    (other != dataset).then(|| {
        format!(
            "the earlier report of {} is of dataset `{other}`, not of `{dataset}`: what differs is no change",
            baseline.created()
        )
    })
}

/// Reads all of the source into the study, and to the table a line for each heatmap.
fn observe(
    source: &mut MeasuredSource,
    study: &mut Study,
    cancellation: &Cancellation,
    mut table: Option<&mut dyn Write>,
) -> Result<(), Diagnostic> {
    while !cancellation.is_cancelled() {
        let samples = source.next_page().map_err(aborted)?;
        if samples.is_empty() {
            break;
        }
        for sample in &samples {
            study.observe(sample);
            if let Some(table) = &mut table {
                table
                    .write_all(csv_rows(sample).as_bytes())
                    .map_err(|error| Diagnostic::aborted("the table cannot be written").because(&error))?;
            }
        }
    }
    Ok(())
}
