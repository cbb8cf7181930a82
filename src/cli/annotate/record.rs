//! `--report-file` and `--metrics-file`: what is left of a run for those who were not there.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use anyhow::Context;

use super::Args;
use crate::{
    cli::Exit,
    fiftyone::Shard,
    media::{Durability, check_named, open_regular, shown, write_named},
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
            if let Err(error) = check_named(path) {
                anyhow::bail!("cannot write to `{}`: {error}\nhint: choose another `{flag}`", shown(path));
            }
        }
        Ok(files)
    }

    /// Writes them, each in one step.
    pub fn write(&self, record: &RunRecord, exit: Exit) -> anyhow::Result<()> {
        if let Some(path) = &self.report {
            let text = record.json(exit.ending());
            write_named(path, Durability::Machine, |file| file.write_all(text.as_bytes())).context("the run has no report")?;
        }
        if let Some(path) = &self.metrics {
            // A pipe holds no counts, and would be waited for.
            let mut before = String::new();
            if let Ok(Ok((mut file, _))) = open_regular(path) {
                let _ = file.read_to_string(&mut before);
            }
            let text = metrics(record, exit.ending(), &before);
            write_named(path, Durability::Machine, |file| file.write_all(text.as_bytes())).context("the run has no metrics")?;
        }
        Ok(())
    }
}
