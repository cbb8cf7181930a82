//! `camflow remove`: takes heatmap fields away again, with their files and what is noted of them.
//!
//! Labels go first, then files, then the fields' declarations, and the record of the run last: whatever cuts this off, the record
//! still says what is to be done, and the same command does the rest.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::anyhow;

use super::{
    Exit, Failure,
    annotate::output_folder,
    clean::remove_file,
    dataset::{DatasetArgs, check_heatmap_fields, check_runs},
    print,
    signals::cancel_on_signals,
};
use crate::{
    fiftyone::{Dataset, FieldContent, References, StoredRun},
    media::shown,
    pipeline::{OutputFile, visit_field_files},
};

/// Take the heatmap fields of a run away again: labels, files, declarations and the record
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Keys of the runs to remove; `camflow runs` lists them
    #[arg(value_name = "RUN", required_unless_present = "fields")]
    runs: Vec<String>,
    /// These heatmap fields instead, whichever runs write them
    #[arg(long, value_delimiter = ',', value_name = "FIELD", conflicts_with = "runs")]
    fields: Vec<String>,
    /// Folder with the heatmaps, where no run says so; default: as for `annotate`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Remove them; without it they are only listed
    #[arg(long)]
    apply: bool,
}

/// What is to go.
struct Plan {
    /// All fields; some may be gone already, but for their files.
    fields: Vec<String>,
    /// Those that the dataset has.
    present: Vec<String>,
    /// Records that say nothing any more then.
    runs: Vec<StoredRun>,
    folders: BTreeSet<PathBuf>,
    /// What the user should know.
    notes: Vec<String>,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Failure> {
    let cancellation = cancel_on_signals()?;
    let (_connected, dataset) = args.dataset.open()?;
    let plan = plan(args, &dataset)?;
    plan.notes.iter().for_each(|note| print(note));
    let lock = match args.apply {
        true => Some(dataset.lock(Some(&plan.fields)).map_err(Failure::from_lock)?),
        false => None,
    };
    let contents = dataset.field_contents(&plan.present).map_err(Failure::aborted)?;
    let verb = if args.apply { "removed" } else { "would remove" };
    if let Some(lock) = &lock {
        dataset.unset_heatmaps(&plan.present, lock, &|| cancellation.is_cancelled()).map_err(Failure::aborted)?;
    }
    if cancellation.is_cancelled() {
        return Ok(stopped());
    }
    contents.iter().for_each(|content| print(&described(content, verb)));

    let references = dataset.references_without(&plan.fields).map_err(Failure::aborted)?;
    let mut files = Files::default();
    for folder in &plan.folders {
        if !folder.exists() {
            print(&format!("there is no folder `{}`; files that were in it are not looked for", shown(folder)));
        }
        for field in &plan.fields {
            let mut visit = |file: OutputFile| {
                if !cancellation.is_cancelled() {
                    files.visit(folder, &file, &references, args.apply);
                }
            };
            visit_field_files(folder, field, &mut visit)
                .map_err(|(path, error)| Failure::aborted(anyhow!("cannot read the folder `{}`: {error}", shown(&path))))?;
        }
    }
    print(&format!("{verb} {} files, {:.1} MiB", files.count, files.bytes as f64 / f64::from(1 << 20)));
    if files.num_shared > 0 {
        print(&format!("{} files stay: other datasets refer to them", files.num_shared));
    }
    if cancellation.is_cancelled() {
        return Ok(stopped());
    }
    if let Some(lock) = &lock {
        let kept = dataset.drop_fields(&plan.present, lock).map_err(Failure::aborted)?;
        let gone: Vec<String> = plan.fields.iter().filter(|field| !kept.contains(field)).cloned().collect();
        dataset.forget_in_app(&gone).map_err(Failure::aborted)?;
        // What could not be removed is still to be found by the record.
        if files.num_stuck == 0 {
            dataset.forget_runs(&plan.runs, &plan.fields).map_err(Failure::aborted)?;
        }
    }
    for run in &plan.runs {
        print(&format!("{verb} run `{}`", run.key));
    }
    if !args.apply {
        print("nothing was changed; run the same command with `--apply` to remove them");
    }
    Ok(if files.num_stuck == 0 { Exit::Done } else { Exit::SomeFailed })
}

fn plan(args: &Args, dataset: &Dataset) -> anyhow::Result<Plan> {
    let runs = dataset.runs()?;
    let mut notes = Vec::new();
    let (fields, runs) = if args.fields.is_empty() {
        check_runs(dataset, &runs, &args.runs)?;
        let (named, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| args.runs.contains(&run.key));
        let mut fields: Vec<String> = Vec::new();
        for field in named.iter().flat_map(|run| &run.fields) {
            match others.iter().find(|run| run.fields.contains(field)) {
                Some(other) => notes.push(format!("field `{field}` stays: run `{}` writes it too", other.key)),
                None if !fields.contains(field) => fields.push(field.clone()),
                None => {}
            }
        }
        (fields, named)
    } else {
        check_heatmap_fields(dataset, &args.fields)?;
        let emptied = |run: &StoredRun| run.fields.iter().all(|field| args.fields.contains(field));
        (args.fields.clone(), runs.into_iter().filter(emptied).collect())
    };
    let mut folders: BTreeSet<PathBuf> = runs.iter().flat_map(|run| run.folders.clone()).collect();
    if args.out.is_some() || folders.is_empty() {
        folders.insert(output_folder(args.out.as_deref(), dataset.name())?);
    }
    // What a command that was cut off has taken out of the schema already may still have files.
    let known = dataset.heatmap_fields();
    let (present, absent): (Vec<String>, Vec<String>) = fields.iter().cloned().partition(|field| known.contains(field));
    notes.extend(absent.iter().map(|field| format!("there is no heatmap field `{field}` any more")));
    Ok(Plan { fields, present, runs, folders, notes })
}

fn stopped() -> Exit {
    print("stopped; run the same command again to go on");
    Exit::Interrupted
}

fn described(content: &FieldContent, verb: &str) -> String {
    let FieldContent { field, num_ours, num_others } = content;
    match num_others {
        0 => format!("{verb} field `{field}`: {num_ours} heatmaps"),
        _ => format!(
            "{verb} {num_ours} heatmaps from field `{field}`, which stays: {num_others} samples have something there that camflow did not make"
        ),
    }
}

#[derive(Default)]
struct Files {
    count: u64,
    bytes: u64,
    num_shared: u64,
    num_stuck: u64,
}

impl Files {
    /// Files of samples that the dataset does not have are for `clean`: other datasets may have made them.
    fn visit(&mut self, folder: &Path, file: &OutputFile, references: &References, apply: bool) {
        if !file.sample.as_deref().is_some_and(|sample| references.has_sample(sample)) {
            return;
        }
        if references.contains(&file.path) {
            self.num_shared += 1;
        } else if apply && !remove_file(folder, &file.path) {
            self.num_stuck += 1;
            print(&format!("cannot remove {}", shown(&file.path)));
        } else {
            self.count += 1;
            self.bytes += file.size;
        }
    }
}
