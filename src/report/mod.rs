//! What the user sees of a run: a progress bar on a terminal, plain lines in a log, one JSON object a line for machines, and a
//! summary in all of them. The only place that prints while a run goes on; words go to standard error, JSON to standard output.

mod progress;
mod summary;
mod survey;

use std::{
    io::{self, IsTerminal, Write},
    sync::Mutex,
};

use serde_json::{Value, json};

use crate::{
    names::Choice,
    pipeline::{Event, RunError, Summary, Survey},
};
use progress::Progress;
use survey::listed;

/// How a run reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Words.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

impl Choice for Format {
    const ALL: &'static [Self] = &[Format::Human, Format::Json];

    fn name(self) -> &'static str {
        match self {
            Format::Human => "human",
            Format::Json => "json",
        }
    }
}

/// Tells the user about a run.
pub struct Reporter {
    format: Format,
    progress: Mutex<Option<Progress>>,
}

impl Reporter {
    /// A reporter of that form.
    pub fn new(format: Format) -> Self {
        Reporter { format, progress: Mutex::new(None) }
    }

    /// Something worth knowing before the run, or instead of it.
    pub fn notice(&self, text: &str) {
        match self.format {
            Format::Human => self.line(&format!("note: {text}")),
            Format::Json => self.json(&json!({"event": "notice", "message": text})),
        }
    }

    /// A step of the preparation that takes a moment.
    pub fn step(&self, text: &str) {
        match self.format {
            Format::Human => self.line(text),
            Format::Json => self.json(&json!({"event": "step", "message": text})),
        }
    }

    /// What happens in the run.
    pub fn tell(&self, event: Event) {
        match self.format {
            Format::Human => self.tell_human(event),
            Format::Json => self.json(&event_json(&event)),
        }
    }

    fn tell_human(&self, event: Event) {
        let mut progress = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::RunStarted { num_samples } => *progress = Some(Progress::new(num_samples, io::stderr().is_terminal())),
            Event::SampleFailed(failure) => {
                let text = format!("failed: {}: {} ({} stage)", failure.sample, failure.error, failure.stage);
                match progress.as_mut() {
                    Some(progress) => {
                        progress.line(&text);
                        progress.failed();
                    }
                    None => stderr_line(&text),
                }
            }
            Event::SampleCommitted { .. } => progress.iter_mut().for_each(Progress::committed),
            Event::SampleStale { sample, changes } => {
                let text = format!("{}: {sample}", listed(&changes));
                match progress.as_ref() {
                    Some(progress) => progress.line(&text),
                    None => stderr_line(&text),
                }
            }
            Event::SampleSkipped(_) => progress.iter_mut().for_each(Progress::skipped),
            Event::Draining => {
                let text = "stopping: finishing what is in flight; press Ctrl-C again to stop at once";
                progress.iter().for_each(|progress| progress.line(text));
            }
        }
    }

    /// The end of a run.
    pub fn finish(&self, summary: &Summary, fault: Option<&RunError>) {
        if let Some(progress) = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            progress.clear();
        }
        match self.format {
            Format::Human => summary::lines(summary).iter().for_each(|line| stderr_line(line)),
            Format::Json => self.json(&summary::json(summary, fault)),
        }
    }

    /// The end of a survey.
    pub fn surveyed(&self, survey: &Survey, num_columns: usize) {
        match self.format {
            Format::Human => survey::lines(survey, num_columns).iter().for_each(|line| stderr_line(line)),
            Format::Json => self.json(&survey::json(survey, num_columns)),
        }
    }

    fn line(&self, text: &str) {
        match self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref() {
            Some(progress) => progress.line(text),
            None => stderr_line(text),
        }
    }

    fn json(&self, value: &Value) {
        // A reader that went away must not end the run.
        let _ = writeln!(io::stdout().lock(), "{value}");
    }
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::RunStarted { num_samples } => json!({"event": "run_started", "num_samples": num_samples}),
        Event::SampleCommitted { num_heatmaps, num_withdrawn } => {
            json!({"event": "sample_committed", "num_heatmaps": num_heatmaps, "num_withdrawn": num_withdrawn})
        }
        Event::SampleStale { sample, changes } => json!({
            "event": "sample_stale", "sample": sample.id, "media_path": sample.media_path.to_string_lossy(),
            "reasons": changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
        Event::SampleSkipped(skip) => {
            json!({"event": "sample_skipped", "sample": skip.sample.id, "reason": skip.reason.to_string()})
        }
        Event::SampleFailed(failure) => json!({
            "event": "sample_failed", "sample": failure.sample.id, "media_path": failure.sample.media_path.to_string_lossy(),
            "stage": failure.stage.to_string(), "error": failure.error,
        }),
        Event::Draining => json!({"event": "draining"}),
    }
}

fn stderr_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
