//! What is left over in an output folder, and since when: the grace period of a file counts from there.
//!
//! The journal holds hints. What it forgets, `clean` finds again; what it says is never enough to remove a file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use jiff::{Span, SpanRelativeTo, Unit};

use super::{FileName, OutputFolder, StorageError, folder::OWN};
use camflow_media::{Durability, create_folders, write_atomically};

pub(super) const ORPHANS: &str = "orphans";

/// Why nothing refers to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A run replaced it, or wrote it for a sample that took nothing.
    Replaced,
    /// Somebody found it so.
    Found,
}

/// A file that nothing referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Seconds since 1970.
    pub since: u64,
    /// Why.
    pub cause: Cause,
}

/// How long a file stays that nothing refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(Duration);

impl Default for Grace {
    fn default() -> Self {
        Grace(Duration::from_secs(24 * 60 * 60))
    }
}

impl Grace {
    /// Whether it is over for an orphan. Whoever wrote the file again meanwhile may be about to refer to it.
    pub fn is_over(self, orphan: Orphan, modified: Option<SystemTime>) -> bool {
        let now = seconds(SystemTime::now());
        // A time to come says only that some clock was wrong.
        let modified = modified.map(seconds).filter(|modified| *modified <= now).unwrap_or_default();
        now.saturating_sub(orphan.since.max(modified)) >= self.0.as_secs()
    }

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Grace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Grace(Duration::ZERO));
        }
        let wrong = |_| "it is a time such as `1d`, `36h` or `90min`, or `0` for none".to_owned();
        let span: Span = text.parse().map_err(wrong)?;
        let seconds = span.total((Unit::Second, SpanRelativeTo::days_are_24_hours())).map_err(wrong)?;
        Duration::try_from_secs_f64(seconds).map(Grace).map_err(|_| "it cannot be negative".to_owned())
    }
}

impl std::fmt::Display for Grace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_secs() {
            0 => f.write_str("0"),
            seconds if seconds % 86_400 == 0 => write!(f, "{}d", seconds / 86_400),
            seconds if seconds % 3600 == 0 => write!(f, "{}h", seconds / 3600),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

/// Notes what a run leaves behind, while it holds the folder.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    path: PathBuf,
    file: Option<File>,
}

impl Journal {
    /// For one run; nothing is written before there is something to note.
    pub fn new(folder: &Path) -> Journal {
        let path = folder.join(OWN).join(ORPHANS).join(format!("{}.log", uuid::Uuid::new_v4().simple()));
        Journal { folder: folder.to_owned(), path, file: None }
    }

    /// Notes files to which nothing refers any more, from now on. Those that are not in the folder, or have no name that camflow
    /// gives, are nobody's to remove.
    pub fn note<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let folder = &self.folder;
        let is_here = |file: &&Path| file.ancestors().nth(3) == Some(folder);
        let names: Vec<FileName> = files.filter(is_here).filter_map(FileName::of_path).collect();
        if names.is_empty() {
            return;
        }
        // A note that is lost leaves a file longer than it need be.
        let _ = self.append(&names);
    }

    fn append(&mut self, names: &[FileName]) -> io::Result<()> {
        if self.file.is_none() {
            create_folders(self.path.parent().unwrap_or(&self.folder))?;
            self.file = Some(OpenOptions::new().append(true).create(true).open(&self.path)?);
        }
        let orphan = Orphan { since: seconds(SystemTime::now()), cause: Cause::Replaced };
        let lines: String = names.iter().map(|name| line(name, orphan)).collect();
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(lines.as_bytes()))
    }
}

impl OutputFolder {
    /// What is known to be left over; of a name that is noted several times the last note counts.
    ///
    /// # Errors
    /// The notes cannot be read.
    pub fn orphans(&self) -> Result<BTreeMap<FileName, Orphan>, StorageError> {
        let mut orphans = BTreeMap::new();
        for path in self.logs()? {
            let text = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(StorageError::io("read", &path))?,
            };
            for (name, orphan) in String::from_utf8_lossy(&text).lines().filter_map(parse) {
                let known = orphans.entry(name).or_insert(orphan);
                if orphan.since >= known.since {
                    *known = orphan;
                }
            }
        }
        Ok(orphans)
    }

    /// Replaces all notes. Only with an exclusive lease: others would lose theirs.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn set_orphans(&self, orphans: &BTreeMap<FileName, Orphan>) -> Result<(), StorageError> {
        let old = self.logs()?;
        if !orphans.is_empty() {
            let path = Journal::new(self.path()).path;
            write_atomically(&path, Durability::Machine, |writer| {
                orphans.iter().try_for_each(|(name, orphan)| writer.write_all(line(name, *orphan).as_bytes()))
            })
            .map_err(|error| StorageError::unwritable(error, path))?;
        }
        for log in old {
            fs::remove_file(&log).map_err(StorageError::io("write to", &log))?;
        }
        Ok(())
    }

    fn logs(&self) -> Result<Vec<PathBuf>, StorageError> {
        let folder = self.path().join(OWN).join(ORPHANS);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(StorageError::io("read", &folder))?,
        };
        let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
        Ok(entries.into_iter().map(|entry| entry.path()).filter(is_log).collect())
    }
}

