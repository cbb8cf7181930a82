//! The command line: arguments, one file per subcommand, exit codes. The only place that knows clap.

mod annotate;
mod cam;
mod device;
mod doctor;
mod exit;
mod explain;
mod export;
mod inspect;
mod model;
mod secrets;
mod signals;
mod target;

use std::io::Write;

use clap::{
    Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{names::Choice, program::keep_freed_memory};
pub use exit::Exit;
use secrets::Secrets;

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
    /// Heatmaps of a few images, without a database
    Explain(explain::Args),
    /// Export a FiftyOne zoo, torchvision or timm model to a file that camflow runs
    Export(export::Args),
    /// What an exported model offers: layers, classes, preprocessing
    Inspect(inspect::Args),
    /// What works on this machine, and what to do about the rest
    Doctor(doctor::Args),
}

/// Runs the program with the arguments of the process.
pub fn main() -> Exit {
    keep_freed_memory();
    // Kept, as those that the process shows lose their passwords.
    let arguments: Vec<_> = std::env::args_os().collect();
    let secrets = Secrets::hide();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            match secrets.redact(&text) {
                // In colours.
                redacted if redacted == text => drop(error.print()),
                redacted => print_lines(&redacted),
            }
            // Help and version come this way too, and are no mistakes.
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let result = match cli.command {
        Command::Annotate(args) => annotate::main(*args),
        Command::Explain(args) => explain::main(&args),
        Command::Export(args) => export::main(&args),
        Command::Inspect(args) => inspect::main(&args),
        Command::Doctor(args) => doctor::main(&args),
    };
    result.unwrap_or_else(|failure| {
        print_error(&failure.error, &secrets);
        failure.exit
    })
}

/// Why a subcommand gave up, and with which exit code.
struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

/// Unless a subcommand says otherwise, what stops it before it began is a wrong argument or job.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { exit: Exit::Usage, error: error.into() }
    }
}

impl Failure {
    fn aborted(error: impl Into<anyhow::Error>) -> Self {
        Failure { exit: Exit::Aborted, error: error.into() }
    }
}

/// Letters of a cause that are shown.
const MAX_CAUSE: usize = 300;

/// The error and its causes, hints on lines of their own.
fn print_error(error: &anyhow::Error, secrets: &Secrets) {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let cause = cause.to_string();
        // A cause that the message above it quotes already says nothing new.
        if depth == 0 {
            text.push_str(&format!("error: {cause}\n"));
        } else if !text.contains(&cause) {
            // Drivers append all they know; the beginning says what is wrong.
            let line = cause.lines().next().unwrap_or_default();
            let short: String = line.chars().take(MAX_CAUSE).collect();
            let rest = if short.len() < line.len() { "..." } else { "" };
            text.push_str(&format!("caused by: {short}{rest}\n"));
        }
    }
    print_lines(&secrets.redact(&text));
}

fn print_lines(text: &str) {
    let _ = write!(std::io::stderr().lock(), "{}", without_controls(text));
}

/// What a model or a database calls something may hold escape sequences, which a terminal would obey.
fn without_controls(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), "\u{fffd}")
}

/// Prints to standard output; a reader that went away (`| head`) is no fault.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", without_controls(text));
}

/// A flag that takes one of a few names.
fn choice<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let find = |name: String| T::ALL.iter().copied().find(|value| value.name() == name);
    PossibleValuesParser::new(T::ALL.iter().map(|value| value.name())).try_map(move |name| find(name).ok_or("unknown value"))
}
