//! `camflow measure`: what the exporter cannot know of an archive, because it does not run it: see `explain/trial`.

use std::path::PathBuf;

use serde_json::json;

use super::{Exit, print};
use crate::{
    diagnostic::Diagnostic,
    explain::{depends_on_batch, deviations},
    program::Program,
    report::{Format, Reporter},
};

/// For the exporter: how an archive behaves when it is run
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A `.pt2` file
    model: PathBuf,
}

/// Prints the entries that `camflow.json` is to have of it.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let reporter = Reporter::new(Format::Human);
    let program = Program::open(&args.model)?;
    let name = &program.metadata.name;
    let depends = depends_on_batch(&program, true)
        .inspect_err(|reason| {
            reporter.warning(&format!("whether `{name}` mixes the images of a batch could not be found out: {reason}"));
        })
        .ok();
    let default_mode = deviations(&program).unwrap_or_else(|reason| {
        reporter.warning(&format!("how far `{name}` is from float64 could not be measured: {reason}"));
        Vec::new()
    });
    print(&json!({ "independent_of_batch": depends.map(|depends| !depends), "default_mode": default_mode }).to_string());
    Ok(Exit::Done)
}
