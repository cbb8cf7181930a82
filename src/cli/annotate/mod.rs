//! `camflow annotate`: the main job. [`args`] has the flags, [`job`] what they come to, [`session`] the flow, [`record`] what is
//! left of the run.

mod args;
mod config;
mod job;
mod labels;
mod note;
mod page;
mod present;
mod record;
mod session;

use std::collections::BTreeMap;

use clap::ArgMatches;
use serde_json::{Map, Value};

use super::{
    Exit,
    failure::{Failure, diagnosed},
};
use crate::{
    diagnostic::Diagnose,
    fiftyone::{Database, Shard},
    report::{Reporter, RunRecord, error_text},
};
pub use args::{Args, DatabaseArgs};
pub use config::{is_table, settings};
pub use job::output_folder;
use record::RecordFiles;
pub use session::Session;

/// One job: its arguments, and what there is to say about them.
pub struct Invocation {
    /// The arguments.
    pub args: Args,
    /// Every setting by the name of its flag, without secrets.
    pub config: Map<String, Value>,
    /// The job's number and how many there are.
    pub position: (usize, usize),
}

impl Invocation {
    /// The only job of the process, from the command line.
    pub fn from_matches(args: Args, matches: &ArgMatches) -> Self {
        Invocation { args, config: config::settings(matches, &BTreeMap::new()), position: (1, 1) }
    }
}

/// Runs a job to its end, and reports how it ended. The database stays in `open` until the next one is.
pub fn main(invocation: Invocation, open: &mut Option<Database>) -> Exit {
    let Invocation { args, config, position } = invocation;
    let reporter = Reporter::for_job(args.format, args.quiet, args.name.as_deref(), &args.dataset);
    let reporter = reporter.accepting_known_failures(args.accept_known_failures);
    // Whoever asks what would be done wants to hear it.
    let reporter = if args.is_dry() { reporter } else { reporter.holding_back() };
    reporter.job_started(position);
    let shard = args.shard();
    let (exit, _) = recorded(&args, config, shard, &reporter, |record| Session::open(&args, &reporter, open)?.run(shard, record));
    reporter.job_finished(exit.ending());
    exit
}

/// Does something of which report and metrics are written, and says what went wrong.
pub fn recorded(
    args: &Args,
    config: Map<String, Value>,
    shard: Shard,
    reporter: &Reporter,
    run: impl FnOnce(&mut RunRecord) -> Result<Exit, Failure>,
) -> (Exit, RunRecord) {
    let mut record = RunRecord::begin(args.job_name().to_owned(), args.dataset.clone(), config);
    let files = RecordFiles::check(args, shard);
    let result = match &files {
        Ok(_) => run(&mut record),
        Err(error) => Err(anyhow::anyhow!("{error}").into()),
    };
    let mut exit = result.unwrap_or_else(|failure| {
        let error = failure.diagnose();
        reporter.error(&error, failure.exit.code());
        record.error = Some(error_text(&error));
        failure.exit
    });
    if let Err(error) = files.map_or(Ok(()), |files| files.write(&record, exit)) {
        exit = exit.max(Exit::Aborted);
        let error = diagnosed(&error);
        reporter.error(&error, exit.code());
        record.error.get_or_insert_with(|| error_text(&error));
    }
    (exit, record)
}
