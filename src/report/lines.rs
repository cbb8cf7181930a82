//! The lines of `--format json`: one object each, with `time`, `level` and `event` first and names that stay. `docs/operations.md`
//! lists them.

use serde::Serialize;
use serde_json::{Value, json};

use crate::pipeline::{Event, SampleFailure, SkipReason};

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is as it should be.
    Info,
    /// Something is not, but the run goes on.
    Warn,
    /// The job is given up.
    Error,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: Level,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(flatten)]
    fields: Value,
}

/// This moment in UTC, to the millisecond: `2026-03-01T02:15:00.042Z`.
pub fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// One line, without its end.
pub fn line(level: Level, event: &str, job: Option<&str>, fields: Value) -> String {
    let line = Line { time: now(), level, event, job, fields };
    serde_json::to_string(&line)
        .unwrap_or_else(|error| json!({"level": "error", "event": event, "message": error.to_string()}).to_string())
}

/// A failed sample, for lines and for the report.
pub fn failure_json(failure: &SampleFailure) -> Value {
    json!({
        "sample": failure.sample.id, "media_path": failure.sample.media_path.to_string_lossy(),
        "stage": failure.stage.to_string(), "error": failure.error,
    })
}

/// Level, name and fields of what happens in a run. Samples that are up to date have no lines: every night, they are the most.
pub fn event_json(event: &Event) -> Option<(Level, &'static str, Value)> {
    Some(match event {
        Event::RunStarted { num_samples } => (Level::Info, "run_started", json!({"num_samples": num_samples})),
        Event::SampleCommitted { sample, num_heatmaps, num_withdrawn } => {
            let told = json!({"sample": sample.id, "num_heatmaps": num_heatmaps, "num_withdrawn": num_withdrawn});
            (Level::Info, "sample_committed", told)
        }
        Event::SampleStale { sample, changes } => {
            let reasons: Vec<String> = changes.iter().map(ToString::to_string).collect();
            let path = sample.media_path.to_string_lossy();
            (Level::Info, "sample_stale", json!({"sample": sample.id, "media_path": path, "reasons": reasons}))
        }
        Event::SampleMoved { sample } => {
            let path = sample.media_path.to_string_lossy();
            (Level::Warn, "sample_moved", json!({"sample": sample.id, "media_path": path}))
        }
        Event::SampleSkipped(skip) if skip.reason == SkipReason::UpToDate => return None,
        Event::SampleSkipped(skip) => {
            (Level::Info, "sample_skipped", json!({"sample": skip.sample.id, "reason": skip.reason.to_string()}))
        }
        Event::SampleFailed(failure) => (Level::Warn, "sample_failed", failure_json(failure)),
        Event::Draining => (Level::Info, "draining", json!({})),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_time_level_and_event() {
        let text = line(Level::Warn, "warning", Some("a"), json!({"message": "two\nlines", "count": 1}));
        let start = format!("{{\"time\":\"{}", &now()[..14]);
        assert!(text.starts_with(&start) && !text.contains('\n'), "{text}");
        assert!(text.contains(r#"Z","level":"warn","event":"warning","job":"a",""#), "{text}");
        let object: Value = serde_json::from_str(&text).expect("an object");
        assert_eq!((&object["message"], &object["count"]), (&json!("two\nlines"), &json!(1)));
    }
}
