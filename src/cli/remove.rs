//! `camflow remove`: takes heatmap fields away again, with their files and what is noted of them.
//!
//! Labels go first, then the fields' declarations, and the record of the run last: whatever cuts this off, the record still says what
//! is to be done, and the same command does the rest. Files go after their grace period.

use std::{collections::BTreeSet, path::PathBuf};

use bytesize::ByteSize;

use super::{
    Exit, before_changes,
    dataset::{DatasetArgs, asked_heatmap_fields, check_runs},
    model::heatmap_folder,
    print,
    signals::cancel_on_signals,
};
use crate::{
    diagnostic::Diagnostic,
    engine::remove_orphans,
    fiftyone::{
        Dataset, FieldContent, Lock, References, StoredRun, drop_fields, field_contents, forget_in_app, forget_runs,
        forget_views, knows_folder, sample_ids, shown_in, stored_runs, unset_heatmaps,
    },
    media::shown,
    names,
    pipeline::Cancellation,
    storage::{FolderLease, Grace, Journal, OutputFolder, Sharing, StorageError, StoredFile},
};

/// Delete a run: labels, files, fields and run record
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Keys of the runs to remove; `camflow runs` lists them
    #[arg(value_name = "RUN", required_unless_present = "fields")]
    runs: Vec<String>,
    /// These fields of heatmaps or predictions instead, whichever runs write them
    #[arg(long, value_delimiter = ',', value_name = "FIELD", conflicts_with = "runs")]
    fields: Vec<String>,
    /// Folder with the heatmaps, where no run says so; default: as for `annotate`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Remove them; without it they are only listed
    #[arg(long)]
    apply: bool,
    /// How long files stay, for `clean` or a later run to remove: `1d`, `36h`, `0`
    #[arg(long, value_name = "TIME", default_value_t)]
    grace: Grace,
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
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    let (_connected, dataset) = args.dataset.open()?;
    let plan = plan(args, &dataset)?;
    plan.notes.iter().for_each(|note| print(note));
    let lock = match args.apply {
        true => Some(Lock::acquire(&dataset, Some(&plan.fields))?),
        false => None,
    };
    let folders = open_folders(&plan, &dataset, args.apply)?;
    let contents = field_contents(&dataset, &plan.present)?;
    let verb = if args.apply { "removed" } else { "would remove" };
    if let Some(lock) = &lock {
        unset_heatmaps(&dataset, &plan.present, lock, &|| cancellation.is_cancelled())?;
        // What FiftyOne keeps to show them refers to files, too.
        forget_views(&dataset, &plan.fields)?;
    }
    if cancellation.is_cancelled() {
        return Ok(stopped());
    }
    let (predictions, localized) = (dataset.prediction_fields(), dataset.localized_fields());
    let what = |field: &String| match () {
        () if predictions.contains(field) => "predictions",
        () if localized.contains(field) => "labels",
        () => "heatmaps",
    };
    contents.iter().for_each(|content| print(&described(content, verb, what(&content.field))));

    let num_stuck = match args.apply {
        true => release_files(&plan, &dataset, &folders, args.grace, &cancellation)?,
        false => list_files(&plan, &dataset, &folders)?,
    };
    if cancellation.is_cancelled() {
        return Ok(stopped());
    }
    if let Some(lock) = &lock {
        let kept = drop_fields(&dataset, &plan.present, lock)?;
        let gone: Vec<String> = plan.fields.iter().filter(|field| !kept.contains(field)).cloned().collect();
        forget_in_app(&dataset, &gone)?;
        drop_shown(&plan, &dataset, &gone, lock)?;
        let is_emptied = |field: &String| contents.iter().any(|content| content.field == *field && content.num_others == 0);
        for field in kept.iter().filter(|field| is_emptied(field)) {
            print(&format!("field `{}` stays: somebody put something into it meanwhile", names::shown(field)));
        }
    }
    // What could not be removed is still to be found by the record.
    match (&lock, num_stuck) {
        (Some(_), 0) => forget_runs(&dataset, &plan.runs, &plan.fields)?,
        (Some(_), _) if !plan.runs.is_empty() => {
            print("the records of the runs stay, as files do; run the same command again when these can be removed");
            return Ok(Exit::SomeFailed);
        }
        _ => {}
    }
    for run in &plan.runs {
        print(&format!("{verb} run `{}`", names::shown(&run.key)));
    }
    if !args.apply {
        print("nothing was changed; run the same command with `--apply` to remove them");
    }
    Ok(if num_stuck == 0 { Exit::Done } else { Exit::SomeFailed })
}

