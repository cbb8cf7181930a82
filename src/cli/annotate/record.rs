//! `--report-file` and `--metrics-file`: what is left of a run for those who were not there.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::Args;
use crate::{
    cli::Exit,
    fiftyone::Shard,
    media::{Durability, create_folders, write_atomically},
    report::{RunRecord, metrics},
};

/// The files to write when the run is over. A dry run writes none: a job's last report must not be lost to a question.
pub struct RecordFiles {
    report: Option<PathBuf>,
    metrics: Option<PathBuf>,
}

impl RecordFiles {
    /// Checks that they can be written, before hours of work.
    pub fn check(args: &Args, shard: Shard) -> anyhow::Result<Self> {
        let wanted = |path: Option<PathBuf>| path.filter(|_| !args.is_dry());
        let files = RecordFiles { report: wanted(args.report_file(shard)), metrics: wanted(args.metrics_file(shard)) };
        for (flag, path) in [("--report-file", &files.report), ("--metrics-file", &files.metrics)] {
            let Some(path) = path else { continue };
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            let writable = create_folders(folder).and_then(|()| tempfile::tempfile_in(folder));
            if let Err(error) = writable {
                anyhow::bail!("cannot write to the folder `{}`: {error}\nhint: choose another `{flag}`", folder.display());
            }
        }
        Ok(files)
    }

    /// Writes them, each in one step.
    pub fn write(&self, record: &RunRecord, exit: Exit) -> anyhow::Result<()> {
        if let Some(path) = &self.report {
            let text = record.json(exit.ending());
            write_atomically(path, Durability::Machine, |file| file.write_all(text.as_bytes()))
                .context("the run has no report")?;
        }
        if let Some(path) = &self.metrics {
            let before = fs::read_to_string(path).unwrap_or_default();
            let text = metrics(record, exit.ending(), &before);
            write_atomically(path, Durability::Machine, |file| file.write_all(text.as_bytes()))
                .context("the run has no metrics")?;
        }
        Ok(())
    }
}
