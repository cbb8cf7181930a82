//! `camflow clean`: heatmap files that nothing refers to, labels that lead nowhere, fields that hold nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Exit, Failure, annotate::output_folder, dataset::DatasetArgs, print, signals::cancel_on_signals};
use crate::{
    fiftyone::{Dataset, References},
    media::shown,
    names::backticked,
    pipeline::{OutputFile, noted_datasets, remove_empty_folders, visit_files},
};

/// Remove heatmap files that nothing refers to, labels that lead nowhere, and fields that hold nothing
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Args {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Folder with the heatmaps; default: as for `annotate`
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Remove them; without it they are only listed
    #[arg(long)]
    apply: bool,
}

/// What was found in the folder.
#[derive(Default)]
struct Orphans {
    /// Of samples that the dataset has.
    num_superseded: u64,
    /// Of samples that it has not.
    num_deleted: u64,
    num_unfinished: u64,
    bytes: u64,
    num_stuck: u64,
}

/// Runs the subcommand.
pub fn main(args: &Args) -> Result<Exit, Failure> {
    let cancellation = cancel_on_signals()?;
    let (_connected, dataset) = args.dataset.open()?;
    let folder = output_folder(args.out.as_deref(), dataset.name())?;
    check_folder(&folder, &dataset)?;
    // While a run goes on, its files are complete before the database refers to them.
    let _lock = dataset.lock(None).map_err(Failure::from_lock)?;

    let references = dataset.references().map_err(Failure::aborted)?;
    let verb = if args.apply { "removed" } else { "would remove" };
    let mut orphans = Orphans::default();
    let mut look = |file: OutputFile| {
        if !references.contains(&file.path) && !cancellation.is_cancelled() {
            orphans.count(&file, &references);
            if args.apply && !remove_file(&folder, &file.path) {
                orphans.num_stuck += 1;
                print(&format!("cannot remove {}", file.path.display()));
            } else {
                print(&format!("{verb} {}", file.path.display()));
            }
        }
    };
    if folder.exists() {
        visit_files(&folder, &mut look)
            .map_err(|(path, error)| anyhow::Error::from(error).context(format!("cannot read the folder `{}`", path.display())))
            .map_err(Failure::aborted)?;
    }
    for label in &references.broken {
        print(&format!("{verb} `{}` of sample `{}`: no file {}", label.field, label.sample(), shown(&label.missing)));
    }
    if args.apply && !cancellation.is_cancelled() {
        dataset.remove_labels(&references.broken).map_err(Failure::aborted)?;
        dataset.remove_fields(&references.unused).map_err(Failure::aborted)?;
    }
    print(&orphans.summary(verb, &references));
    let is_tidy = orphans.is_empty() && references.broken.is_empty() && references.unused.is_empty();
    if !args.apply && !is_tidy {
        print("nothing was changed; run the same command with `--apply` to remove them");
    }
    Ok(match (cancellation.is_cancelled(), orphans.num_stuck) {
        (true, _) => Exit::Interrupted,
        (false, 0) => Exit::Done,
        (false, _) => Exit::SomeFailed,
    })
}

/// A folder may hold heatmaps of several datasets, even of several databases; files of those that cannot be asked would look
/// as if nothing referred to them.
fn check_folder(folder: &Path, dataset: &Dataset) -> anyhow::Result<()> {
    let noted = noted_datasets(folder).with_context(|| format!("cannot read the folder `{}`", folder.display()))?;
    if folder.exists() && !noted.contains(&dataset.id()) {
        bail!(
            "`{}` does not say that it holds heatmaps of dataset `{}`\nhint: check `--out`; `camflow annotate` with the same `--out` notes it there",
            folder.display(),
            dataset.name()
        );
    }
    let known = dataset.siblings()?;
    let unknown: Vec<String> = noted.into_iter().filter(|id| !known.contains(id)).collect();
    if !unknown.is_empty() {
        bail!(
            "`{}` also holds heatmaps of datasets that this database does not have: {}\nhint: if they were deleted, remove their names from `{}`; if they are in another database, keep a folder for each",
            folder.display(),
            backticked(unknown.iter().map(String::as_str)),
            folder.join(".camflow").display()
        );
    }
    Ok(())
}

/// Whether the file is gone now, with the folders that it leaves empty.
pub(super) fn remove_file(folder: &Path, file: &Path) -> bool {
    let is_gone = std::fs::remove_file(file).map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, |()| true);
    remove_empty_folders(folder, file);
    is_gone
}

impl Orphans {
    fn count(&mut self, file: &OutputFile, references: &References) {
        self.bytes += file.size;
        match &file.sample {
            None => self.num_unfinished += 1,
            Some(sample) if references.has_sample(sample) => self.num_superseded += 1,
            Some(_) => self.num_deleted += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.num_superseded + self.num_deleted + self.num_unfinished == 0
    }

    fn summary(&self, verb: &str, references: &References) -> String {
        let Orphans { num_superseded, num_deleted, num_unfinished, bytes, .. } = self;
        let total = num_superseded + num_deleted + num_unfinished;
        let mut text = format!(
            "{verb} {total} files, {:.1} MiB: {num_superseded} that nothing refers to, {num_deleted} of deleted samples, {num_unfinished} never finished; {} labels without files",
            *bytes as f64 / f64::from(1 << 20),
            references.broken.len()
        );
        if !references.unused.is_empty() {
            text.push_str(&format!("; empty fields {}", backticked(references.unused.iter().map(String::as_str))));
        }
        text
    }
}
