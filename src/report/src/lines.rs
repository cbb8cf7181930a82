//! The lines of `--format json`: one object each, with `time`, `level` and `event` first and names that stay. `docs/operations.md`
//! lists them.

use std::{fmt, path::PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use camflow_names::shown;
use camflow_pipeline::{Event, Forecast, Outlook, SampleFailure, SkipReason};

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
    #[serde(flatten)]
    origin: &'a Origin,
    #[serde(flatten)]
    fields: Value,
}

/// Whose lines they are: logs and mails of several jobs, datasets and hosts come together somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    /// The job, if it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The dataset, if a job is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// This machine.
    pub host: String,
}

impl Origin {
    /// Of what belongs to no job.
    pub(crate) fn here() -> Self {
        Origin { host: host(), ..Origin::default() }
    }
}

/// The same in words.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [("job", &self.job), ("dataset", &self.dataset)];
        for (what, name) in named.iter().filter_map(|(what, name)| Some((what, name.as_deref()?))) {
            write!(f, "{what} `{}`, ", shown(name))?;
        }
        write!(f, "host `{}`", shown(&self.host))
    }
}

/// The name of this machine.
pub(crate) fn host() -> String {
    sysinfo::System::host_name().unwrap_or_else(|| "unknown".to_owned())
}

/// This moment in UTC, to the millisecond: `2026-03-01T02:15:00.042Z`.
pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// One line, without its end.
pub(crate) fn line(level: Level, event: &str, origin: &Origin, fields: Value) -> String {
    let line = Line { time: now(), level, event, origin, fields };
    serde_json::to_string(&line)
        .unwrap_or_else(|error| json!({"level": "error", "event": event, "message": error.to_string()}).to_string())
}

/// A failed sample, for lines and for the report.
pub(crate) fn failure_json(failure: &SampleFailure, is_known: bool) -> Value {
    json!({
        "sample": failure.sample.id, "media_path": failure.sample.media_path.to_string_lossy(),
        "stage": failure.stage.to_string(), "error": failure.error, "known": is_known,
    })
}

/// What is free on the disk of a folder.
fn free_json(free: Option<&(u64, PathBuf)>) -> Option<Value> {
    free.map(|(free, folder)| json!({"bytes": free, "folder": folder.to_string_lossy()}))
}

/// Level, name and fields of what happens in a run. Samples that are up to date have no lines: every night, they are the most.
pub(crate) fn event_json(event: &Event) -> Option<(Level, &'static str, Value)> {
    Some(match event {
        Event::RunStarted(Outlook { fields, num_samples, num_heatmaps, num_bytes, free }) => {
            let told = json!({
                "fields": fields, "num_samples": num_samples, "num_heatmaps": num_heatmaps, "num_bytes": num_bytes,
                "free": free_json(free.as_ref()),
            });
            (Level::Info, "run_started", told)
        }
        Event::Forecast(Forecast { num_samples, num_heatmaps, num_bytes, time, free }) => {
            let told = json!({
                "num_samples": num_samples, "num_heatmaps": num_heatmaps, "num_bytes": num_bytes,
                "seconds": time.as_secs_f64(), "free": free_json(free.as_ref()),
            });
            (Level::Info, "forecast", told)
        }
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
        Event::SampleFailed { failure, is_known } => (Level::Warn, "sample_failed", failure_json(failure, *is_known)),
        Event::Draining => (Level::Info, "draining", json!({})),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_time_level_and_event() {
        let origin = Origin { job: Some("a".into()), dataset: Some("d".into()), host: "h".into() };
        let text = line(Level::Warn, "warning", &origin, json!({"message": "two\nlines", "count": 1}));
        let start = format!("{{\"time\":\"{}", &now()[..14]);
        assert!(text.starts_with(&start) && !text.contains('\n'), "{text}");
        assert!(text.contains(r#"Z","level":"warn","event":"warning","job":"a","dataset":"d","host":"h",""#), "{text}");
        let object: Value = serde_json::from_str(&text).expect("an object");
        assert_eq!((&object["message"], &object["count"]), (&json!("two\nlines"), &json!(1)));
        assert_eq!(origin.to_string(), "job `a`, dataset `d`, host `h`");
        assert_eq!(Origin { host: "h".into(), ..Origin::default() }.to_string(), "host `h`");
    }
}
