//! `camflow clean`: heatmap files that nothing refers to, labels that lead nowhere, fields that hold nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytesize::ByteSize;

use super::{Exit, before_changes, dataset::DatasetArgs, model::heatmap_folder, print, signals::cancel_on_signals};
use crate::{
    diagnostic::Diagnostic,
    engine::{remove_orphans, retain_orphans, unknown_datasets},
    fiftyone::{
        Dataset, LabelSurvey, Lock, References, SampleIds, drop_fields, knows_folder, remove_labels, sample_ids, survey_labels,
        tidy_failures, unset_heatmaps,
    },
    media::shown,
    names::{self, backticked},
    storage::{Cause, FileName, FolderLease, Grace, Orphan, OutputFolder, Sharing, StoredFile},
};

/// Of the labels or the files, more than one in so many at once are hardly what somebody has tidied up.
const LANDSLIDE: u64 = 10;

/// Delete orphaned heatmap files, labels without files, and empty fields
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Folder with the heatmaps; default: as for `annotate`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Remove them; without it they are only listed
    #[arg(long)]
    apply: bool,
    /// How long a file stays that nothing refers to, from when a run replaced it or it was first found so: `1d`, `36h`, `0`
    #[arg(long, value_name = "TIME", default_value_t)]
    grace: Grace,
    /// Remove them even if they are more than a tenth of the labels or files
    #[arg(long)]
    force: bool,
}

/// What is to go from the folder, now or later.
struct Leftovers {
    /// Files with names that camflow gives.
    num_files: u64,
    /// Files that nothing refers to and whose grace period is over.
    due: Vec<StoredFile>,
    /// All that are known of by now, with those whose grace period is not over.
    orphans: BTreeMap<FileName, Orphan>,
    /// Of those that were never finished nobody can say what they were.
    num_unexplained: u64,
}

/// What was, or would be, removed.
#[derive(Default)]
struct Tally {
    /// Of samples that the dataset has.
    num_superseded: u64,
    /// Of samples that it has not.
    num_deleted: u64,
    num_unfinished: u64,
    bytes: u64,
}

/// Runs the subcommand.
pub(super) fn main(args: &Args) -> Result<Exit, Diagnostic> {
    let cancellation = cancel_on_signals()?;
    let (_connected, dataset) = args.dataset.open()?;
    let folder = open_folder(&heatmap_folder(args.out.as_deref(), dataset.name())?, &dataset)?;
    let leases = match args.apply {
        true => Some((
            Lock::acquire(&dataset, None)?,
            FolderLease::acquire(&folder, Sharing::Exclusive, &format!("camflow clean of dataset `{}`", dataset.name()))?,
        )),
        false => None,
    };

    // All is read before anything is changed: what cannot be read is not gone.
    let labels = survey_labels(&dataset, &folder).map_err(before_changes)?;
    let mut leftovers = Leftovers::find(&folder, &dataset, args.grace).map_err(before_changes)?;
    let landslide = landslide(&dataset, &labels, &leftovers);
    if let (Some(landslide), true, false) = (&landslide, args.apply, args.force) {
        return Err(Diagnostic::invalid(format!("{landslide}; nothing was changed")).hint(LANDSLIDE_HINT));
    }

    let ids = sample_ids(&dataset)?;
    let verb = if args.apply { "removed" } else { "would remove" };
    let mut tally = Tally::default();
    let mut tell = |file: &StoredFile| {
        tally.count(file, &ids);
        print(&format!("{verb} {}", shown(&folder.path().join(file.name.relative()))));
    };
    let mut num_stuck = 0;
    // The labels and fields that go, or have gone.
    let (mut broken, mut unused) = (labels.broken.iter().collect::<Vec<_>>(), labels.unused.clone());
    if let Some((lock, lease)) = &leases {
        let removed = remove_orphans(&folder, lease, &dataset, &leftovers.due, &cancellation, &mut tell)?;
        for (name, error) in &removed.stuck {
            print(&format!("cannot remove {}: {error}", shown(&folder.path().join(name.relative()))));
        }
        num_stuck = removed.stuck.len();
        for name in &removed.referenced {
            leftovers.orphans.remove(name);
        }
        folder.remove_unfinished()?;
        retain_orphans(&folder, lease, &mut leftovers.orphans)?;
        if cancellation.is_cancelled() {
            (broken, unused) = (Vec::new(), Vec::new());
        } else {
            let changed = remove_labels(&dataset, &labels.broken, lock)?;
            broken.retain(|label| !changed.contains(label));
            // A cleared field leaves a key with nothing in each sample.
            unset_heatmaps(&dataset, &unused, lock, &|| cancellation.is_cancelled())?;
            let kept = drop_fields(&dataset, &unused, lock)?;
            unused.retain(|field| !kept.contains(field));
            tidy_failures(&dataset, &ids)?;
        }
    } else {
        leftovers.due.iter().for_each(&mut tell);
    }
    for label in &broken {
        let (field, sample) = (names::shown(&label.field), label.sample());
        print(&format!("{verb} `{field}` of sample `{sample}`: no file {}", shown(&label.missing)));
    }
    print(&tally.summary(verb, broken.len(), &unused));
    if !cancellation.is_cancelled() && (broken.len(), unused.len()) != (labels.broken.len(), labels.unused.len()) {
        print(&format!(
            "{} labels and {} fields were changed by others meanwhile, and stay",
            labels.broken.len() - broken.len(),
            labels.unused.len() - unused.len()
        ));
    }
    let num_young = leftovers.orphans.len() - if args.apply { 0 } else { leftovers.due.len() };
    if num_young > 0 {
        print(&format!(
            "{num_young} files to which nothing refers stay until their grace period of {} is over; `--grace 0` takes them now",
            args.grace
        ));
    }
    if labels.num_elsewhere > 0 {
        print(&format!("{} labels name files in other folders, which were not looked at (`--out`)", labels.num_elsewhere));
    }
    if !args.apply && (!tally.is_empty() || num_young > 0 || !labels.broken.is_empty() || !labels.unused.is_empty()) {
        if let Some(landslide) = landslide.filter(|_| !args.force) {
            print(&format!("{landslide}; `--apply` will want `--force`: {LANDSLIDE_HINT}"));
        }
        print("nothing was changed; run the same command with `--apply` to remove them");
    }
    Ok(match (cancellation.is_cancelled(), num_stuck) {
        (true, _) => Exit::Interrupted,
        (false, 0) => Exit::Done,
        (false, _) => Exit::SomeFailed,
    })
}

