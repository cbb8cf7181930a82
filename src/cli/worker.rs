//! `camflow worker`: a job's model stays loaded while shards of it come in on standard input. `docs/scale.md` has the protocol.

use std::{
    io::{self, BufRead, Write},
    os::fd::AsFd,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Exit,
    annotate::{self, Invocation, Told},
    model::engine,
    run,
    signals::cancel_on_signals,
};
use crate::{
    diagnostic::{Class, Diagnostic},
    engine::{Outcome, Session},
    fiftyone::Shard,
    media::{open_regular, shown},
    pipeline::Source,
    report::{Format, Reporter, error_text, redact_json},
};

/// Keep a job's model loaded and process the shards named on standard input
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    job: Job,
}

/// Where the job is described.
#[derive(Debug, Subcommand)]
enum Job {
    /// A job by the flags of `camflow annotate`
    Annotate(Box<annotate::Args>),
    /// A job of a job file, by the flags of `camflow run`
    Run(run::Args),
}

impl Args {
    /// How errors are reported.
    pub(super) fn format(&self) -> Format {
        match &self.job {
            Job::Annotate(args) => args.telling.format,
            Job::Run(args) => args.telling.format,
        }
    }
}

/// The version of the protocol, told when the worker is ready. New names may be added to lines without a new version.
const PROTOCOL: u32 = 1;

/// How often to look whether the worker was asked to stop while it waits for work.
const LOOK: Duration = Duration::from_millis(100);

/// Samples whose files are tried before the first shard: one that is missing is a fault of the sample, not of this machine.
const TRIED: u64 = 16;

/// A line of standard input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    shard: String,
}

/// Runs the subcommand. Standard output is for answers alone.
pub(super) fn main(args: Args) -> Result<Exit, Diagnostic> {
    let mut answers = take_standard_output()?;
    let invocation = match invocation(args) {
        Ok(invocation) => invocation,
        Err(error) => return not_ready(&mut answers, error),
    };
    let reporter = invocation.reporter();
    let told = Told(&reporter);
    reporter.job_started((1, 1));
    let engine = engine(cancel_on_signals()?);
    let ready = engine.open(&invocation.job, &told).and_then(|mut session| {
        let ready = check(&mut session, &invocation)?;
        Ok((session, ready))
    });
    let (session, ready) = match ready {
        Ok(ready) => ready,
        Err(error) => return not_ready(&mut answers, error),
    };
    answer(&mut answers, &ready)?;
    let exit = serve(session, &reporter, &mut answers)?;
    reporter.job_finished(exit.ending());
    Ok(exit)
}

/// From now on whatever else this process or its children print goes to standard error.
fn take_standard_output() -> Result<impl Write, Diagnostic> {
    let unusable = |error: io::Error| Diagnostic::aborted("standard output cannot be used").because(&error);
    let answers = io::stdout().as_fd().try_clone_to_owned().map_err(unusable)?;
    // SAFETY: both are open, and nobody in this process owns either.
    let redirected = unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) };
    if redirected < 0 {
        return Err(unusable(io::Error::last_os_error()));
    }
    Ok(std::fs::File::from(answers))
}

/// The one job that the worker is for.
fn invocation(args: Args) -> Result<Invocation, Diagnostic> {
    let invocation = match args.job {
        Job::Annotate(args) => (*args).into(),
        Job::Run(args) => run::only_job(&args)?,
    };
    let spec = &invocation.job.spec;
    match (spec.is_dry(), spec.shard) {
        (true, _) => Err(Diagnostic::invalid("a worker changes things, so it takes neither `--dry-run` nor `--explain-plan`")
            .hint("leave them out")),
        (_, Some(_)) => Err(Diagnostic::invalid("a worker is told its shards on standard input")
            .hint("leave out `--shard`, and the key `shard` of a job file")),
        _ => Ok(invocation),
    }
}

/// Makes sure of all that can be known before the first shard: also that this machine sees the folders that the job names.
fn check(session: &mut Session, invocation: &Invocation) -> Result<Value, Diagnostic> {
    let mut work = session.prepare()?;
    let media = check_media(&mut session.source(&mut work, Shard::WHOLE, Some(TRIED))?, work.dataset.name())?;
    session.load()?;
    let program = &session.program;
    Ok(json!({
        "event": "ready",
        "protocol": PROTOCOL,
        "camflow": env!("CARGO_PKG_VERSION"),
        "job": invocation.job.spec.name,
        "dataset": work.dataset.name(),
        "host": sysinfo::System::host_name(),
        "process": std::process::id(),
        "devices": session.device_names(),
        "model": {"name": program.metadata.name, "path": program.path().to_string_lossy(), "digest": program.digest()},
        "fields": work.fields.names().collect::<Vec<_>>(),
        "database": session.database.describe().address,
        "out": work.folder.as_ref().map(|folder| folder.to_string_lossy()),
        "media": media,
    }))
}

