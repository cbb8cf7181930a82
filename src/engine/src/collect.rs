//! Removing heatmap files. This is the only place where it is done; docs/storage.md says under which conditions.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    time::{Duration, Instant},
};

use camflow_fiftyone::{Dataset, Error, References, siblings};
use camflow_pipeline::Cancellation;
use camflow_storage::{Cause, FileName, FolderLease, Grace, Orphan, OutputFolder, Sharing, StorageError, StoredFile};

/// References are read anew after so many files, and when so much time has gone by, or as much as it takes to read them.
const FILES: usize = 20_000;
const PERIOD: Duration = Duration::from_secs(10);

/// What was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// So many files.
    pub count: u64,
    /// Their size together.
    pub bytes: u64,
    /// Files whose grace period is over, in a folder that notes datasets of which nothing is known.
    pub kept: u64,
    /// Files that are no orphans any more.
    pub referenced: Vec<FileName>,
    /// What the system did not let go.
    pub stuck: Vec<(FileName, io::Error)>,
}

/// Removes those of the files to which nothing refers, in a folder that nobody else holds, and tells of each.
pub fn remove_orphans(
    folder: &OutputFolder,
    lease: &FolderLease,
    dataset: &Dataset,
    files: &[StoredFile],
    cancellation: &Cancellation,
    tell: &mut dyn FnMut(&StoredFile),
) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    let mut files = files.iter().peekable();
    while files.peek().is_some() && !cancellation.is_cancelled() {
        let begun = Instant::now();
        // Somebody may have copied a label, or made it again, since the files were found.
        let references = References::read(dataset)?;
        let (read, period) = (Instant::now(), PERIOD.max(begun.elapsed()));
        for file in files.by_ref().take(FILES) {
            lease.check()?;
            if references.contains(&file.name) {
                removed.referenced.push(file.name.clone());
            } else {
                match folder.remove(&file.name) {
                    Ok(true) => {
                        removed.count += 1;
                        removed.bytes += file.size;
                        tell(file);
                    }
                    Ok(false) => {}
                    Err(error) => removed.stuck.push((file.name.clone(), error)),
                }
            }
            if cancellation.is_cancelled() || read.elapsed() > period {
                break;
            }
        }
    }
    Ok(removed)
}

/// Removes what runs have replaced, once its grace period is over, and if nobody holds the folder: otherwise a later run will.
pub(crate) fn remove_replaced(
    path: &Path,
    dataset: &Dataset,
    grace: Grace,
    cancellation: &Cancellation,
) -> Result<Removed, Error> {
    let folder = OutputFolder::open(path)?;
    let is_due = |orphan: &Orphan| orphan.cause == Cause::Replaced && grace.is_over(*orphan, None);
    let num_due = folder.orphans()?.values().filter(|orphan| is_due(orphan)).count() as u64;
    if num_due == 0 {
        return Ok(Removed::default());
    }
    if !unknown_datasets(&folder, dataset)?.is_empty() {
        return Ok(Removed { kept: num_due, ..Removed::default() });
    }
    let what = format!("camflow annotate of dataset `{}`", dataset.name());
    let lease = match FolderLease::acquire(&folder, Sharing::Exclusive, &what) {
        Err(StorageError::Held { .. }) => return Ok(Removed::default()),
        lease => lease?,
    };
    // Others may have done it meanwhile.
    let mut orphans = folder.orphans()?;
    let mut due = Vec::new();
    for (name, orphan) in orphans.iter().filter(|(_, orphan)| is_due(orphan)) {
        due.extend(folder.find(name)?.filter(|file| grace.is_over(*orphan, file.modified)));
    }
    let removed = remove_orphans(&folder, &lease, dataset, &due, cancellation, &mut |_| {})?;
    // What something refers to again is nobody's orphan: it would be looked at in vain every night.
    for name in &removed.referenced {
        orphans.remove(name);
    }
    retain_orphans(&folder, &lease, &mut orphans)?;
    Ok(removed)
}

/// Keeps of what is noted what is still there, so that the next call knows since when.
pub fn retain_orphans(
    folder: &OutputFolder,
    lease: &FolderLease,
    orphans: &mut BTreeMap<FileName, Orphan>,
) -> Result<(), StorageError> {
    let mut gone = Vec::new();
    for name in orphans.keys() {
        if folder.find(name)?.is_none() {
            gone.push(name.clone());
        }
    }
    for name in &gone {
        orphans.remove(name);
    }
    lease.check()?;
    folder.set_orphans(orphans)
}

/// Datasets whose heatmaps are in the folder, and that this database does not have: of another database, perhaps, which cannot be
/// asked what it refers to.
pub fn unknown_datasets(folder: &OutputFolder, dataset: &Dataset) -> Result<Vec<String>, Error> {
    let known = siblings(dataset)?;
    Ok(folder.noted_datasets()?.into_iter().filter(|id| !known.contains(id)).collect())
}
