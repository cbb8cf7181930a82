//! `camflow annotate`: the main job. [`args`] has the flags, the engine does the work.

mod args;

use serde_json::Value;

use super::Exit;
use crate::{
    engine::{Engine, Job, JobSpec, Observer},
    names::{Choice, word},
    pipeline::{Event, RunError, Summary, Survey},
    report::Reporter,
};
pub(super) use args::{Args, DatabaseArgs, Telling};

/// One job, and how it is told.
pub(super) struct Invocation {
    /// The job.
    pub job: Job,
    /// How it is told.
    pub telling: Telling,
    /// The job's number and how many there are.
    pub position: (usize, usize),
    /// What is to be said of how it was asked for.
    pub notices: Vec<String>,
}

impl Invocation {
    /// A job among several of the process.
    pub(super) fn new(mut job: Job, telling: Telling) -> Self {
        job.settings.insert("format".to_owned(), Value::from(telling.format.name()));
        job.settings.insert("quiet".to_owned(), Value::from(telling.quiet));
        Invocation { job, telling, position: (1, 1), notices: Vec::new() }
    }

    /// What tells of it.
    pub(super) fn reporter(&self) -> Reporter {
        let (spec, Telling { format, quiet }) = (&self.job.spec, self.telling);
        let reporter = Reporter::for_job(format, quiet, spec.name.as_deref(), &spec.dataset);
        reporter.accepting_known_failures(spec.accept_known_failures)
    }
}

/// The only job of the process, from the command line.
impl From<Args> for Invocation {
    fn from(args: Args) -> Self {
        let telling = args.telling;
        Invocation::new(JobSpec::from(args).into(), telling)
    }
}

/// Runs a job to its end, and reports how it ended.
pub(super) fn main(invocation: &Invocation, engine: &Engine) -> Exit {
    let reporter = invocation.reporter();
    // Whoever asks what would be done wants to hear it.
    let reporter = if invocation.job.spec.is_dry() { reporter } else { reporter.holding_back() };
    reporter.job_started(invocation.position);
    invocation.notices.iter().for_each(|notice| reporter.notice(notice));
    let result = engine.annotate(&invocation.job, &Told(&reporter));
    let exit = Exit::of(&result);
    if let Err(error) = result {
        reporter.error(&error, exit.code());
    }
    reporter.job_finished(exit.ending());
    exit
}

/// What the engine says, to whoever started the program.
pub(super) struct Told<'a>(pub &'a Reporter);

impl Observer for Told<'_> {
    fn notice(&self, text: &str) {
        self.0.notice(text);
    }

    fn step(&self, text: &str) {
        self.0.step(text);
    }

    fn warning(&self, text: &str) {
        self.0.warning(text);
    }

    fn tell(&self, event: Event) {
        self.0.tell(event);
    }

    fn finish(&self, summary: &Summary, fault: Option<&RunError>) {
        self.0.finish(summary, fault);
    }

    fn annotated(&self, dataset: &str) {
        self.0.suggest(&format!(
            "look at them with `fiftyone app launch {}{}`; a Python that has the dataset open sees them after `dataset.reload()`",
            if dataset.starts_with('-') { "-- " } else { "" },
            word(dataset)
        ));
    }

    fn surveyed(&self, survey: &Survey, num_columns: usize) {
        self.0.surveyed(survey, num_columns);
    }
}
