//! The command line: arguments, one file per subcommand, exit codes. The only place that knows clap.

mod annotate;
mod cam;
mod check;
mod check_model;
mod clean;
mod compare;
mod completions;
mod dataset;
mod defaults;
mod doctor;
mod explain;
mod export;
mod help;
mod inspect;
mod localize;
mod measure;
mod model;
mod remove;
mod report;
mod run;
mod runs;
mod secrets;
mod selection;
mod signals;
mod surroundings;
mod worker;

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroUsize,
    str::FromStr,
};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};

pub use crate::engine::Exit;
use crate::{
    diagnostic::{Class, Diagnose, Diagnostic},
    fiftyone,
    names::Choice,
    program::{keep_freed_memory, silence_warnings},
    report::{Format, Reporter, lost_output, redact, stdout_line, without_controls},
};
use annotate::Invocation;
use defaults::Defaults;
use model::engine;
use signals::cancel_on_signals;

/// Class-activation heatmaps for whole FiftyOne datasets.
#[derive(Debug, Parser)]
#[command(name = "camflow", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add heatmaps to the samples of a FiftyOne dataset
    Annotate(Box<annotate::Args>),
    /// Run the jobs of a job file in order
    Run(run::Args),
    /// Keep a job's model loaded and process the shards named on standard input
    Worker(worker::Args),
    /// Report where the model looks: distributions, extreme samples, what stands out
    Report(report::Args),
    /// Compare two models, nights or methods on the same samples: differences with intervals, what changed most
    Compare(Box<compare::Args>),
    /// Make boxes and masks of stored heatmaps, and measure how well these localize
    Localize(Box<localize::Args>),
    /// Verify the files of heatmaps against their sizes and checksums
    Check(check::Args),
    /// Delete orphaned heatmap files, labels without files, and empty fields
    Clean(clean::Args),
    /// List the runs of a dataset: jobs with their fields, models and counts
    Runs(runs::Args),
    /// Delete a run: labels, files, fields and run record
    Remove(remove::Args),
    /// Compute heatmaps of single images, without a database
    Explain(explain::Args),
    /// Check whether a model's heatmaps can be trusted: random weights, moved images, noise, other methods
    CheckModel(Box<check_model::Args>),
    /// Export a PyTorch model to a file that camflow runs
    Export(export::Args),
    /// Show a model's layers, classes and preprocessing
    Inspect(inspect::Args),
    /// For the exporter: how an archive behaves when it is run
    #[command(hide = true)]
    Measure(measure::Args),
    /// Check the installation and suggest fixes
    Doctor(doctor::Args),
    Completions(completions::Completions),
    Man(completions::Man),
}

impl Command {
    /// How errors are reported.
    fn format(&self) -> Format {
        match self {
            Command::Annotate(args) => args.telling.format,
            Command::Run(args) => args.telling.format,
            Command::Worker(args) => args.format(),
            Command::Explain(args) => args.format,
            Command::Runs(args) => args.format,
            Command::Check(args) => args.format,
            Command::Inspect(args) => args.format,
            Command::Doctor(args) => args.format,
            Command::Report(_)
            | Command::Compare(_)
            | Command::Localize(_)
            | Command::CheckModel(_)
            | Command::Clean(_)
            | Command::Remove(_)
            | Command::Export(_)
            | Command::Measure(_)
            | Command::Completions(_)
            | Command::Man(_) => Format::Human,
        }
    }
}

/// Reads a count of which there is at least one.
fn positive(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "it is a number from 1".to_owned())
}

/// Reads a count of which there may be none.
fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it is a number from 0".to_owned())
}