fn plan(args: &Args, dataset: &Dataset) -> Result<Plan, Diagnostic> {
    let runs = stored_runs(dataset)?;
    let mut notes = Vec::new();
    let (fields, runs) = if args.fields.is_empty() {
        check_runs(dataset, &runs, &args.runs)?;
        let (named, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(|run| args.runs.contains(&run.key));
        let mut fields: Vec<String> = Vec::new();
        for field in named.iter().flat_map(|run| &run.fields) {
            match others.iter().find(|run| run.fields.contains(field)) {
                Some(other) => {
                    notes.push(format!(
                        "field `{}` stays: run `{}` writes it too",
                        names::shown(field),
                        names::shown(&other.key)
                    ));
                }
                None if !fields.contains(field) => fields.push(field.clone()),
                None => {}
            }
        }
        (fields, named)
    } else {
        let asked = asked_heatmap_fields(dataset, &removable(dataset), &args.fields)?;
        let emptied = |run: &StoredRun| run.fields.iter().all(|field| asked.contains(field));
        let emptied = runs.into_iter().filter(emptied).collect();
        (asked, emptied)
    };
    let mut folders: BTreeSet<PathBuf> = runs.iter().flat_map(|run| run.folders.clone()).collect();
    if args.out.is_some() || folders.is_empty() {
        folders.insert(heatmap_folder(args.out.as_deref(), dataset.name())?);
    }
    // What a command that was cut off has taken out of the schema already may still have files.
    let known = removable(dataset);
    let (present, absent): (Vec<String>, Vec<String>) = fields.iter().cloned().partition(|field| known.contains(field));
    notes.extend(absent.iter().map(|field| format!("there is no heatmap field `{}` any more", names::shown(field))));
    Ok(Plan { fields, present, runs, folders, notes })
}

/// The fields with what camflow wrote: heatmaps, what was made of them, and predictions.
fn removable(dataset: &Dataset) -> Vec<String> {
    [dataset.written_fields(), dataset.localized_fields(), dataset.prediction_fields()].concat()
}

/// Drops the heatmap fields in which views showed heatmaps of detections, if they hold nothing and no other run writes them.
fn drop_shown(plan: &Plan, dataset: &Dataset, gone: &[String], lock: &Lock) -> Result<(), Diagnostic> {
    let known = dataset.heatmap_fields();
    let runs = stored_runs(dataset)?;
    let is_written = |field: &str| {
        let others = runs.iter().filter(|run| plan.runs.iter().all(|goes| goes.key != run.key));
        others.flat_map(|run| &run.fields).any(|other| other == field)
    };
    let shown: Vec<String> = gone.iter().filter_map(|field| shown_in(field)).map(ToOwned::to_owned).collect();
    let shown: Vec<String> = shown.into_iter().filter(|field| known.contains(field) && !is_written(field)).collect();
    let kept = drop_fields(dataset, &shown, lock)?;
    let dropped: Vec<String> = shown.into_iter().filter(|field| !kept.contains(field)).collect();
    Ok(forget_in_app(dataset, &dropped)?)
}

fn stopped() -> Exit {
    print("stopped; run the same command again to go on");
    Exit::Interrupted
}

fn described(content: &FieldContent, verb: &str, what: &str) -> String {
    let FieldContent { field, num_ours, num_others } = content;
    let field = names::shown(field);
    match num_others {
        0 => format!("{verb} field `{field}`: {num_ours} {what}"),
        _ => format!(
            "{verb} {num_ours} {what} from field `{field}`, which stays: {num_others} samples have something there that camflow did not make"
        ),
    }
}

/// An output folder, held if files are to go from it.
struct Held {
    folder: OutputFolder,
    lease: Option<FolderLease>,
}

/// The folders that are what the dataset's heatmaps were written to. Files in others are left alone.
fn open_folders(plan: &Plan, dataset: &Dataset, apply: bool) -> Result<Vec<Held>, Diagnostic> {
    let what = format!("camflow remove of dataset `{}`", dataset.name());
    let mut folders = Vec::new();
    for path in &plan.folders {
        let folder = match OutputFolder::open_if_any(path) {
            Ok(Some(folder)) if knows_folder(dataset, folder.identity())? => folder,
            Ok(_) => {
                print(&format!(
                    "`{}` is not the folder that the heatmaps were written to; files that were in it are not looked for",
                    shown(path)
                ));
                continue;
            }
            Err(StorageError::NoFolder { .. }) => {
                print(&format!("there is no folder `{}`; files that were in it are not looked for", shown(path)));
                continue;
            }
            Err(error) => return Err(before_changes(error)),
        };
        let lease = match apply {
            true => Some(FolderLease::acquire(&folder, Sharing::Exclusive, &what)?),
            false => None,
        };
        folders.push(Held { folder, lease });
    }
    Ok(folders)
}

/// The files of the fields, of samples that the dataset has: those of others are for `clean`, as other datasets may have made them.
fn files_of(plan: &Plan, dataset: &Dataset, folder: &OutputFolder) -> Result<Vec<StoredFile>, Diagnostic> {
    let ids = sample_ids(dataset)?;
    let mut files = Vec::new();
    for field in &plan.fields {
        let mut visit = |file: StoredFile| {
            if file.name.sample().is_some_and(|sample| ids.contains(sample)) {
                files.push(file);
            }
        };
        folder.visit(Some(field), &mut visit)?;
    }
    Ok(files)
}

fn list_files(plan: &Plan, dataset: &Dataset, folders: &[Held]) -> Result<usize, Diagnostic> {
    let references = References::without(dataset, &plan.fields)?;
    let (mut count, mut bytes, mut num_shared) = (0, 0, 0);
    for Held { folder, .. } in folders {
        for file in files_of(plan, dataset, folder)? {
            if references.contains(&file.name) {
                num_shared += 1;
            } else {
                count += 1;
                bytes += file.size;
            }
        }
    }
    print(&format!("would remove {count} files, {}", ByteSize(bytes).display().iec()));
    tell_shared(num_shared);
    Ok(0)
}

/// Removes the files, or notes since when nothing refers to them; returns how many the system did not let go.
fn release_files(
    plan: &Plan,
    dataset: &Dataset,
    folders: &[Held],
    grace: Grace,
    cancellation: &Cancellation,
) -> Result<usize, Diagnostic> {
    let references = References::read(dataset)?;
    let (mut num_shared, mut num_stuck) = (0, 0);
    for Held { folder, lease } in folders {
        let Some(lease) = lease else { continue };
        let (shared, files): (Vec<_>, Vec<_>) =
            files_of(plan, dataset, folder)?.into_iter().partition(|file| references.contains(&file.name));
        num_shared += shared.len();
        let bytes = ByteSize(files.iter().map(|file| file.size).sum()).display().iec();
        if !grace.is_none() {
            let paths: Vec<PathBuf> = files.iter().map(|file| folder.path().join(file.name.relative())).collect();
            Journal::new(folder.path()).note(paths.iter().map(PathBuf::as_path));
            print(&format!(
                "{} files, {bytes}, stay in `{}` until their grace period of {grace} is over; `camflow clean --apply` or a later run removes them then, `--grace 0` now",
                files.len(),
                shown(folder.path())
            ));
            continue;
        }
        let removed = remove_orphans(folder, lease, dataset, &files, cancellation, &mut |_| {})?;
        for (name, error) in &removed.stuck {
            print(&format!("cannot remove {}: {error}", shown(&folder.path().join(name.relative()))));
        }
        num_stuck += removed.stuck.len();
        print(&format!("removed {} files, {}", removed.count, ByteSize(removed.bytes).display().iec()));
    }
    tell_shared(num_shared);
    Ok(num_stuck)
}

fn tell_shared(num_shared: usize) {
    if num_shared > 0 {
        print(&format!("{num_shared} files stay: other labels refer to them"));
    }
}
