//! `camflow run`: the jobs of a job file, in order. [`plan`] makes them, and finds what is wrong before the first begins.

mod keys;
mod plan;
mod reference;

pub(super) use keys::Keys;

use std::{path::PathBuf, str::FromStr};

use super::{
    Exit,
    annotate::{self, Telling},
    model::engine,
    print,
    signals::cancel_on_signals,
};
use crate::{diagnostic::Diagnostic, engine::job_file_schema, media::shown, names::backticked, report::Reporter};

/// Run the jobs of a job file in order
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job file (TOML); `--print-default` prints one with all keys
    #[arg(value_name = "FILE", required_unless_present_any = ["print_default", "print_schema"])]
    file: Option<PathBuf>,
    /// Set a key of all jobs, or of one, whatever the file says
    #[arg(long = "set", value_name = "[JOB.]KEY=VALUE")]
    set: Vec<Assignment>,
    /// Only these jobs of the file
    #[arg(long, value_name = "JOB", value_delimiter = ',')]
    only: Vec<String>,
    /// Change nothing, but say how many samples each job would annotate and why
    #[arg(long)]
    dry_run: bool,
    /// The same, and say it of each sample
    #[arg(long)]
    explain_plan: bool,
    /// Print a job file that explains all keys
    #[arg(long, exclusive = true)]
    print_default: bool,
    /// Print the JSON Schema of job files, for editors
    #[arg(long, exclusive = true)]
    print_schema: bool,
    #[command(flatten)]
    pub telling: Telling,
}

/// What `--set` was given.
#[derive(Clone, Debug)]
struct Assignment {
    typed: String,
    /// All jobs without one.
    job: Option<String>,
    key: String,
    value: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write KEY=VALUE or JOB.KEY=VALUE")?;
        let (job, key) = name.split_once('.').map_or((None, name), |(job, key)| (Some(job.to_owned()), key));
        Ok(Assignment { typed: text.to_owned(), job, key: key.to_owned(), value: value.to_owned() })
    }
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let Some(file) = &args.file else {
        print(&if args.print_schema { format!("{:#}", job_file_schema()) } else { reference::text() });
        return Ok(Exit::Done);
    };
    let jobs = plan::jobs(file, args)?;
    let cancellation = cancel_on_signals()?;
    let engine = engine(cancellation.clone());
    let mut ends: Vec<(String, Exit)> = Vec::new();
    let mut left = Vec::new();
    for job in jobs {
        let name = job.job.spec.job_name().to_owned();
        if cancellation.is_cancelled() {
            left.push(name);
            continue;
        }
        // What ends one job (a lost dataset, a full disk) need not touch the others, and if it does they say so themselves.
        ends.push((name, annotate::main(&job, &engine)));
    }
    let worst = ends.iter().map(|(_, exit)| *exit).chain((!left.is_empty()).then_some(Exit::Interrupted)).max();
    let worst = worst.unwrap_or(Exit::Done);
    if worst != Exit::Done && ends.len() + left.len() > 1 {
        let ended = ends.iter().map(|(name, exit)| format!("`{name}` {}", exit.ending().name.replace('_', " ")));
        let begun = left.iter().map(|name| format!("`{name}` not begun"));
        let text = ended.chain(begun).collect::<Vec<_>>().join(", ");
        Reporter::new(args.telling.format).warning(&format!("not every job is done: {text}"));
    }
    Ok(worst)
}

/// The job of a file, for what can do only one.
pub(super) fn only_job(args: &Args) -> Result<annotate::Invocation, Diagnostic> {
    let Some(file) = &args.file else { return Err(Diagnostic::invalid("no job file is named")) };
    let mut jobs = plan::jobs(file, args)?;
    if jobs.len() > 1 {
        let names: Vec<&str> = jobs.iter().map(|job| job.job.spec.job_name()).collect();
        let what = format!("the job file `{}` has {} jobs: {}", shown(file), names.len(), backticked(&names));
        return Err(Diagnostic::invalid(what).hint("name one of them with `--only`"));
    }
    jobs.pop().ok_or_else(|| Diagnostic::invalid(format!("the job file `{}` has no job", shown(file))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_for_all_jobs_or_for_one() {
        let assignment = |text: &str| text.parse::<Assignment>().map(|set| (set.job, set.key, set.value));
        assert_eq!(assignment("limit=3"), Ok((None, "limit".into(), "3".into())));
        assert_eq!(assignment("a.model=m.pt2"), Ok((Some("a".into()), "model".into(), "m.pt2".into())));
        assert_eq!(assignment("match={\"a.b\": \"=\"}"), Ok((None, "match".into(), "{\"a.b\": \"=\"}".into())));
        assert!(assignment("limit").is_err());
    }
}