/// Runs the program with the arguments of the process.
pub fn main() -> Exit {
    if let Err(error) = surroundings::check_current_folder() {
        Reporter::new(Format::Human).error(&error, Exit::Usage.code());
        return Exit::Usage;
    }
    surroundings::ignore_size_signal();
    surroundings::raise_open_files();
    keep_freed_memory();
    silence_warnings();
    // Kept, as those that the process shows lose their passwords.
    let arguments: Vec<_> = std::env::args_os().collect();
    secrets::hide();
    let defaults = Defaults::read();
    let parsed = defaults.put_into(help::arranged(Cli::command())).try_get_matches_from(arguments);
    let (cli, notices) = match parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches))) {
        Ok((cli, matches)) => {
            let notices = matches.subcommand().map_or(Ok(Vec::new()), |(name, flags)| defaults.notices(name, flags));
            (cli, notices)
        }
        Err(error) => {
            // What is missing may stand in a file that has mistakes.
            if let (ErrorKind::MissingRequiredArgument, Err(error)) = (error.kind(), defaults.paths()) {
                Reporter::new(Format::Human).error(error, Exit::Usage.code());
                return Exit::Usage;
            }
            let text = error.render().to_string();
            match redact(&text) {
                // In colours.
                redacted if redacted == text => drop(error.print()),
                redacted => drop(write!(std::io::stderr().lock(), "{}", without_controls(&redacted))),
            }
            // Help and version come this way too, and are no mistakes.
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let format = cli.command.format();
    let notices = match notices {
        Ok(notices) => notices,
        Err(error) => {
            Reporter::new(format).error(&error, Exit::Usage.code());
            return Exit::Usage;
        }
    };
    // What may be held back, the job's own reporter tells.
    if !matches!(cli.command, Command::Annotate(_)) {
        notices.iter().for_each(|notice| Reporter::new(format).notice(notice));
    }
    let result = match cli.command {
        Command::Annotate(args) => cancel_on_signals().map(|cancellation| {
            let invocation = Invocation { notices, ..(*args).into() };
            annotate::main(&invocation, &engine(cancellation))
        }),
        Command::Run(args) => run::main(&args),
        Command::Worker(args) => worker::main(args),
        Command::Report(args) => report::main(&args),
        Command::Compare(args) => compare::main(&args),
        Command::Localize(args) => localize::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Clean(args) => clean::main(&args),
        Command::Runs(args) => runs::main(&args),
        Command::Remove(args) => remove::main(&args),
        Command::Explain(args) => explain::main(args),
        Command::CheckModel(args) => check_model::main(*args),
        Command::Export(args) => export::main(&args),
        Command::Inspect(args) => inspect::main(&args),
        Command::Measure(args) => measure::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Completions(args) => Ok(completions::completions(&args)),
        Command::Man(args) => completions::man(&args),
    };
    let exit = result.unwrap_or_else(|error| {
        let exit = Exit::from(error.class);
        Reporter::new(format).error(&error, exit.code());
        exit
    });
    match lost_output() {
        Some(reason) => {
            let error = Diagnostic::aborted(format!("standard output could not be written: {reason}"));
            Reporter::new(Format::Human).error(&error.hint("send it to a place with room"), Exit::Aborted.code());
            exit.max(Exit::Aborted)
        }
        None => exit,
    }
}

/// Why a subcommand gave up before it changed anything: a folder that cannot be read is the wrong one, or not mounted.
fn before_changes(error: impl Into<fiftyone::Error>) -> Diagnostic {
    match error.into() {
        fiftyone::Error::Storage(error) => match error.diagnose() {
            error if error.class == Class::Aborted => error.of_class(Class::Invalid),
            error => error,
        },
        error => error.diagnose(),
    }
}

/// Prints to standard output; a reader that went away (`| head`) is no fault.
fn print(text: &str) {
    stdout_line(&without_controls(text));
}

/// Prints lines of a table, whose last column begins at `indent`. On a terminal that is wrapped between words; in a pipe a line is a line.
fn print_hanging(text: &str, indent: usize) {
    let width = if io::stdout().is_terminal() { textwrap::termwidth() } else { usize::MAX };
    print(&hanging(text, indent, width));
}

fn hanging(text: &str, indent: usize, width: usize) -> String {
    let spaces = " ".repeat(indent);
    let wrapped = |line: &str| {
        let (label, rest) = line.split_at(line.char_indices().nth(indent).map_or(line.len(), |(at, _)| at));
        // Whoever copies a path or a command wants it as it is.
        let options = textwrap::Options::new(width)
            .initial_indent(label)
            .subsequent_indent(&spaces)
            .word_separator(textwrap::WordSeparator::AsciiSpace)
            .word_splitter(textwrap::WordSplitter::NoHyphenation)
            .break_words(false);
        textwrap::wrap(rest, options).join("\n")
    };
    text.lines().map(wrapped).collect::<Vec<_>>().join("\n")
}

/// A flag that takes one of a few names.
fn choice<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let find = |name: String| T::ALL.iter().copied().find(|value| value.name() == name);
    PossibleValuesParser::new(T::ALL.iter().map(|value| value.name())).try_map(move |name| find(name).ok_or("unknown value"))
}

#[cfg(test)]
mod tests {
    use super::hanging;

    #[test]
    fn a_wide_line_goes_on_below_its_last_column() {
        let text = "file     /a/path-with-hyphens/to.pt2\nclasses  0 cat; 1 great white shark";
        assert_eq!(hanging(text, 9, 24), "file     /a/path-with-hyphens/to.pt2\nclasses  0 cat; 1 great\n         white shark");
        assert_eq!(hanging(text, 9, usize::MAX), text);
    }
}
