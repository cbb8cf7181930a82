//! The whole content of a file, and whether the file was still the same when it had been read.

use std::{io::Read, path::Path};

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

/// The whole content of a regular, non-empty file of at most `max_bytes` that nobody changes meanwhile.
pub(super) fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, MediaError> {
    FileContent::read(path, max_bytes)?.steady(path)
}
