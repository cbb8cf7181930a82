//! `html-file`: the page of `camflow report` at the end of a run, beside an earlier one.

use std::path::PathBuf;

use super::{
    JobSpec, Observer, aborted,
    study_files::{APP, NUM_WORST, Studied, StudyFiles, baseline_notice, read_baseline},
    written::{check_would_be_written, check_written},
};
use camflow_diagnostic::Diagnostic;
use camflow_fiftyone::{Dataset, MeasuredSource, Selection, Shard};
use camflow_media::shown;
use camflow_pipeline::{Cancellation, HeatmapFields};
use camflow_study::Baseline;

/// What is to be written when the run is over.
pub(crate) struct Page {
    html: PathBuf,
    numbers: Option<PathBuf>,
    baseline: Option<Baseline>,
}

impl Page {
    /// Reads what it compares with, and checks that it can be written, before hours of work.
    pub(crate) fn check(spec: &JobSpec, shard: Shard, observer: &dyn Observer) -> Result<Option<Self>, Diagnostic> {
        let [Some(html), numbers, baseline] = spec.page_files() else { return Ok(None) };
        if !shard.is_whole() {
            let html = shown(&html);
            observer.notice(&format!(
                "no shard writes the page `{html}`, as none has all heatmaps: `camflow report` does when all shards are done"
            ));
            return Ok(None);
        }
        let baseline = match baseline {
            // A job that is compared with its own last run has none at first.
            Some(path) if Some(&path) == numbers.as_ref() && !path.exists() => {
                observer.notice(&format!("there is no earlier report `{}` yet; this run writes it", shown(&path)));
                None
            }
            path => {
                let is_own = path == numbers;
                let own = |error: Diagnostic| error.hint("delete it, and this job writes a new one; its next run compares again");
                path.as_deref().map(read_baseline).transpose().map_err(|error| if is_own { own(error) } else { error })?
            }
        };
        baseline
            .iter()
            .filter_map(|baseline| baseline_notice(baseline, &spec.dataset))
            .for_each(|notice| observer.notice(&notice));
        let check = if spec.is_dry() { check_would_be_written } else { check_written };
        check("--html-file", &html)?;
        numbers.as_deref().map_or(Ok(()), |path| check("--numbers-file", path))?;
        Ok(Some(Page { html, numbers, baseline }))
    }

    /// Writes it about all heatmaps in the job's fields, whichever run made them.
    pub(crate) fn write(
        &self,
        dataset: &Dataset,
        fields: &HeatmapFields,
        cancellation: &Cancellation,
        observer: &dyn Observer,
    ) -> Result<(), Diagnostic> {
        let fields: Vec<String> = fields.names().map(ToOwned::to_owned).collect();
        let mut source = MeasuredSource::new(dataset, fields, &Selection::default()).map_err(aborted)?;
        let files = StudyFiles {
            page: &self.html,
            json: self.numbers.as_deref(),
            csv: None,
            num_worst: NUM_WORST,
            baseline: self.baseline.as_ref(),
            selection: None,
            app: APP,
            saves_views: false,
        };
        let Studied { study, findings, .. } = files.write(dataset, &mut source, cancellation).map_err(aborted)?;
        let page = shown(&self.html);
        if study.num_samples == 0 {
            observer.notice(&format!("no page `{page}` was written: no sample has heatmaps in the job's fields"));
        } else if !cancellation.is_cancelled() {
            observer.step(&format!(
                "page `{page}`: {} heatmaps of {} samples, {} findings",
                study.num_heatmaps(),
                study.num_samples,
                findings.len()
            ));
        }
        Ok(())
    }
}
