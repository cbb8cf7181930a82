//! The whole content of a file, and whether the file was still the same when it had been read.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::{
    error::MediaError,
    stamp::{Stamp, WatchedFile},
    turns::wait_for_turn,
};

/// What was read of a file.
#[derive(Clone, Debug)]
pub struct FileContent {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Of the file before and after it was read; `None` where it changed meanwhile, so that the bytes may belong to no version of it.
    pub stamp: Option<Stamp>,
}

impl FileContent {
    /// Reads a regular, non-empty file of at most `max_bytes`.
    ///
    /// # Errors
    /// The path is no regular file (nothing is opened then: a named pipe would block), cannot be read, is empty or too large.
    pub fn read(path: &Path, max_bytes: u64) -> Result<FileContent, MediaError> {
        let unreadable = |cause| MediaError::Unreadable { path: path.to_owned(), cause };
        let too_large = |bytes: u64| MediaError::TooLarge {
            path: path.to_owned(),
            what: format!("{bytes} bytes"),
            limit: format!("{max_bytes} bytes"),
        };
        let opened = WatchedFile::open(path).map_err(unreadable)?;
        let mut watched = opened.map_err(|what| MediaError::NotAFile { path: path.to_owned(), what })?;
        let length = watched.size();
        match length {
            // Not read: the files of `/proc` call themselves empty, and some of them block.
            0 => return Err(MediaError::Empty { path: path.to_owned() }),
            length if length > max_bytes => return Err(too_large(length)),
            _ => {}
        }
        wait_for_turn(0, length);
        let mut bytes = Vec::with_capacity(length as usize);
        // One byte more than allowed, since a file may grow while it is read.
        watched.file().take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
        let stamp = watched.unchanged().filter(|stamp| stamp.size() == bytes.len() as u64);
        match bytes.len() as u64 {
            0 => Err(MediaError::Empty { path: path.to_owned() }),
            length if length > max_bytes => Err(too_large(length)),
            _ => Ok(FileContent { bytes, stamp }),
        }
    }

    /// The bytes, if they are a version of the file.
    ///
    /// # Errors
    /// It changed while it was read.
    pub fn steady(self, path: &Path) -> Result<Vec<u8>, MediaError> {
        match self.stamp {
            Some(_) => Ok(self.bytes),
            None => Err(MediaError::Changed { path: path.to_owned() }),
        }
    }
}

/// The text of a file, or of a pipe: half of a list that somebody is saving would look like a whole one.
///
/// # Errors
/// It cannot be read, is no UTF-8, or is a file that changed while it was read.
pub fn read_text(path: &Path) -> io::Result<String> {
    let Ok(mut watched) = WatchedFile::open(path)? else { return fs::read_to_string(path).map(without_mark) };
    let mut text = String::new();
    watched.file().read_to_string(&mut text)?;
    match watched.unchanged() {
        Some(stamp) if stamp.size() == text.len() as u64 => Ok(without_mark(text)),
        _ => Err(io::Error::other("it changed while it was read; try again when it is complete")),
    }
}

/// Without the mark that editors on Windows put before a text.
fn without_mark(mut text: String) -> String {
    const MARK: char = '\u{feff}';
    if text.starts_with(MARK) {
        text.drain(..MARK.len_utf8());
    }
    text
}

/// The whole content of a regular, non-empty file of at most `max_bytes` that nobody changes meanwhile.
pub(super) fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, MediaError> {
    FileContent::read(path, max_bytes)?.steady(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        os::unix::fs::FileExt,
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::Duration,
    };

    use super::*;

    /// Calls `read` while somebody writes the file, with the same bytes, until it refuses.
    #[expect(clippy::unwrap_used, reason = "a helper of tests")]
    fn refused<T>(path: &Path, read: impl Fn() -> Result<T, String>) -> String {
        let (content, has_begun, is_done) = (fs::read(path).unwrap(), AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = fs::File::options().write(true).open(path).unwrap();
                while !is_done.load(Ordering::Relaxed) {
                    file.write_all_at(&content, 0).unwrap();
                    has_begun.store(true, Ordering::Relaxed);
                }
            });
            while !has_begun.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            // Leaves the writer some time.
            let error = (0..1000).find_map(|_| {
                thread::sleep(Duration::from_millis(1));
                read().err()
            });
            is_done.store(true, Ordering::Relaxed);
            error.expect("no reading of a file that is being written goes well")
        })
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_for_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(read_text(&path).unwrap(), "one\ntwo\n");
        assert_eq!(read_file(&path, 8).unwrap(), b"one\ntwo\n");
        let error = refused(&path, || read_text(&path).map_err(|error| error.to_string()));
        assert!(error.contains("changed while it was read"), "{error}");
        let error = refused(&path, || read_file(&path, 8).map_err(|error| error.to_string()));
        assert!(error.contains("ids` changed while it was read"), "{error}");
        // What was read is there for those who know what to do with it.
        assert_eq!(FileContent::read(&path, 8).unwrap().bytes, b"one\ntwo\n");
    }

    #[test]
    fn texts_may_come_from_pipes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        thread::scope(|scope| {
            scope.spawn(|| fs::write(&path, "one\n").unwrap());
            assert_eq!(read_text(&path).unwrap(), "one\n");
        });
        assert!(read_text(folder.path()).is_err());
        fs::write(folder.path().join("empty"), "").unwrap();
        assert_eq!(read_text(&folder.path().join("empty")).unwrap(), "");
    }
}