fn line(name: &FileName, orphan: Orphan) -> String {
    let cause = match orphan.cause {
        Cause::Replaced => "replaced",
        Cause::Found => "found",
    };
    format!("{} {cause} {name}\n", orphan.since)
}

/// `None` for a line that was cut off.
fn parse(line: &str) -> Option<(FileName, Orphan)> {
    let mut parts = line.splitn(3, ' ');
    let (since, cause, name) = (parts.next()?, parts.next()?, parts.next()?);
    let cause = match cause {
        "replaced" => Cause::Replaced,
        "found" => Cause::Found,
        _ => return None,
    };
    let mut parts = name.rsplitn(3, '/');
    let (file, bucket, field) = (parts.next()?, parts.next()?, parts.next()?);
    Some((FileName::new(field, bucket, file)?, Orphan { since: since.parse().ok()?, cause }))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_periods_are_times() {
        for (text, seconds) in
            [("0", 0), ("1d", 86_400), ("36h", 129_600), ("90min", 5400), ("1 day 2 hours", 93_600), ("1w", 604_800)]
        {
            assert_eq!(text.parse::<Grace>().unwrap(), Grace(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "1", "-1d", "soon", "1 month"] {
            assert!(text.parse::<Grace>().is_err(), "{text}");
        }
        assert_eq!(
            [Grace::default(), "36h".parse().unwrap(), "0".parse().unwrap()].map(|grace| grace.to_string()),
            ["1d", "36h", "0"]
        );
    }

    #[test]
    fn a_file_is_young_from_when_it_was_left_or_written_again() {
        let now = SystemTime::now();
        let ago = |hours: u64| now - Duration::from_secs(hours * 3600);
        let orphan = |hours| Orphan { since: seconds(ago(hours)), cause: Cause::Found };
        let day = Grace::default();
        assert!(day.is_over(orphan(25), Some(ago(100))));
        assert!(!day.is_over(orphan(23), Some(ago(100))));
        assert!(!day.is_over(orphan(100), Some(ago(1))), "it was written again");
        assert!(day.is_over(orphan(25), Some(now + Duration::from_secs(3600))));
        assert!(!day.is_over(Orphan { since: seconds(now) + 3600, cause: Cause::Found }, None));
        assert!(Grace(Duration::ZERO).is_over(orphan(0), Some(now)));
    }

    #[test]
    fn what_runs_leave_is_remembered() {
        let place = tempfile::tempdir().unwrap();
        let folder = OutputFolder::create(place.path()).unwrap();
        assert!(folder.orphans().unwrap().is_empty());
        let ours = place.path().join("a field/56/6b03690476852489c1dd7256.287a0350.png");
        let others = ["/elsewhere/f/56/6b03690476852489c1dd7256.287a0350.png".into(), place.path().join("a field/56/mine.png")];
        for _ in 0..2 {
            let mut journal = Journal::new(place.path());
            journal.note(others.iter().map(PathBuf::as_path));
            assert!(journal.file.is_none(), "there was nothing to note");
            journal.note([ours.as_path()].into_iter());
        }
        let mut orphans = folder.orphans().unwrap();
        let name = FileName::of_path(&ours).unwrap();
        assert_eq!(orphans.keys().collect::<Vec<_>>(), [&name]);
        assert_eq!(orphans[&name].cause, Cause::Replaced);
        assert_eq!(folder.logs().unwrap().len(), 2);
        orphans.insert(name.clone(), Orphan { since: 7, cause: Cause::Found });
        folder.set_orphans(&orphans).unwrap();
        assert_eq!(folder.logs().unwrap().len(), 1);
        assert_eq!(folder.orphans().unwrap(), orphans);
        // A note that was cut off.
        fs::write(place.path().join(".camflow/orphans/x.log"), "9 found a field/56/6b0369047685").unwrap();
        assert_eq!(folder.orphans().unwrap(), orphans);
        folder.set_orphans(&BTreeMap::new()).unwrap();
        assert!(folder.logs().unwrap().is_empty());
    }
}