/// Opens the folder, if it is the one that the dataset's heatmaps are in. It may also hold heatmaps of other datasets, even of other
/// databases; files of those that cannot be asked would look as if nothing referred to them.
fn open_folder(path: &Path, dataset: &Dataset) -> Result<OutputFolder, Diagnostic> {
    let folder = OutputFolder::open(path).map_err(before_changes)?;
    if !folder.noted_datasets().map_err(before_changes)?.contains(&dataset.id()) || !knows_folder(dataset, folder.identity())? {
        let (path, name) = (shown(path), names::shown(dataset.name()));
        return Err(Diagnostic::invalid(format!("`{path}` does not say that it holds heatmaps of dataset `{name}`")).hint(
            "if another disk belongs there, mount it; check `--out`; `camflow annotate` with the same `--out` notes it there",
        ));
    }
    let unknown = unknown_datasets(&folder, dataset).map_err(before_changes)?;
    if !unknown.is_empty() {
        let (unknown, notes) = (backticked(&unknown), path.join(".camflow"));
        let problem = format!("`{}` also holds heatmaps of datasets that this database does not have: {unknown}", shown(path));
        return Err(Diagnostic::invalid(problem).hint(format!(
            "if they were deleted, remove their names from `{}`; if they are in another database, keep a folder for each",
            shown(&notes)
        )));
    }
    Ok(folder)
}

const LANDSLIDE_HINT: &str =
    "if that is right, and no disk is missing and no dataset was restored or deleted by mistake, add `--force`";

/// What is more than a tenth of all.
fn landslide(dataset: &Dataset, labels: &LabelSurvey, leftovers: &Leftovers) -> Option<String> {
    let num_broken = labels.broken.len() as u64;
    if num_broken * LANDSLIDE > labels.num_labels {
        let (name, all) = (names::shown(dataset.name()), labels.num_labels);
        return Some(format!("{num_broken} of {all} heatmap labels of dataset `{name}` have no files, more than a tenth"));
    }
    let Leftovers { num_files, num_unexplained, .. } = leftovers;
    (num_unexplained * LANDSLIDE > *num_files).then(|| {
        format!(
            "nothing refers to {num_unexplained} of {num_files} files in the folder, more than a tenth, and no run replaced them"
        )
    })
}

impl Leftovers {
    fn find(folder: &OutputFolder, dataset: &Dataset, grace: Grace) -> Result<Leftovers, crate::fiftyone::Error> {
        let references = References::read(dataset)?;
        let known = folder.orphans()?;
        let mut found = Leftovers { num_files: 0, due: Vec::new(), orphans: BTreeMap::new(), num_unexplained: 0 };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        folder.visit(None, &mut |file| {
            found.num_files += u64::from(file.name.key().is_some());
            if references.contains(&file.name) {
                return;
            }
            let orphan = known.get(&file.name).copied().unwrap_or(Orphan { since: now, cause: Cause::Found });
            found.num_unexplained += u64::from(orphan.cause == Cause::Found && file.name.key().is_some());
            found.orphans.insert(file.name.clone(), orphan);
            if grace.is_over(orphan, file.modified) {
                found.due.push(file);
            }
        })?;
        Ok(found)
    }
}

impl Tally {
    fn count(&mut self, file: &StoredFile, ids: &SampleIds) {
        self.bytes += file.size;
        match file.name.sample() {
            None => self.num_unfinished += 1,
            Some(sample) if ids.contains(sample) => self.num_superseded += 1,
            Some(_) => self.num_deleted += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.num_superseded + self.num_deleted + self.num_unfinished == 0
    }

    fn summary(&self, verb: &str, num_broken: usize, unused: &[String]) -> String {
        let Tally { num_superseded, num_deleted, num_unfinished, bytes } = self;
        let total = num_superseded + num_deleted + num_unfinished;
        let mut text = format!(
            "{verb} {total} files, {}: {num_superseded} that nothing refers to, {num_deleted} of deleted samples, {num_unfinished} never finished; {num_broken} labels without files",
            ByteSize(*bytes).display().iec(),
        );
        if !unused.is_empty() {
            text.push_str(&format!("; empty fields {}", backticked(unused.iter().map(String::as_str))));
        }
        text
    }
}
