//! The report file: all that is to be known of a run when it is over, however it ended.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{lines::failure_json, secrets::redact_json, summary};
use crate::pipeline::Summary;

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
        RunRecord { job, dataset, config, started: Timestamp::now(), summary: None, error: None }
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

    /// The first failed samples.
    fn failures(&self) -> Vec<Value> {
        self.summary.iter().flat_map(|summary| &summary.failures).map(failure_json).collect()
    }

    /// The content of the report file.
    pub fn json(&self, ending: Ending) -> String {
        let summary = self.summary.as_ref();
        let report = json!({
            "camflow": env!("CARGO_PKG_VERSION"),
            "job": self.job,
            "dataset": self.dataset,
            "started": format!("{:.3}", self.started),
            "finished": super::lines::now(),
            "elapsed_s": self.elapsed(),
            "exit": ending.name,
            "exit_code": ending.exit_code,
            "error": self.error,
            "config": self.config,
            "counts": self.counts(),
            "stages": summary.map(summary::stages),
            "failures": self.failures(),
        });
        format!("{:#}\n", redact_json(report))
    }
}
