//! Metrics in Prometheus' text format, for the textfile collector of node_exporter.
//!
//! The collector reads whatever the file holds at the moment; nothing of camflow runs then. So counters go on from the values that
//! the file holds already, and so does the time of the last success.

use std::fmt::Write;

use jiff::Timestamp;

use super::{
    record::{Ending, RunRecord},
    secrets::redact_whole,
};

/// The content of the metrics file after a run, given what it held before it.
pub fn metrics(record: &RunRecord, ending: Ending, before: &str) -> String {
    let summary = record.summary.clone().unwrap_or_default();
    // Prometheus itself calls the scrape's job `job`, and would rename ours.
    let labels = format!("dataset=\"{}\",job_name=\"{}\"", escaped(&record.dataset), escaped(&record.job));
    let by_outcome = [
        ("annotated", summary.num_committed),
        ("skipped", summary.num_skipped()),
        ("failed", summary.num_failed),
        ("abandoned", summary.num_abandoned),
    ];
    let by_reason: Vec<(String, u64)> = summary.skipped.iter().map(|(reason, count)| (reason.to_string(), *count)).collect();
    let mut text = Exposition { text: String::new(), labels, before };
    let now = Timestamp::now().as_second() as f64;
    // Failed samples are not a failed run: one image that is broken for good must not hide that all others are taken care of.
    let succeeded = ending.exit_code <= 1;

    text.family("camflow_samples_total", "counter", "Samples that ended so, over all runs.");
    for (outcome, count) in by_outcome {
        text.count("camflow_samples_total", &format!("outcome=\"{outcome}\""), count);
    }
    text.family("camflow_heatmaps_total", "counter", "Heatmaps stored, over all runs.");
    text.count("camflow_heatmaps_total", "", summary.num_heatmaps);
    text.family("camflow_runs_total", "counter", "Runs that ended so.");
    text.keep_others("camflow_runs_total", &format!("exit=\"{}\"", ending.name));
    text.count("camflow_runs_total", &format!("exit=\"{}\"", ending.name), 1);
    text.family("camflow_last_run_samples", "gauge", "Samples of the last run that ended so.");
    for (outcome, count) in by_outcome {
        text.gauge("camflow_last_run_samples", &format!("outcome=\"{outcome}\""), count as f64);
    }
    if !by_reason.is_empty() {
        text.family("camflow_last_run_skipped_samples", "gauge", "Samples that the last run skipped, by reason.");
        for (reason, count) in by_reason {
            text.gauge("camflow_last_run_skipped_samples", &format!("reason=\"{}\"", escaped(&reason)), count as f64);
        }
    }
    text.family("camflow_last_run_known_failed_samples", "gauge", "Failed samples of the last run that failed so before.");
    text.gauge("camflow_last_run_known_failed_samples", "", summary.num_known_failed as f64);
    text.family("camflow_last_run_duration_seconds", "gauge", "How long the last run took.");
    text.gauge("camflow_last_run_duration_seconds", "", record.elapsed());
    text.family("camflow_last_run_timestamp_seconds", "gauge", "When the last run ended.");
    text.gauge("camflow_last_run_timestamp_seconds", "", now);
    text.family("camflow_last_run_exit_code", "gauge", "Exit code of the last run.");
    text.gauge("camflow_last_run_exit_code", "", f64::from(ending.exit_code));
    let success = "camflow_last_success_timestamp_seconds";
    let last_success = if succeeded { Some(now) } else { text.value_before(success, "") };
    if let Some(last_success) = last_success {
        text.family(success, "gauge", "When a run last came to its end, with exit code 0 or 1.");
        text.gauge(success, "", last_success);
    }
    text.text
}

/// Whether a file that begins so holds such metrics, or nothing, and may be written over. One that was cut off in the middle does.
pub fn is_metrics(beginning: &str) -> bool {
    beginning.is_empty() || beginning.starts_with("# HELP camflow_")
}

struct Exposition<'a> {
    text: String,
    labels: String,
    before: &'a str,
}

