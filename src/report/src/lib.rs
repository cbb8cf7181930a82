//! What the user sees of a run: a progress bar on a terminal, plain lines in a log, one JSON object a line for machines, and a
//! summary in all of them; afterwards a report file and metrics. The only place that prints while a run goes on; words go to
//! standard error, JSON to standard output.

mod errors;
mod lines;
mod metrics;
mod progress;
mod record;
mod secrets;
mod summary;
mod survey;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

use camflow_diagnostic::Diagnostic;
use camflow_names::{Choice, is_unseen, shown};
use camflow_pipeline::{Event, RunError, SkipReason, Summary, Survey};
pub use errors::error_text;
use errors::{error_fields, painted};
pub use lines::Level;
use lines::{Origin, event_json, line};
pub use metrics::{is_metrics, metrics};
use progress::Progress;
pub use record::{Ending, RunRecord};
use secrets::redact_whole;
pub use secrets::{has_secrets, keep_secret, redact, redact_json};
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
    quiet: bool,
    /// Whether a known failure is as good as none.
    accepts_known: bool,
    origin: Origin,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    progress: Option<Progress>,
    /// Whose words follow, until it is said. Mails and logs are read by those who did not start the job.
    heading: Option<String>,
    /// Lines that are worth nothing if there turns out to be nothing to do. `None` once something was done.
    held: Option<Vec<String>>,
}

impl Reporter {
    /// A reporter of that form.
    pub fn new(format: Format) -> Self {
        Reporter { format, quiet: false, accepts_known: false, origin: Origin::here(), state: Mutex::default() }
    }

    /// A reporter for a job on that dataset. A quiet one tells only of what went wrong.
    pub fn for_job(format: Format, quiet: bool, job: Option<&str>, dataset: &str) -> Self {
        let origin = Origin { job: job.map(redact_whole), dataset: Some(redact_whole(dataset)), ..Origin::here() };
        Reporter { quiet, origin, ..Reporter::new(format) }
    }

    /// The same for a job for which a known failure is as good as none.
    pub fn accepting_known_failures(self, accepts_known: bool) -> Self {
        Reporter { accepts_known, ..self }
    }

    /// The same for a run that may be repeated every night: unless standard error is a terminal, words wait until something is
    /// done.
    pub fn holding_back(mut self) -> Self {
        if self.format == Format::Human && !io::stderr().is_terminal() {
            self.state.get_mut().unwrap_or_else(PoisonError::into_inner).held = Some(Vec::new());
        }
        self
    }

    /// Something worth knowing before the run, or instead of it.
    pub fn notice(&self, text: &str) {
        match self.format {
            Format::Human => self.mention(format!("note: {text}")),
            Format::Json => self.json(Level::Info, "notice", json!({"message": text})),
        }
    }

    /// What people may want to do next; programs know.
    pub fn suggest(&self, text: &str) {
        if self.format == Format::Human {
            self.mention(format!("note: {text}"));
        }
    }

    /// A step of the preparation that takes a moment.
    pub fn step(&self, text: &str) {
        match self.format {
            Format::Human => self.mention(text.to_owned()),
            Format::Json => self.json(Level::Info, "step", json!({"message": text})),
        }
    }

    /// Something that should not be so, but does not stop the run.
    pub fn warning(&self, text: &str) {
        match self.format {
            Format::Human => self.say(&format!("warning: {text}")),
            Format::Json => self.json(Level::Warn, "warning", json!({"message": text})),
        }
    }

    /// Why a job was given up. Words go to standard error for every form: what runs camflow sends mail about that.
    pub fn error(&self, error: &Diagnostic, exit_code: u8) {
        if self.format == Format::Json {
            self.json(Level::Error, "error", error_fields(error, exit_code));
        }
        self.say(&format!("error: {}", error_text(error)));
    }

