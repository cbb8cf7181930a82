//! First phase: the `.pt2` file as a map from entry name to bytes, and the tensors in it (`stored.rs`).
//!
//! The file is read once, as one piece, into memory of our own, and never looked at again: what is digested is what is run,
//! whatever becomes of the file. (A mapping of the file would show what others write to it, and a file that is cut off would end
//! the process.) Weights lie in that memory, so that there is one copy of them.
//! Source of the layout: `torch/export/pt2_archive` of torch 2.11.

mod stored;

use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::MmapMut;

use super::{
    ProgramError,
    file_kind::{by_entries, by_start},
    memory::obtainable_bytes,
    schema::VersionHeader,
};
use camflow_media::{WatchedFile, shown};
pub(super) use stored::StoredTensor;

/// The schema major version that this reader knows.
pub(super) const SCHEMA_MAJOR: i64 = 8;

/// How an entry begins, and with the first one the file.
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";

/// The largest JSON that is parsed: the graph of a large network has some megabytes, and each may take ten in memory.
const MAX_JSON_BYTES: usize = 128 << 20;

/// An opened `.pt2` file.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    content: Arc<MmapMut>,
    digest: blake3::Hash,
    /// Entry name below the root folder -> (offset, length) in the file.
    entries: BTreeMap<String, (usize, usize)>,
    /// The program's name, usually `model`.
    program: String,
    /// Version of torch that wrote it.
    pub torch_version: String,
}

