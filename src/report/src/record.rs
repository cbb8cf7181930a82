//! The report file: all that is to be known of a run when it is over, however it ended.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{lines::failure_json, secrets::redact_json, summary};
use camflow_pipeline::{SampleFailure, Summary};

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What the process would end with.
    pub exit_code: u8,
    /// The same as a word.
    pub name: &'static str,
}

/// A run from its arguments to its end.
pub struct RunRecord {
    /// The job's name.
    pub job: String,
    /// The dataset's name.
    pub dataset: String,
    /// Every setting, defaults too, by the flag's name; without secrets.
    pub config: Map<String, Value>,
    /// The fields that its heatmaps go to; none before they are known.
    pub fields: Vec<String>,
    /// When it began.
    pub started: Timestamp,
    /// What it came to, if it came to run at all.
    pub summary: Option<Summary>,
    /// Why it was given up.
    pub error: Option<String>,
}

impl RunRecord {
    /// The record of a job that begins now.
    pub fn begin(job: String, dataset: String, config: Map<String, Value>) -> Self {
        RunRecord { job, dataset, config, fields: Vec::new(), started: Timestamp::now(), summary: None, error: None }
    }

    /// From the first moment to now, in seconds.
    pub fn elapsed(&self) -> f64 {
        Timestamp::now().duration_since(self.started).as_secs_f64().max(0.0)
    }

    /// How many samples came to what; null if it did not come to run.
    pub fn counts(&self) -> Value {
        self.summary.as_ref().map_or(Value::Null, summary::counts)
    }

    /// What a worker says of a shard when it is done with it.
    pub fn answer(&self, shard: &str, ending: Ending) -> Value {
        redact_json(json!({
            "event": "shard_finished",
            "shard": shard,
            "exit": ending.name,
            "exit_code": ending.exit_code,
            "error": self.error,
            "counts": self.counts(),
            "elapsed_s": self.elapsed(),
            "stages": self.summary.as_ref().map(summary::stages),
            "failures": self.failures(),
        }))
    }

    /// The first failed samples, the new ones before those that are known.
    fn failures(&self) -> Vec<Value> {
        let listed = |failures: &[SampleFailure], is_known| -> Vec<Value> {
            failures.iter().map(|failure| failure_json(failure, is_known)).collect()
        };
        let of = |summary: &Summary| [listed(&summary.failures, false), listed(&summary.known_failures, true)].concat();
        self.summary.as_ref().map(of).unwrap_or_default()
    }

    /// The content of the report file, given what it held before: the last run that changed something stays in it.
    pub fn json(&self, ending: Ending, before: &str) -> String {
        let summary = self.summary.as_ref();
        let last_work = if has_worked(&self.counts()) { None } else { self.last_work(before) };
        let report = json!({
            "camflow": env!("CARGO_PKG_VERSION"),
            "job": self.job,
            "dataset": self.dataset,
            "host": super::lines::host(),
            "started": format!("{:.3}", self.started),
            "finished": super::lines::now(),
            "elapsed_s": self.elapsed(),
            "exit": ending.name,
            "exit_code": ending.exit_code,
            "error": self.error,
            "config": self.config,
            "fields": self.fields,
            "counts": self.counts(),
            "stages": summary.map(summary::stages),
            "failures": self.failures(),
            "last_work": last_work,
        });
        format!("{:#}\n", redact_json(report))
    }

    /// Whether a file that begins so is one of these, or empty, and may be written over. One that was cut off in the middle is.
    pub fn is_report(beginning: &str) -> bool {
        let text = beginning.trim_start();
        text.is_empty() || text.strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with("\"camflow\":"))
    }

    /// The report of the job's last run that changed something, as the file says.
    fn last_work(&self, before: &str) -> Option<Value> {
        let Ok(Value::Object(mut before)) = serde_json::from_str(before) else { return None };
        let older = before.remove("last_work");
        let is_ours = before.get("job").is_some_and(|job| *job == self.job)
            && before.get("dataset").is_some_and(|dataset| *dataset == self.dataset);
        match before.get("counts").is_some_and(has_worked) {
            _ if !is_ours => None,
            true => Some(Value::Object(before)),
            false => older.filter(Value::is_object),
        }
    }
}

/// Whether samples were changed.
fn has_worked(counts: &Value) -> bool {
    counts["num_committed"].as_u64().is_some_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_that_changed_something_stays_in_the_report() {
        let done = Ending { exit_code: 0, name: "done" };
        let record = |job: &str, num_committed: Option<u64>| {
            let summary = num_committed.map(|num_committed| Summary { num_committed, ..Summary::default() });
            RunRecord { summary, ..RunRecord::begin(job.into(), "d".into(), Map::new()) }
        };
        let report = |record: RunRecord, before: &str| {
            let text = record.json(done, before);
            let committed = |report: &Value| report["counts"]["num_committed"].as_u64();
            let value: Value = serde_json::from_str(&text).expect("a report");
            (text, committed(&value), committed(&value["last_work"]), value["last_work"]["last_work"].clone())
        };
        let (first, ..) = report(record("a", Some(3)), "");
        let (idle, committed, last, nested) = report(record("a", Some(0)), &first);
        assert_eq!((committed, last, nested), (Some(0), Some(3), Value::Null));
        // Nor do nights take it away that do not begin, or those after them.
        let (unbegun, committed, last, _) = report(record("a", None), &idle);
        assert_eq!((committed, last), (None, Some(3)));
        let (_, committed, last, _) = report(record("a", Some(0)), &unbegun);
        assert_eq!((committed, last), (Some(0), Some(3)));
        let (_, committed, last, _) = report(record("a", Some(2)), &unbegun);
        assert_eq!((committed, last), (Some(2), None));
        for (job, before) in [("b", &*first), ("a", "no JSON"), ("a", "[]"), ("a", "{\"last_work\": {}}")] {
            assert_eq!(report(record(job, Some(0)), before).2, None, "{before}");
        }
        // What a report is written over, and what it is not.
        assert!(["", "\n", &first, &unbegun[..40]].into_iter().all(RunRecord::is_report));
        assert!(!["no JSON", "[]", "{\"job\": 1}"].into_iter().any(RunRecord::is_report));
    }
}
