//! `--report-file` and `--metrics-file`: what is left of a run for those who were not there.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::Args;
use crate::{
    cli::{Exit, report::check_written},
    fiftyone::Shard,
    media::{Durability, open_regular, write_named},
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
            check_written(flag, path)?;
        }
        Ok(files)
    }

    /// Writes them, each in one step.
    pub fn write(&self, record: &RunRecord, exit: Exit) -> anyhow::Result<()> {
        if let Some(path) = &self.report {
            let text = record.json(exit.ending(), &held(path));
            write_named(path, Durability::Machine, |file| file.write_all(text.as_bytes())).context("the run has no report")?;
        }
        if let Some(path) = &self.metrics {
            let text = metrics(record, exit.ending(), &held(path));
            write_named(path, Durability::Machine, |file| file.write_all(text.as_bytes())).context("the run has no metrics")?;
        }
        Ok(())
    }
}

/// What a file holds; nothing if it is none. A pipe would be waited for, and what is very long is a log, through `/dev/stdout`.
fn held(path: &Path) -> String {
    const LONG: u64 = 16 << 20;
    let mut text = String::new();
    if let Ok(Ok((mut file, size))) = open_regular(path)
        && size <= LONG
    {
        let _ = file.read_to_string(&mut text);
    }
    text
}
