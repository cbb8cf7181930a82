//! The dataset that a subcommand is about: its flags, and what is said where something of it is not there.

use std::path::PathBuf;

use super::annotate::DatabaseArgs;
use crate::{
    diagnostic::Diagnostic,
    fiftyone::{Connected, Dataset, StoredRun, View, stored_runs, view_of_heatmaps},
    names::{existing, flag},
};

/// Which dataset, and where.
#[derive(Debug, clap::Args)]
pub(super) struct DatasetArgs {
    /// Name of the dataset
    #[arg(long)]
    dataset: String,
    /// Python with FiftyOne, if its database is not running
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    python: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
}

impl DatasetArgs {
    /// The dataset, with the connection to keep as long as it is used.
    pub(super) fn open(&self) -> Result<(Connected, Dataset), Diagnostic> {
        let connected = self.database.connect(self.python.clone())?;
        let dataset = Dataset::open(&connected.database, &self.dataset)?;
        Ok((connected, dataset))
    }

    /// The samples of a saved view whose heatmaps in these fields are looked at, and the fields that it shows.
    pub(super) fn viewed(
        &self,
        dataset: &Dataset,
        view: &str,
        fields: &[String],
    ) -> Result<(Vec<String>, Vec<String>), Diagnostic> {
        Ok(view_of_heatmaps(dataset, View::Saved(view), fields, self.python.clone())?)
    }
}

/// Of the known fields those that were asked for, by name or as a run's; all, where none was.
///
/// # Errors
/// There is none, or one that was asked for, or its run, is not there, or none of the run's is there any more.
pub(super) fn chosen_heatmap_fields(
    dataset: &Dataset,
    known: Vec<String>,
    asked: &[String],
    run: Option<&str>,
) -> Result<Vec<String>, Diagnostic> {
    if known.is_empty() {
        let name = dataset.name();
        return Err(Diagnostic::invalid(format!("dataset `{name}` has no heatmaps"))
            .hint(format!("make them with `camflow annotate {}`", flag("--dataset", name))));
    }
    let asked = asked_heatmap_fields(dataset, &known, asked)?;
    match run {
        None if asked.is_empty() => Ok(known),
        None => Ok(asked),
        Some(key) => {
            let runs = stored_runs(dataset)?;
            check_runs(dataset, &runs, [&key.to_owned()])?;
            let written: Vec<&String> = runs.iter().filter(|run| run.key == key).flat_map(|run| &run.fields).collect();
            // Somebody may have deleted one since.
            let fields: Vec<String> = known.into_iter().filter(|field| written.contains(&field)).collect();
            if fields.is_empty() {
                let text = format!("run `{key}` of dataset `{}` has no heatmap fields", dataset.name());
                return Err(Diagnostic::invalid(text).hint("name heatmap fields with `--fields`"));
            }
            Ok(fields)
        }
    }
}

/// The fields that were asked for, each once: what is named twice would count twice.
///
/// # Errors
/// One is none of the dataset's heatmap fields.
pub(super) fn asked_heatmap_fields(dataset: &Dataset, known: &[String], asked: &[String]) -> Result<Vec<String>, Diagnostic> {
    if let Some(unknown) = asked.iter().find(|field| !known.contains(field)) {
        let there_are = match known.is_empty() {
            true => "it has none".to_owned(),
            false => existing("heatmap fields", unknown, known),
        };
        let message = format!("dataset `{}` has no heatmap field `{unknown}`", dataset.name());
        return Err(Diagnostic::invalid(message).hint(there_are));
    }
    let mut fields: Vec<String> = Vec::new();
    for field in asked {
        if !fields.contains(field) {
            fields.push(field.clone());
        }
    }
    Ok(fields)
}

/// Refuses keys that are none of the dataset's runs of camflow's.
pub(super) fn check_runs<'a>(
    dataset: &Dataset,
    runs: &[StoredRun],
    asked: impl IntoIterator<Item = &'a String>,
) -> Result<(), Diagnostic> {
    let keys: Vec<&str> = runs.iter().map(|run| run.key.as_str()).collect();
    if let Some(unknown) = asked.into_iter().find(|run| !keys.contains(&run.as_str())) {
        let there_are = match keys.is_empty() {
            true => "it has no runs of camflow's; name heatmap fields with `--fields`".to_owned(),
            false => existing("runs", unknown, &keys),
        };
        let message = format!("dataset `{}` has no run `{unknown}` of camflow's", dataset.name());
        return Err(Diagnostic::invalid(message).hint(there_are));
    }
    Ok(())
}