    /// A job begins; it is number `position.0` of `position.1`.
    pub fn job_started(&self, position: (usize, usize)) {
        let (number, count) = position;
        let of = if count > 1 { format!(" ({number} of {count})") } else { String::new() };
        if !io::stderr().is_terminal() {
            self.state().heading = Some(format!("{} {}{of}", lines::now(), self.origin));
        } else if count > 1 && self.format == Format::Human {
            self.mention(format!("{} {}{of}", lines::now(), self.origin));
        }
        if self.format == Format::Json {
            let fields = json!({"number": number, "num_jobs": count, "camflow": env!("CARGO_PKG_VERSION")});
            self.json(Level::Info, "job_started", fields);
        }
    }

    /// A job is over: the last line of it.
    pub fn job_finished(&self, ending: Ending) {
        if self.format == Format::Json {
            let level = match ending.exit_code {
                0 => Level::Info,
                1 | 4 | 130 => Level::Warn,
                _ => Level::Error,
            };
            self.json(level, "job_finished", json!({"exit": ending.name, "exit_code": ending.exit_code}));
        }
    }

    /// What happens in the run.
    pub fn tell(&self, event: Event) {
        match self.format {
            Format::Human => self.tell_human(event),
            Format::Json => {
                let is_accepted = matches!(event, Event::SampleFailed { is_known: true, .. } if self.accepts_known);
                if let Some((level, name, fields)) = event_json(&event) {
                    self.json(if is_accepted { Level::Info } else { level }, name, fields);
                }
            }
        }
    }

    fn tell_human(&self, event: Event) {
        let mut state = self.state();
        match event {
            Event::RunStarted(outlook) => {
                summary::outlook(&outlook).into_iter().for_each(|text| self.mention_in(&mut state, text));
                state.progress = (!self.quiet).then(|| Progress::new(outlook.num_samples, io::stderr().is_terminal()));
            }
            Event::SampleFailed { failure, is_known } => {
                let verb = if is_known { "failed again" } else { "failed" };
                let text = format!("{verb}: {}: {} ({} stage)", failure.sample, shown(&failure.error), failure.stage);
                match is_known && self.accepts_known {
                    true => self.mention_in(&mut state, text),
                    false => state.say(&text),
                }
                state.progress.iter_mut().for_each(Progress::failed);
            }
            Event::SampleCommitted { .. } => {
                state.release();
                state.progress.iter_mut().for_each(Progress::committed);
            }
            Event::Forecast(forecast) => self.mention_in(&mut state, summary::forecast(&forecast)),
            Event::SampleStale { sample, changes } => state.say(&format!("{}: {sample}", listed(&changes))),
            // The summary counts them.
            Event::SampleMoved { .. } => {}
            Event::SampleSkipped(_) => state.progress.iter_mut().for_each(Progress::skipped),
            Event::Draining if !self.quiet => {
                state.say("stopping: finishing what is in flight; press Ctrl-C again to stop at once");
            }
            Event::Draining => {}
        }
    }

    /// The end of a run.
    pub fn finish(&self, summary: &Summary, fault: Option<&RunError>) {
        let mut state = self.state();
        if let Some(progress) = state.progress.take() {
            progress.clear();
        }
        let num_failed = if self.accepts_known { summary.num_newly_failed() } else { summary.num_failed };
        let all_well = fault.is_none() && num_failed == 0 && !summary.interrupted;
        match self.format {
            Format::Json => {
                let level = if fault.is_some() { Level::Error } else { [Level::Warn, Level::Info][usize::from(all_well)] };
                // Lines go to a log, and who runs camflow sends mail about standard error.
                if fault.is_none() && num_failed > 0 {
                    state.say(&summary::failed(summary));
                }
                drop(state);
                self.json(level, "run_finished", summary::json(summary, fault));
            }
            Format::Human if self.quiet && all_well => {}
            Format::Human => {
                // A log that nobody reads grows by one line for each night on which nothing was to be done.
                // Where nothing is as it is wanted, the notes may say why.
                let is_usual = summary.num_failed > 0 || summary.skipped.contains_key(&SkipReason::UpToDate);
                let idle = all_well && summary.num_committed == 0 && is_usual && state.held.is_some();
                match idle {
                    true => {
                        state.held = Some(Vec::new());
                        state.heading = None;
                        stderr_line(&format!("{}: nothing to do: {}", self.origin, summary::idle(summary)));
                    }
                    false => summary::lines(summary).iter().for_each(|line| state.say(line)),
                }
            }
        }
    }

