//! `--html-file`: the page of `camflow report` at the end of a run, beside an earlier one.

use std::path::PathBuf;

use super::Args;
use crate::{
    cli::{
        Failure,
        report::{NUM_WORST, ReportFiles, check_written, read_baseline},
    },
    fiftyone::{Dataset, Selection, Shard},
    media::shown,
    pipeline::{Cancellation, HeatmapFields},
    report::Reporter,
    study::Baseline,
};

/// What is to be written when the run is over.
pub struct Page {
    html: PathBuf,
    numbers: Option<PathBuf>,
    baseline: Option<Baseline>,
}

impl Page {
    /// Reads what it compares with, and checks that it can be written, before hours of work.
    pub fn check(args: &Args, shard: Shard, reporter: &Reporter) -> anyhow::Result<Option<Self>> {
        let [Some(html), numbers, baseline] = args.page_files() else { return Ok(None) };
        if !shard.is_whole() {
            let html = shown(&html);
            reporter.notice(&format!(
                "no shard writes the page `{html}`, as none has all heatmaps: `camflow report` does when all shards are done"
            ));
            return Ok(None);
        }
        let baseline = match baseline {
            // A job that is compared with its own last run has none at first.
            Some(path) if Some(&path) == numbers.as_ref() && !path.exists() => {
                reporter.notice(&format!("there is no earlier report `{}` yet; this run writes it", shown(&path)));
                None
            }
            path => path.as_deref().map(read_baseline).transpose()?,
        };
        if !args.is_dry() {
            check_written("--html-file", &html)?;
            numbers.as_deref().map_or(Ok(()), |path| check_written("--numbers-file", path))?;
        }
        Ok(Some(Page { html, numbers, baseline }))
    }

    /// Writes it about all heatmaps in the job's fields, whichever run made them.
    pub fn write(
        &self,
        dataset: &Dataset,
        fields: &HeatmapFields,
        cancellation: &Cancellation,
        reporter: &Reporter,
    ) -> Result<(), Failure> {
        let fields: Vec<String> = fields.names().map(ToOwned::to_owned).collect();
        let mut source = dataset.measured(fields, &Selection::default()).map_err(Failure::aborted)?;
        let files = ReportFiles {
            page: &self.html,
            json: self.numbers.as_deref(),
            csv: None,
            num_worst: NUM_WORST,
            baseline: self.baseline.as_ref(),
            selection: None,
        };
        let (study, findings) = files.write(dataset, &mut source, cancellation).map_err(Failure::aborted)?;
        let page = shown(&self.html);
        if study.num_samples == 0 {
            reporter.notice(&format!("no page `{page}` was written: no sample has heatmaps in the job's fields"));
        } else if !cancellation.is_cancelled() {
            reporter.step(&format!(
                "page `{page}`: {} heatmaps of {} samples, {} findings",
                study.num_heatmaps(),
                study.num_samples,
                findings.len()
            ));
        }
        Ok(())
    }
}
