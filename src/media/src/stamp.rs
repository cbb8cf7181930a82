//! Files that somebody may write while they are read: what a file is at one moment, and whether it still is.

use std::{
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, SystemTime},
};

use super::file::open_regular;

/// How long two writes may have the same time: kernels take it from a clock that advances by ticks of up to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// The same where times are whole seconds, or every other one, as FAT has them.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// What a file is at one moment: a file with another stamp may hold something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    size: u64,
    modified: SystemTime,
    identity: Identity,
}

/// What programs cannot set, unlike the time of modification: the time of the last change of anything, inode and device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Identity {
    changed: (i64, i64),
    inode: u64,
    device: u64,
}

impl Stamp {
    /// Of what the path leads to.
    ///
    /// # Errors
    /// The file's metadata cannot be read.
    pub fn of(path: &Path) -> io::Result<Stamp> {
        Stamp::new(&fs::metadata(path)?)
    }

    fn new(metadata: &Metadata) -> io::Result<Stamp> {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            Identity { changed, inode: metadata.ino(), device: metadata.dev() }
        };
        #[cfg(not(unix))]
        let identity = Identity::default();
        Ok(Stamp { size: metadata.len(), modified: metadata.modified()?, identity })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When its content was last written, as far as one knows: programs may set it.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// How long it takes from `now` until a write must give the file another time. `None`: it would already. (git calls such
    /// files "racily clean".) A time in the future counts as old: a write would not give the file that one again.
    fn unsettled(&self, now: SystemTime) -> Option<Duration> {
        let since_epoch = self.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let tick = if since_epoch.subsec_nanos() == 0 { COARSE_TICK } else { TICK };
        match now.duration_since(self.modified) {
            Ok(age) => tick.checked_sub(age).filter(|wait| !wait.is_zero()),
            Err(early) => Some(early.duration()).filter(|early| *early < tick).map(|early| early + tick),
        }
    }
}

/// A regular file that is open for reading, and knows whether it is still what it was when it was opened.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    file: File,
    before: Stamp,
}

impl WatchedFile {
    /// Opens a file as [`open_regular`] does. One that was written a moment ago is waited for, until no further write could go
    /// unnoticed.
    ///
    /// # Errors
    /// As for [`open_regular`].
    pub fn open(path: &Path) -> io::Result<Result<WatchedFile, &'static str>> {
        let file = match open_regular(path)? {
            Ok((file, _)) => file,
            Err(what) => return Ok(Err(what)),
        };
        let before = Stamp::new(&file.metadata()?)?;
        before.unsettled(SystemTime::now()).into_iter().for_each(sleep);
        Ok(Ok(WatchedFile { path: path.to_owned(), file, before }))
    }

    /// Bytes, when it was opened.
    pub fn size(&self) -> u64 {
        self.before.size
    }

    /// To read from.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The file's stamp, if it is the same as when it was opened and the path still leads to this file.
    pub fn unchanged(&self) -> Option<Stamp> {
        let is_same =
            |metadata: io::Result<Metadata>| metadata.and_then(|now| Stamp::new(&now)).is_ok_and(|now| now == self.before);
        (is_same(self.file.metadata()) && is_same(fs::metadata(&self.path))).then_some(self.before)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn open(path: &Path) -> WatchedFile {
        WatchedFile::open(path).unwrap().unwrap()
    }

    /// A file that a writer may change without changing its size, as `cp` over it does.
    fn changed_by(change: impl FnOnce(&Path)) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "four").unwrap();
        let watched = open(&path);
        assert_eq!(watched.unchanged(), Some(Stamp::of(&path).unwrap()));
        change(&path);
        watched.unchanged().is_none()
    }

    #[test]
    fn a_file_that_is_written_replaced_or_removed_has_changed() {
        assert!(!changed_by(|path| drop(fs::read(path).unwrap())));
        assert!(changed_by(|path| fs::write(path, "five").unwrap()), "in place, with the same size");
        assert!(changed_by(|path| File::options().append(true).open(path).unwrap().write_all(b"!").unwrap()));
        assert!(changed_by(|path| File::options().write(true).open(path).unwrap().set_len(3).unwrap()));
        assert!(changed_by(|path| fs::remove_file(path).unwrap()));
        assert!(changed_by(|path| {
            fs::write(path.with_extension("new"), "five").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }));
    }

    #[cfg(unix)]
    #[test]
    fn a_time_that_was_set_back_hides_nothing() {
        let rewritten = |path: &Path| {
            let before = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, "five").unwrap();
            File::options().write(true).open(path).unwrap().set_modified(before).unwrap();
            assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), before);
        };
        assert!(changed_by(rewritten));
        assert!(changed_by(|path| {
            let other = path.with_extension("new");
            fs::write(&other, "five").unwrap();
            let before = fs::metadata(path).unwrap().modified().unwrap();
            File::options().write(true).open(&other).unwrap().set_modified(before).unwrap();
            fs::rename(other, path).unwrap();
        }));
    }

    #[test]
    fn what_was_written_a_moment_ago_is_waited_for() {
        let at = |seconds: u64, nanos: u32| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        let wait =
            |modified: SystemTime, now: SystemTime| Stamp { size: 1, modified, identity: Identity::default() }.unsettled(now);
        let ms = Duration::from_millis;
        assert_eq!(wait(at(100, 500_000_001), at(100, 505_000_001)), Some(ms(15)));
        assert_eq!(wait(at(100, 500_000_001), at(100, 520_000_001)), None);
        // Whole seconds may be all that the file system has.
        assert_eq!(wait(at(100, 0), at(100, 500_000_000)), Some(ms(1500)));
        assert_eq!(wait(at(100, 0), at(102, 0)), None);
        // Another clock's, a little ahead; a camera's, years ahead.
        assert_eq!(wait(at(100, 5_000_001), at(100, 1)), Some(ms(25)));
        assert_eq!(wait(at(100_000_000, 1), at(100, 1)), None);

        // After opening, a write shows even if it comes at once.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for round in 0..20 {
            fs::write(&path, "four").unwrap();
            let watched = open(&path);
            fs::write(&path, "five").unwrap();
            assert_ne!(fs::metadata(&path).unwrap().modified().unwrap(), watched.before.modified, "round {round}");
        }
    }
}
