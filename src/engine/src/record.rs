//! `report-file` and `metrics-file`: what is left of a run for those who were not there.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    Exit, Job, JobSpec, Outcome,
    written::{check_would_be_written, check_written},
};
use camflow_diagnostic::{Class, Diagnose, Diagnostic};
use camflow_fiftyone::Shard;
use camflow_media::{Durability, MediaError, named_file, open_regular, shown, write_named};
use camflow_report::{RunRecord, error_text, is_metrics, metrics};

/// The files to write when the run is over. A dry run writes none: a job's last report must not be lost to a question.
struct RecordFiles {
    report: Option<PathBuf>,
    metrics: Option<PathBuf>,
}

impl RecordFiles {
    /// Checks that they can be written, before hours of work.
    fn check(spec: &JobSpec, shard: Shard) -> Result<Self, Diagnostic> {
        // The report of the refusal would be written over what is refused.
        if let Some(shared) = spec.shared_files().into_iter().next() {
            return Err(Diagnostic::invalid(shared));
        }
        let files = RecordFiles { report: spec.report_file(shard), metrics: spec.metrics_file(shard) };
        let check = if spec.is_dry() { check_would_be_written } else { check_written };
        if let Some(path) = &files.report {
            check("--report-file", path)?;
            check_ours("--report-file", path, "report", RunRecord::is_report)?;
        }
        if let Some(path) = &files.metrics {
            check("--metrics-file", path)?;
            check_ours("--metrics-file", path, "metrics", is_metrics)?;
        }
        Ok(if spec.is_dry() { RecordFiles { report: None, metrics: None } } else { files })
    }

    /// Writes them, each in one step.
    fn write(&self, record: &RunRecord, exit: Exit) -> Result<(), Diagnostic> {
        if let Some(path) = &self.report {
            let text = record.json(exit.ending(), &held(path));
            write_named(path, Durability::Machine, |file| file.write_all(text.as_bytes()))
                .map_err(|error| unwritten("the run has no report", &error))?;
        }
        if let Some(path) = &self.metrics {
            let text = metrics(record, exit.ending(), &held(path));
            write_named(path, Durability::Machine, |file| file.write_all(text.as_bytes()))
                .map_err(|error| unwritten("the run has no metrics", &error))?;
        }
        Ok(())
    }
}

/// Refuses to replace a file that holds something else than what camflow writes there.
fn check_ours(flag: &str, path: &Path, what: &str, is_ours: fn(&str) -> bool) -> Result<(), Diagnostic> {
    const BEGINNING: u64 = 256;
    let mut beginning = Vec::new();
    // What is there and cannot be read, though it can be written, is left to whoever arranged it so.
    if let Ok(file) = named_file(path)
        && let Ok(Ok((file, _))) = open_regular(&file)
        && file.take(BEGINNING).read_to_end(&mut beginning).is_ok()
        && !is_ours(&String::from_utf8_lossy(&beginning))
    {
        let told = format!("`{}` holds something else than the {what} of a run, which would replace it", shown(path));
        return Err(Diagnostic::invalid(told).hint(format!("choose another `{flag}`, or remove the file")));
    }
    Ok(())
}

fn unwritten(what: &str, error: &MediaError) -> Diagnostic {
    error.diagnose().context(what).of_class(Class::Aborted)
}

/// Does something with a job of which report and metrics are written, however it ends.
pub(crate) fn recorded(
    job: &Job,
    settings: Map<String, Value>,
    shard: Shard,
    run: impl FnOnce(&mut RunRecord) -> Result<Outcome, Diagnostic>,
) -> (Result<Outcome, Diagnostic>, RunRecord) {
    let mut record = RunRecord::begin(job.spec.job_name().to_owned(), job.spec.dataset.clone(), settings);
    let files = match RecordFiles::check(&job.spec, shard) {
        Ok(files) => files,
        Err(error) => {
            record.error = Some(error_text(&error));
            return (Err(error), record);
        }
    };
    let mut result = run(&mut record);
    record.error = result.as_ref().err().map(error_text);
    if let Err(error) = files.write(&record, Exit::of(&result)) {
        record.error.get_or_insert_with(|| error_text(&error));
        result = Err(match result {
            Err(first) if matches!(first.class, Class::Invalid | Class::Locked) => first.of_class(Class::Aborted).and(error),
            Err(first) => first.and(error),
            Ok(Outcome { exit: Exit::Interrupted, .. }) => error.of_class(Class::Interrupted),
            Ok(_) => error,
        });
    }
    (result, record)
}

/// What a file holds; nothing if it is none. A pipe would be waited for, and what is very long is a log, through `/dev/stdout`.
fn held(path: &Path) -> String {
    const LONG: u64 = 16 << 20;
    let mut text = String::new();
    if let Ok(Ok((mut file, size))) = open_regular(path)
        && size <= LONG
    {
        let _ = file.read_to_string(&mut text);
    }
    text
}
