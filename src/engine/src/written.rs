//! Files that people name: whether they can be written, and writing them in one step.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::aborted;
use camflow_diagnostic::Diagnostic;
use camflow_media::{Durability, check_named, check_named_untouched, shown, write_named};
use camflow_pipeline::Cancellation;

/// Refuses a file that cannot be written, before there is anything to write.
///
/// # Errors
/// The system's reason.
pub fn check_written(flag: &str, path: &Path) -> Result<(), Diagnostic> {
    check_named(path).map_err(|error| unwritable(flag, path, &error))
}

/// The same in a dry run, which leaves no trace.
pub(crate) fn check_would_be_written(flag: &str, path: &Path) -> Result<(), Diagnostic> {
    check_named_untouched(path).map_err(|error| unwritable(flag, path, &error))
}

fn unwritable(flag: &str, path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::invalid(format!("cannot write to `{}`: {error}", shown(path))).hint(format!("choose another `{flag}`"))
}

/// The files of those that are named.
pub(crate) fn present<'a>(files: &'a [(&'a str, Option<PathBuf>)]) -> Vec<(&'a str, &'a Path)> {
    files.iter().filter_map(|(name, path)| Some((*name, path.as_deref()?))).collect()
}

/// Of files to be written, by what they are for, those that are written twice or read as well: whoever wrote last would win.
pub fn shared<'a>(written: &[(&'a str, &'a Path)], read: &[(&'a str, &'a Path)]) -> Vec<(&'a str, &'a str, &'a Path)> {
    // Streams, such as `/dev/stdout`, take what comes.
    let is_same = |one: &Path, other: &Path| {
        let whole = |path: &Path| fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok();
        whole(one) == whole(other) && !fs::metadata(one).is_ok_and(|metadata| !metadata.is_file())
    };
    let mut found = Vec::new();
    for (index, (name, path)) in written.iter().enumerate() {
        let others = written[index + 1..].iter().chain(read);
        found.extend(others.filter(|(_, other)| is_same(path, other)).map(|(other, _)| (*name, *other, *path)));
    }
    found
}

/// Writes a text.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Diagnostic> {
    write_named(path, Durability::Process, |file| file.write_all(text.as_bytes())).map_err(aborted)
}

/// Writes a table, whose rows come with what is read. The file is there when it is complete: not after an error, nor where it was
/// cancelled.
///
/// # Errors
/// Those of the rows, or it cannot be written.
pub(crate) fn write_table(
    path: &Path,
    header: &str,
    cancellation: &Cancellation,
    rows: impl FnOnce(&mut dyn Write) -> Result<(), Diagnostic>,
) -> Result<(), Diagnostic> {
    let mut fault = None;
    let written = write_named(path, Durability::Process, |file| {
        writeln!(file, "{header}")?;
        rows(file).map_err(|error| {
            fault = Some(error);
            io::Error::other("reading ended early")
        })?;
        if cancellation.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    });
    match (fault, written) {
        (Some(fault), _) => Err(fault),
        (None, Err(_)) if cancellation.is_cancelled() => Ok(()),
        (None, written) => written.map_err(aborted),
    }
}