/// The first file of the dataset's that can be read; `None` where there are no samples.
fn check_media(source: &mut dyn Source, dataset: &str) -> Result<Option<String>, Diagnostic> {
    let samples = source.next_samples()?;
    let mut first = None;
    for sample in samples.into_iter().map(|selected| selected.sample) {
        let reason = match open_regular(&sample.media_path) {
            Ok(Ok(_)) => return Ok(Some(sample.media_path.to_string_lossy().into_owned())),
            Ok(Err(what)) => format!("it is {what}"),
            Err(error) => error.to_string(),
        };
        first.get_or_insert((sample, reason));
    }
    let Some((sample, reason)) = first else { return Ok(None) };
    Err(Diagnostic::invalid(format!(
        "no image of dataset `{dataset}` can be read here; the first is `{}` of sample `{}`: {reason}",
        shown(&sample.media_path),
        sample.id
    ))
    .hint("this machine needs the folder with the images under the same path as the dataset has it"))
}

/// Answers line after line, until there are no more or the worker is asked to stop.
fn serve(mut session: Session, reporter: &Reporter, answers: &mut impl Write) -> Result<Exit, Diagnostic> {
    let lines = standard_input()?;
    loop {
        if session.is_cancelled() {
            return Ok(Exit::Interrupted);
        }
        let line = match lines.recv_timeout(LOOK) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Done),
        };
        let shard = match request(&line) {
            Ok(shard) => shard,
            Err(error) => {
                answer(answers, &refusal(&error))?;
                continue;
            }
        };
        let (result, record) = session.run_shard(shard);
        let exit = Exit::of(&result);
        if let Err(error) = &result {
            reporter.error(error, exit.code());
        }
        answer(answers, &record.answer(&shard.to_string(), exit.ending()))?;
        check_sound(&session, &result)?;
    }
}

/// Makes sure, after a run that did not go well, that this process can go on: else it would fail shard after shard in no time.
fn check_sound(session: &Session, result: &Result<Outcome, Diagnostic>) -> Result<(), Diagnostic> {
    match result {
        Ok(Outcome { exit: Exit::Done | Exit::Interrupted, .. }) => Ok(()),
        Err(error) if error.class == Class::Locked => Ok(()),
        _ => session.check_sound().map_err(|error| error.hint("start another worker")),
    }
}

/// The lines of standard input, each when the one before it is answered.
fn standard_input() -> Result<Receiver<Vec<u8>>, Diagnostic> {
    let (sender, lines) = sync_channel(0);
    let read = move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match input.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let thread = std::thread::Builder::new().name("standard input".to_owned()).spawn(read);
    thread.map(|_| lines).map_err(|error| Diagnostic::aborted("standard input cannot be read").because(&error))
}

fn request(line: &[u8]) -> Result<Shard, Diagnostic> {
    let request: Request = serde_json::from_slice(line).map_err(|error| {
        Diagnostic::invalid(format!("this line is not a request ({error})")).hint("write one as {\"shard\": \"3/10\"}")
    })?;
    let refused = |reason| Diagnostic::invalid(format!("`{}` is not a shard: {reason}", request.shard));
    request.shard.parse().map_err(refused)
}

fn refusal(error: &Diagnostic) -> Value {
    let ending = Exit::from(error.class).ending();
    json!({
        "event": "shard_finished", "shard": null, "exit": ending.name, "exit_code": ending.exit_code,
        "error": error_text(error),
        "counts": null, "elapsed_s": 0.0, "stages": null, "failures": [],
    })
}

/// The only answer of a worker that cannot work. The same is said by its exit code and on standard error.
fn not_ready(answers: &mut impl Write, error: Diagnostic) -> Result<Exit, Diagnostic> {
    let ending = Exit::from(error.class).ending();
    let line = json!({
        "event": "not_ready", "protocol": PROTOCOL, "camflow": env!("CARGO_PKG_VERSION"),
        "host": sysinfo::System::host_name(), "process": std::process::id(),
        "exit": ending.name, "exit_code": ending.exit_code, "error": error_text(&error),
    });
    // The fault that is there already matters more.
    let _ = answer(answers, &line);
    Err(error)
}

fn answer(answers: &mut impl Write, line: &Value) -> Result<(), Diagnostic> {
    writeln!(answers, "{}", redact_json(line.clone())).and_then(|()| answers.flush()).map_err(|error| {
        Diagnostic::aborted("nobody reads the worker's answers any more")
            .because(&error)
            .hint("what the last shard stored stays stored")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_one_shard() {
        let shard = |line: &str| request(line.as_bytes()).map(|shard| shard.to_string()).map_err(|error| error_text(&error));
        assert_eq!(shard("{\"shard\": \"3/10\"}\n"), Ok("3/10".into()));
        assert_eq!(shard(" {\"shard\":\"1/1\"}\r\n"), Ok("1/1".into()));
        for line in
            ["", "\n", "3/10", "[]", "{}", "{\"shard\": 3}", "{\"shard\": \"3/10\", \"limit\": 3}", "{\"shard\": \"3/10\"} {"]
        {
            let refused = shard(line).expect_err(line);
            assert!(refused.starts_with("this line is not a request (") && refused.contains("\nhint: "), "{refused}");
        }
        assert_eq!(shard("{\"shard\": \"0/3\"}"), Err("`0/3` is not a shard: the shards are 1/3 to 3/3".into()));
        assert!(request(&[0xff, b'\n']).is_err());
    }
}
