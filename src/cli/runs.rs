//! `camflow runs`: what camflow did to a dataset.

use serde_json::{Value, json};

use super::{Exit, choice, dataset::DatasetArgs, print, print_hanging};
use crate::{
    diagnostic::Diagnostic,
    fiftyone::{StoredRun, stored_runs},
    names::{Choice, backticked, shown},
    report::{Format, Reporter},
};

/// List the runs of a dataset: jobs with their fields, models and counts
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// How to list: words, or one JSON object for each run
    #[arg(long, default_value = Format::Human.name(), value_parser = choice::<Format>())]
    pub format: Format,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let (_connected, dataset) = args.dataset.open()?;
    let runs = stored_runs(&dataset)?;
    match args.format {
        Format::Json => {
            let reporter = Reporter::new(args.format);
            runs.iter().for_each(|run| reporter.listed_run(json(run)));
        }
        Format::Human if runs.is_empty() => print(&format!("dataset `{}` has no runs of camflow's", dataset.name())),
        Format::Human => runs.iter().flat_map(lines).for_each(|line| print_hanging(&shown(line).to_string(), 4)),
    }
    Ok(Exit::Done)
}

fn json(run: &StoredRun) -> Value {
    json!({"key": run.key, "timestamp": run.timestamp, "config": run.config})
}

fn lines(run: &StoredRun) -> Vec<String> {
    let text = |key: &str| run.config.get(key).and_then(Value::as_str).unwrap_or("?");
    let list = |key: &str| {
        let items = run.config.get(key).and_then(Value::as_array);
        items.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let counts = run.config.get("counts");
    let count = |key: &str| counts.and_then(|counts| counts.get(key)).and_then(Value::as_u64).unwrap_or(0);
    vec![
        format!("{}  {}  {}", run.key, run.timestamp, text("exit")),
        format!("  model {} ({}), methods {}, layers {}", text("model"), text("model_digest"), list("methods"), list("layers")),
        format!("  fields {}", backticked(&run.fields)),
        format!(
            "  last changes: {} samples annotated ({} heatmaps), {} skipped, {} failed",
            count("num_committed"),
            count("num_heatmaps"),
            count("num_skipped"),
            count("num_failed")
        ),
    ]
}