impl Exposition<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn series(&self, name: &str, more: &str) -> String {
        let comma = if more.is_empty() { "" } else { "," };
        format!("{name}{{{}{comma}{more}}}", self.labels)
    }

    fn gauge(&mut self, name: &str, more: &str, value: f64) {
        let _ = writeln!(self.text, "{} {value}", self.series(name, more));
    }

    fn count(&mut self, name: &str, more: &str, increase: u64) {
        self.gauge(name, more, self.value_before(name, more).unwrap_or(0.0) + increase as f64);
    }

    /// What a series held before; nothing where the file is not one of ours.
    fn value_before(&self, name: &str, more: &str) -> Option<f64> {
        let start = format!("{} ", self.series(name, more));
        self.before.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
    }

    /// The counters of a family that this run does not raise.
    fn keep_others(&mut self, name: &str, raised: &str) {
        let (start, raised) = (format!("{name}{{{},", self.labels), self.series(name, raised));
        for line in self.before.lines().filter(|line| line.starts_with(&start) && !line.starts_with(&raised)) {
            let _ = writeln!(self.text, "{line}");
        }
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    let value = redact_whole(value);
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_pipeline::{SkipReason, Summary};

    const DONE: Ending = Ending { exit_code: 0, name: "done" };
    const ABORTED: Ending = Ending { exit_code: 3, name: "aborted" };

    fn record(num_committed: u64) -> RunRecord {
        let skipped = [(SkipReason::UpToDate, 2)].into();
        let summary = Summary {
            num_read: num_committed + 2,
            num_committed,
            num_heatmaps: 4 * num_committed,
            skipped,
            ..Summary::default()
        };
        let begun = RunRecord::begin("nightly".into(), "a \"b\"\\\n".into(), serde_json::Map::new());
        RunRecord { summary: Some(summary), ..begun }
    }

    fn value(text: &str, start: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(start)?.split(' ').next_back()?.parse().ok())
    }

    #[test]
    fn counters_and_the_last_success_go_on_from_the_file() {
        let first = metrics(&record(3), DONE, "");
        let labels = r#"{dataset="a \"b\"\\\n",job_name="nightly""#;
        assert!(first.contains(&format!("\ncamflow_samples_total{labels},outcome=\"annotated\"}} 3\n")), "{first}");
        assert!(first.contains(&format!("\ncamflow_heatmaps_total{labels}}} 12\n")), "{first}");
        assert!(is_metrics(&first) && is_metrics("") && !is_metrics("# HELP node_load1 Load.\n"));
        let then = first.replace(&format!("{}", value(&first, "camflow_last_success").expect("it succeeded")), "1000");
        let second = metrics(&record(1), ABORTED, &then);
        assert!(second.contains(&format!("\ncamflow_samples_total{labels},outcome=\"annotated\"}} 4\n")), "{second}");
        assert!(second.contains(&format!("\ncamflow_last_run_samples{labels},outcome=\"annotated\"}} 1\n")), "{second}");
        assert_eq!(value(&second, "camflow_last_success"), Some(1000.0));
        assert_eq!(value(&second, "camflow_last_run_exit_code"), Some(3.0));
        let third = metrics(&record(0), ABORTED, &second);
        for (exit, count) in [("done", 1), ("aborted", 2)] {
            assert!(third.contains(&format!("\ncamflow_runs_total{labels},exit=\"{exit}\"}} {count}\n")), "{third}");
        }
        assert!(value(&metrics(&record(0), DONE, &third), "camflow_last_success") > Some(1000.0));
    }

    #[test]
    fn a_run_that_never_began_has_metrics_too() {
        let mut record = record(0);
        record.summary = None;
        let text = metrics(&record, Ending { exit_code: 2, name: "usage" }, "not ours\n");
        assert_eq!(value(&text, "camflow_last_run_exit_code"), Some(2.0));
        assert_eq!(value(&text, "camflow_last_success"), None);
        // Every sample line belongs to the family that was announced last, once.
        let mut family = "";
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => {
                    family = rest.split(' ').next().expect("a name");
                    assert!(seen.insert(family), "{family} twice");
                }
                None if line.starts_with("# HELP ") => {}
                None => assert!(line.starts_with(&format!("{family}{{")), "{line}"),
            }
        }
    }
}