    /// The end of a survey.
    pub fn surveyed(&self, survey: &Survey, num_columns: usize) {
        match self.format {
            Format::Human => survey::lines(survey, num_columns).iter().for_each(|line| self.say(line)),
            Format::Json => self.json(Level::Info, "dry_run_finished", survey::json(survey, num_columns)),
        }
    }

    /// So many files are about to be explained.
    pub fn files_started(&self, count: usize) {
        if self.format == Format::Human {
            self.state().progress = Some(Progress::new(Some(count as u64), io::stderr().is_terminal()));
        }
    }

    /// What came of an image, in words, on standard output.
    pub fn image_explained(&self, text: &str) {
        if self.format == Format::Human {
            let print = || stdout_line(&without_controls(text));
            match &self.state().progress {
                Some(progress) => progress.suspend(print),
                None => print(),
            }
        }
    }

    /// One of the files is done.
    pub fn file_finished(&self, failed: bool) {
        let finished = if failed { Progress::failed } else { Progress::committed };
        self.state().progress.iter_mut().for_each(finished);
    }

    /// All of them are.
    pub fn files_finished(&self) {
        self.state().progress.take().iter().for_each(Progress::clear);
    }

    /// An image that could not be explained, and why.
    pub fn image_failed(&self, path: &Path, error: &str) {
        let path = path.to_string_lossy();
        let named = shown(&path).to_string();
        match self.format {
            Format::Human if error.contains(&named) => self.say(&format!("failed: {error}")),
            Format::Human => self.say(&format!("failed: `{named}`: {error}")),
            Format::Json => self.json(Level::Warn, "image_failed", json!({"path": path, "error": error})),
        }
    }

    /// A run that a dataset knows, for machines.
    pub fn listed_run(&self, fields: Value) {
        self.json(Level::Info, "run", fields);
    }

    /// Something that was found, for machines.
    pub fn found(&self, level: Level, event: &str, fields: Value) {
        self.json(level, event, fields);
    }

    /// Says something that can wait until there is more to say.
    fn mention(&self, text: String) {
        self.mention_in(&mut self.state(), text);
    }

    fn mention_in(&self, state: &mut State, text: String) {
        match state.held.as_mut() {
            _ if self.quiet => {}
            Some(held) => held.push(text),
            None => state.say(&text),
        }
    }

    fn say(&self, text: &str) {
        self.state().say(text);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn json(&self, level: Level, event: &str, fields: Value) {
        if level != Level::Info || !self.quiet {
            stdout_line(&line(level, event, &self.origin, redact_json(fields)));
        }
    }
}

impl State {
    fn release(&mut self) {
        self.held.take().into_iter().flatten().for_each(|line| self.print(&line));
    }

    fn say(&mut self, text: &str) {
        self.release();
        self.print(text);
    }

    fn print(&mut self, text: &str) {
        for line in self.heading.take().as_deref().into_iter().chain([text]) {
            match &self.progress {
                Some(progress) => progress.line(line),
                None => stderr_line(line),
            }
        }
    }
}

/// Why standard output was last refused, other than by a reader that went away.
static LOST: Mutex<Option<String>> = Mutex::new(None);

/// Prints a line. A reader that went away (`| head`) must not end the run; a full disk does not either, but is remembered.
pub fn stdout_line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        *LOST.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }
}

/// Why a part of standard output was lost.
pub fn lost_output() -> Option<String> {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn stderr_line(text: &str) {
    // Colours are taken out again where standard error is no terminal, or NO_COLOR is set.
    let _ = writeln!(anstream::stderr().lock(), "{}", painted(&without_controls(text)));
}

/// A text as it may be printed: without secrets, and without what a terminal would obey. What a model or a database calls something may hold escape sequences, and turn the text around.
pub fn without_controls(text: &str) -> String {
    redact(text).replace(|c: char| is_unseen(c) && !matches!(c, '\n' | '\t'), "\u{fffd}")
}