impl Archive {
    /// Reads a file, finds its entries and checks versions.
    ///
    /// # Errors
    /// The file cannot be read or changes meanwhile, is no zip archive, is truncated, has entries that are compressed, lie over each other or are named
    /// to be unpacked elsewhere, or was written by another version of the format.
    pub(super) fn open(path: &Path) -> Result<Archive, ProgramError> {
        let unreadable = |source| ProgramError::Unreadable { path: path.to_owned(), source };
        let malformed = |what: String| ProgramError::Malformed { path: path.to_owned(), what };
        let opened = WatchedFile::open(path).map_err(unreadable)?;
        let mut file = opened.map_err(|what| malformed(format!("it is {what}, not a file")))?;
        let size = file.size();
        if size == 0 {
            return Err(malformed("it is empty".into()));
        }
        // Before memory is taken for a film that bears the name of a model, or for a file that is nothing but a hole.
        let mut start = [0; 64];
        let wanted = start.len().min(usize::try_from(size).unwrap_or(usize::MAX));
        file.file().read_exact(&mut start[..wanted]).map_err(unreadable)?;
        let start = &start[..wanted];
        if !start.starts_with(LOCAL_HEADER) {
            return Err(match by_start(start) {
                Some((what, hint)) => ProgramError::OtherKind { path: path.to_owned(), what, hint },
                None => malformed("it is not a zip archive (it does not begin like one)".into()),
            });
        }
        if let Some(free) = obtainable_bytes().filter(|free| *free < size) {
            let [size, free] = [size, free].map(|bytes| bytes >> 20);
            return Err(malformed(format!("its {size} MiB are more than the {free} MiB of memory that are free")));
        }
        let changed = || ProgramError::Changed { path: path.to_owned() };
        let length = usize::try_from(size).map_err(|_| malformed("it is larger than any memory".into()))?;
        // Whole pages, as libtorch's kernels like it, which the system takes back when the last tensor is gone.
        let mut content = MmapMut::map_anon(length).map_err(unreadable)?;
        content[..wanted].copy_from_slice(start);
        file.file().read_exact(&mut content[wanted..]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(),
            _ => unreadable(error),
        })?;
        if file.unchanged().is_none() {
            return Err(changed());
        }
        Self::from_content(path, content)
    }

    /// An archive whose bytes are in memory; the path is for errors.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub(super) fn from_content(path: &Path, content: MmapMut) -> Result<Archive, ProgramError> {
        let malformed = |what: String| ProgramError::Malformed { path: path.to_owned(), what };
        // Nothing comes before the archive. Asked to find out, the zip crate may take the directory of the archive that torch keeps
        // inside for the example inputs, and call the file damaged.
        let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
        let mut zip = zip::ZipArchive::with_config(config, Cursor::new(&content[..])).map_err(|source| {
            malformed(if content.starts_with(LOCAL_HEADER) {
                "it begins like a zip archive, but its end is missing: it was probably cut off".to_owned()
            } else {
                format!("it is not a zip archive ({source})")
            })
        })?;
        let below = |name: &str| name.split_once('/').map_or(name, |(_, below)| below).to_owned();
        let names: BTreeMap<String, ()> = zip.file_names().flatten().map(|name| (below(&name), ())).collect();
        if let Some((what, hint)) = by_entries(&names) {
            return Err(ProgramError::OtherKind { path: path.to_owned(), what, hint });
        }
        let mut entries = BTreeMap::new();
        let mut spans = Vec::new();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(|source| malformed(format!("entry {index} is damaged: {source}")))?;
            let name =
                entry.name().map_err(|source| malformed(format!("the name of entry {index} is damaged: {source}")))?.into_owned();
            let size = usize::try_from(entry.size()).ok();
            let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
            let span = start.zip(size).filter(|(start, size)| start.checked_add(*size).is_some_and(|end| end <= content.len()));
            let Some((start, size)) = span else {
                return Err(malformed(format!("entry `{}` reaches beyond the end of the file", shown(Path::new(&name)))));
            };
            // Nothing is ever unpacked, so such a name can do no harm here; whoever wrote it meant some.
            if name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..") {
                return Err(malformed(format!("the name of entry `{}` leads out of the archive", shown(Path::new(&name)))));
            }
            if entry.compression() != zip::CompressionMethod::Stored {
                let name = shown(Path::new(&name)).to_string();
                return Err(malformed(format!("entry `{name}` is compressed; torch.export never does that")));
            }
            // The first component is the file's stem at the time it was saved.
            if let Some((_, below)) = name.split_once('/')
                && entries.insert(below.to_owned(), (start, size)).is_some()
            {
                return Err(malformed(format!("entry `{}` is there twice", shown(Path::new(below)))));
            }
            spans.push((start, start + size, name));
        }
        drop(zip);
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [(_, end, first), (start, _, second)] = pair
                && start < end
            {
                let [first, second] = [first, second].map(|name| shown(Path::new(name)).to_string());
                return Err(malformed(format!("entries `{first}` and `{second}` lie over each other")));
            }
        }

        let digest = blake3::hash(&content);
        let (path, content) = (path.to_owned(), Arc::new(content));
        let mut archive = Archive { path, content, digest, entries, program: String::new(), torch_version: String::new() };
        archive.check_format()?;
        Ok(archive)
    }

    fn check_format(&mut self) -> Result<(), ProgramError> {
        for (entry, wanted) in [("archive_format", "pt2"), ("archive_version", "0"), ("byteorder", "little")] {
            let found = self.text(entry)?.trim().to_owned();
            if found != wanted {
                return Err(self.foreign(format!("`{entry}` is `{found}`, this reader knows `{wanted}`")));
            }
        }
        let programs: Vec<String> = self
            .entries
            .keys()
            .filter_map(|name| Some(name.strip_prefix("models/")?.strip_suffix(".json")?.to_owned()))
            .collect();
        self.program = match &programs[..] {
            [] => return Err(self.malformed("it holds no program (`models/*.json`)")),
            [only] => only.clone(),
            many if many.iter().any(|name| name == "model") => "model".into(),
            many => many[0].clone(),
        };
        let header: VersionHeader = self.json(&format!("models/{}.json", self.program))?;
        if header.schema_version.major != SCHEMA_MAJOR {
            return Err(self.foreign(format!(
                "its schema version is {}.{}, this reader knows {SCHEMA_MAJOR}.x; it was written by torch {}",
                header.schema_version.major, header.schema_version.minor, header.torch_version
            )));
        }
        self.torch_version = header.torch_version;
        Ok(())
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The exported program.
    ///
    /// # Errors
    /// The JSON does not have the expected form.
    pub(super) fn program(&self) -> Result<super::schema::ExportedProgram, ProgramError> {
        self.json(&format!("models/{}.json", self.program))
    }

    /// A text that the exporter added, such as `camflow.json`.
    ///
    /// # Errors
    /// The entry is not UTF-8.
    pub(super) fn extra(&self, name: &str) -> Result<Option<&str>, ProgramError> {
        let entry = format!("extra/{name}");
        if self.entries.contains_key(&entry) { self.text(&entry).map(Some) } else { Ok(None) }
    }

    /// Digest of everything in the file.
    pub(super) fn digest(&self) -> blake3::Hash {
        self.digest
    }

    fn bytes(&self, entry: &str) -> Result<&[u8], ProgramError> {
        let (start, size) = self.entries.get(entry).ok_or_else(|| self.malformed(&format!("entry `{entry}` is missing")))?;
        Ok(&self.content[*start..start + size])
    }

    fn text(&self, entry: &str) -> Result<&str, ProgramError> {
        std::str::from_utf8(self.bytes(entry)?).map_err(|_| self.malformed(&format!("entry `{entry}` is not UTF-8")))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, entry: &str) -> Result<T, ProgramError> {
        let bytes = self.bytes(entry)?;
        if bytes.len() > MAX_JSON_BYTES {
            let size = bytes.len();
            return Err(self.malformed(&format!("entry `{entry}` has {size} bytes; at most {MAX_JSON_BYTES} are read")));
        }
        serde_json::from_slice(bytes).map_err(|error| self.malformed(&format!("entry `{entry}`: {error}")))
    }

    fn malformed(&self, what: &str) -> ProgramError {
        ProgramError::Malformed { path: self.path.clone(), what: what.to_owned() }
    }

    fn foreign(&self, what: String) -> ProgramError {
        ProgramError::Foreign { path: self.path.clone(), what }
    }

    /// Keeps the memory of tensors made by [`Archive::tensor`] alive.
    pub(super) fn content(&self) -> Arc<MmapMut> {
        self.content.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tch::Kind;

    use super::*;

    /// A folder with a small archive of two tensors.
    fn archive() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain.pt2");
        let seed = Path::new("../../fuzz/seeds/archive/plain.pt2");
        fs::copy(seed, &path).unwrap();
        (folder, path)
    }

    /// It is part of the fingerprint on every label of every dataset: another digest would have all heatmaps made again.
    #[test]
    fn the_digest_of_a_file_stays_what_it_is() {
        let (_folder, path) = archive();
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.digest().to_hex().as_str(), "334b3bfeccb169d9a9fd0a622a2a9aaa4fa3dda1a67ab067e06f6832815c96f4");
    }

    #[test]
    fn what_was_read_stays_whatever_becomes_of_the_file() {
        let (_folder, path) = archive();
        let archive = Archive::open(&path).unwrap();
        let values = |archive: &Archive| {
            let stored = archive.weights();
            let mut values: Vec<(String, Vec<f64>)> = stored
                .found
                .iter()
                .map(|(name, stored)| {
                    let tensor = archive.tensor(stored).unwrap().to_kind(Kind::Double).flatten(0, -1);
                    (name.clone(), Vec::try_from(tensor).unwrap())
                })
                .collect();
            values.sort_by(|a, b| a.0.cmp(&b.0));
            values
        };
        let (before, digest) = (values(&archive), archive.digest());
        assert!(!before.is_empty());
        let content = fs::read(&path).unwrap();
        // Written over in place, cut off (a mapping of it would end the process), removed.
        fs::write(&path, vec![0x5a; content.len()]).unwrap();
        assert_eq!((values(&archive), archive.digest()), (before.clone(), digest));
        fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(values(&archive), before);
        fs::remove_file(&path).unwrap();
        assert_eq!((values(&archive), archive.program().is_ok()), (before, true));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_being_written_is_no_model() {
        let (_folder, path) = archive();
        let content = fs::read(&path).unwrap();
        let [has_begun, is_done] = [(); 2].map(|()| AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // As `cp` does over an existing file, again and again; the bytes are the same, the file is not.
                let file = fs::File::options().write(true).open(&path).unwrap();
                while !is_done.load(Ordering::Relaxed) {
                    std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
                    has_begun.store(true, Ordering::Relaxed);
                }
            });
            while !has_begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            // Leaves the writer some time.
            let errors = (0..1000).find_map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                Archive::open(&path).err()
            });
            is_done.store(true, Ordering::Relaxed);
            let error = errors.expect("no reading of a file that is being written goes well").to_string();
            assert!(error.contains("plain.pt2") && error.contains("changed while it was read"), "{error}");
        });
        Archive::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_archive_takes_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pt2");
        let error = |content: &[u8], size: u64| {
            fs::write(&path, content).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
            Archive::open(&path).unwrap_err().to_string()
        };
        assert!(error(b"RIFF", 1 << 43).contains("not a zip archive"));
        assert!(error(b"PK", 2).contains("not a zip archive"));
        // Nothing but a hole behind its first bytes.
        let error = error(LOCAL_HEADER, 1 << 43);
        assert!(error.contains("MiB of memory that are free"), "{error}");
    }
}
