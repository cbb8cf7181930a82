//! An output folder: what it says of itself, and its files. Everything goes through the opened folder and stays inside it; links
//! are not followed.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, DirEntry},
};

use super::{FileName, StorageError, journal::ORPHANS, lease::LEASES, names::is_unfinished};
use camflow_media::{Durability, create_folders, write_atomically};

/// What the folder says of itself is in here.
pub(super) const OWN: &str = ".camflow";
const IDENTITY: &str = "identity";

/// Nobody writes one of the folder's own files for so long.
const UNFINISHED: Duration = Duration::from_secs(60 * 60);

/// An output folder that was opened: what is done to it is done to this one, whatever is mounted or moved to its place.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    canonical: PathBuf,
    dir: Dir,
    identity: String,
    /// By path, whether it leads to this folder.
    ways: RefCell<BTreeMap<PathBuf, bool>>,
}

/// A file that camflow wrote, or began to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Its name.
    pub name: FileName,
    /// In bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: Option<SystemTime>,
}

/// Whether a file that a label names is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// It provably is not.
    Gone,
    /// It is none of this folder's, or has no name that camflow gives.
    Elsewhere,
}

impl OutputFolder {
    /// Opens a folder in which camflow has written.
    ///
    /// # Errors
    /// It is not there, cannot be read, or has no identity.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::open_if_any(path)?.ok_or_else(|| StorageError::NoIdentity { path: path.to_owned() })
    }

    /// The same; `None` for a folder without an identity.
    ///
    /// # Errors
    /// It is not there or cannot be read.
    pub fn open_if_any(path: &Path) -> Result<Option<Self>, StorageError> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StorageError::NoFolder { path: path.to_owned() },
            _ => StorageError::Io { doing: "read", path: path.to_owned(), source },
        })?;
        let canonical = fs::canonicalize(path).map_err(StorageError::io("read", path))?;
        let file = Path::new(OWN).join(IDENTITY);
        let text = match dir.read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StorageError::Io { doing: "read", path: path.join(file), source }),
        };
        let identity = text.trim_end().to_owned();
        if identity.len() != 32 || !identity.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(StorageError::DamagedIdentity { path: path.to_owned() });
        }
        Ok(Some(OutputFolder { path: path.to_owned(), canonical, dir, identity, ways: RefCell::default() }))
    }

    /// Opens the folder, and makes it and its identity where they are missing.
    ///
    /// # Errors
    /// It cannot be read or written to.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        let own = path.join(OWN);
        create_folders(&own).map_err(StorageError::io("write to", &own))?;
        if let Some(folder) = Self::open_if_any(path)? {
            return Ok(folder);
        }
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".camflow-").suffix(".tmp").tempfile_in(&own)?;
            io::Write::write_all(&mut file, format!("{}\n", uuid::Uuid::new_v4().simple()).as_bytes())?;
            #[cfg(unix)]
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o664))?;
            file.as_file().sync_all()?;
            match file.persist_noclobber(own.join(IDENTITY)) {
                // Of several who make one at once, the first has made it for all.
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done.map(drop).map_err(|error| error.error),
            }
        };
        write().map_err(StorageError::io("write to", &own))?;
        Self::open(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity: 32 hexadecimal digits.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Notes in the folder that heatmaps of this dataset are there, so that nobody takes them for rubbish.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn note_dataset(&self, id: &str) -> Result<(), StorageError> {
        let note = self.path.join(OWN).join(id);
        if note.is_file() {
            return Ok(());
        }
        write_atomically(&note, Durability::Machine, |_| Ok(())).map_err(|error| StorageError::unwritable(error, note))
    }

    /// The ids of the datasets whose heatmaps are in the folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn noted_datasets(&self) -> Result<Vec<String>, StorageError> {
        let is_id = |name: &String| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let names = entries(&self.dir, Path::new(OWN)).map_err(StorageError::io("read", self.path.join(OWN)))?;
        Ok(names.iter().filter_map(|entry| entry.file_name().into_string().ok()).filter(is_id).collect())
    }

    /// Tells of every file that has a name that camflow gives, and of nothing else; of one field alone if it is given.
    ///
    /// # Errors
    /// A folder in it cannot be read.
    pub fn visit(&self, field: Option<&str>, visit: &mut dyn FnMut(StoredFile)) -> Result<(), StorageError> {
        let unreadable = |path: &Path| StorageError::io("read", self.path.join(path));
        for entry in entries(&self.dir, Path::new(".")).map_err(unreadable(Path::new("")))? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name == OWN || field.is_some_and(|field| field != name) || !is_folder(&entry) {
                continue;
            }
            let path = PathBuf::from(&name);
            for bucket in entries(&self.dir, &path).map_err(unreadable(&path))? {
                let Ok(bucket_name) = bucket.file_name().into_string() else { continue };
                if is_folder(&bucket) {
                    let path = path.join(&bucket_name);
                    self.visit_bucket(&name, &bucket_name, visit).map_err(unreadable(&path))?;
                }
            }
        }
        Ok(())
    }

    fn visit_bucket(&self, field: &str, bucket: &str, visit: &mut dyn FnMut(StoredFile)) -> io::Result<()> {
        for file in entries(&self.dir, &Path::new(field).join(bucket))? {
            let Some(name) = file.file_name().to_str().and_then(|file| FileName::new(field, bucket, file)) else { continue };
            match file.metadata() {
                Ok(metadata) if metadata.is_file() => {
                    let modified = metadata.modified().ok().map(cap_std::time::SystemTime::into_std);
                    visit(StoredFile { name, size: metadata.len(), modified });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the file that a path in the database names is there.
    ///
    /// # Errors
    /// It cannot be known: something on the way cannot be read.
    pub fn presence(&self, path: &Path) -> Result<Presence, StorageError> {
        let (Some(name), Some(root)) = (FileName::of_path(path), path.ancestors().nth(3)) else { return Ok(Presence::Elsewhere) };
        if !self.is_way_here(root) {
            return Ok(Presence::Elsewhere);
        }
        match self.dir.symlink_metadata(name.relative()) {
            Ok(metadata) if metadata.is_file() => Ok(Presence::There),
            Ok(_) => Ok(Presence::Elsewhere),
            Err(error) => match self.is_behind_link(&name) {
                Ok(true) => Ok(Presence::Elsewhere),
                Ok(false) if error.kind() == io::ErrorKind::NotFound => Ok(Presence::Gone),
                Ok(false) | Err(_) => Err(StorageError::Io { doing: "read", path: path.to_owned(), source: error }),
            },
        }
    }

    /// Removes what was never finished of the folder's own files: by processes that were killed while they wrote them, long ago.
    ///
    /// # Errors
    /// The folder cannot be read or written to.
    pub fn remove_unfinished(&self) -> Result<(), StorageError> {
        for folder in [OWN.to_owned(), format!("{OWN}/{LEASES}"), format!("{OWN}/{ORPHANS}")] {
            let folder = Path::new(&folder);
            for entry in entries(&self.dir, folder).map_err(StorageError::io("read", self.path.join(folder)))? {
                let name = entry.file_name();
                let modified = entry.metadata().and_then(|metadata| metadata.modified()).map(cap_std::time::SystemTime::into_std);
                let is_old = modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > UNFINISHED));
                if is_old && name.to_str().is_some_and(is_unfinished) {
                    let path = folder.join(name);
                    self.dir.remove_file(&path).map_err(StorageError::io("write to", self.path.join(path)))?;
                }
            }
        }
        Ok(())
    }

    /// A file by its name, if it is there.
    ///
    /// # Errors
    /// It cannot be known.
    pub fn find(&self, name: &FileName) -> Result<Option<StoredFile>, StorageError> {
        let path = name.relative();
        match self.dir.symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => {
                let modified = metadata.modified().ok().map(cap_std::time::SystemTime::into_std);
                Ok(Some(StoredFile { name: name.clone(), size: metadata.len(), modified }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("read", self.path.join(path))(error)),
        }
    }

    /// Removes a file, and the folders that it leaves empty; whether it was there. Only with an exclusive lease.
    ///
    /// # Errors
    /// The system refuses, or a link is on the way.
    pub fn remove(&self, name: &FileName) -> io::Result<bool> {
        let path = name.relative();
        if self.is_behind_link(name)? {
            return Err(io::Error::other("a link is on the way to it"));
        }
        let was_there = match self.dir.remove_file(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        for folder in path.ancestors().skip(1).take(2) {
            // It fails where there is something in it.
            if self.dir.remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(was_there)
    }

    /// Whether a folder on the way to the file is a link.
    fn is_behind_link(&self, name: &FileName) -> io::Result<bool> {
        for folder in [name.relative().parent().and_then(Path::parent), name.relative().parent()].into_iter().flatten() {
            match self.dir.symlink_metadata(folder) {
                Ok(metadata) if metadata.is_symlink() => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether this path leads to the folder, by its words or by what is there.
    fn is_way_here(&self, root: &Path) -> bool {
        if root == self.path {
            return true;
        }
        if let Some(known) = self.ways.borrow().get(root) {
            return *known;
        }
        let leads_here = fs::canonicalize(root).is_ok_and(|root| root == self.canonical);
        self.ways.borrow_mut().insert(root.to_owned(), leads_here);
        leads_here
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }
}

/// By name; none of a folder that is not there (any more).
fn entries(dir: &Dir, path: &Path) -> io::Result<Vec<DirEntry>> {
    let read = match dir.read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let mut entries = read.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn is_folder(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6b03690476852489c1dd7256";

    fn folder() -> (tempfile::TempDir, OutputFolder) {
        let place = tempfile::tempdir().unwrap();
        let folder = OutputFolder::create(&place.path().join("maps")).unwrap();
        (place, folder)
    }

    fn file(folder: &OutputFolder, field: &str) -> PathBuf {
        let path = folder.path().join(field).join("56").join(format!("{ID}.287a0350.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"1234").unwrap();
        path
    }

    fn names(folder: &OutputFolder, field: Option<&str>) -> Vec<String> {
        let mut found = Vec::new();
        folder.visit(field, &mut |file| found.push(file.name.to_string())).unwrap();
        found
    }

    #[test]
    fn a_folder_keeps_its_identity_and_knows_its_datasets() {
        let (_place, folder) = folder();
        let again = OutputFolder::create(folder.path()).unwrap();
        assert_eq!(again.identity(), folder.identity());
        assert_eq!(folder.noted_datasets().unwrap(), Vec::<String>::new());
        folder.note_dataset(ID).unwrap();
        folder.note_dataset(ID).unwrap();
        // What a run left that was killed while it noted one.
        let cut = folder.path().join(OWN).join(".camflow-Xy1.tmp");
        fs::write(&cut, "").unwrap();
        assert_eq!(folder.noted_datasets().unwrap(), [ID]);
        folder.remove_unfinished().unwrap();
        assert!(cut.exists(), "somebody may be about to finish it");
        fs::File::options().write(true).open(&cut).unwrap().set_modified(SystemTime::now() - 2 * UNFINISHED).unwrap();
        folder.remove_unfinished().unwrap();
        assert!(!cut.exists() && folder.noted_datasets().unwrap() == [ID]);
        assert!(names(&folder, None).is_empty());
    }

    #[test]
    fn several_who_make_a_folder_at_once_make_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("maps");
        let make = || OutputFolder::create(&path).unwrap().identity().to_owned();
        let made: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|identity| *identity == made[0]), "{made:?}");
    }

    #[test]
    fn what_is_no_output_folder_is_none() {
        let place = tempfile::tempdir().unwrap();
        let open = |name: &str| OutputFolder::open(&place.path().join(name)).unwrap_err();
        assert!(matches!(open("missing"), StorageError::NoFolder { .. }));
        fs::create_dir(place.path().join("empty")).unwrap();
        assert!(matches!(open("empty"), StorageError::NoIdentity { .. }));
        fs::write(place.path().join("file"), "").unwrap();
        assert!(matches!(open("file"), StorageError::Io { .. }));
        fs::create_dir_all(place.path().join("cut/.camflow")).unwrap();
        fs::write(place.path().join("cut/.camflow/identity"), "12").unwrap();
        assert!(matches!(open("cut"), StorageError::DamagedIdentity { .. }));
    }

    #[test]
    fn only_files_of_camflow_are_found() {
        let (_place, folder) = folder();
        let ours = file(&folder, "person_1");
        let bucket = ours.parent().unwrap();
        for name in ["notes.txt", "6b03690476852489c1dd7257.287a0350.png", "6b03690476852489c1dd7256.287a0350.png.bak"] {
            fs::write(bucket.join(name), "").unwrap();
        }
        fs::write(bucket.join(".camflow-Xy1.tmp"), "").unwrap();
        fs::create_dir(bucket.join("6b03690476852489c1dd7256.287a0350.npy")).unwrap();
        let expected = ["person_1/56/.camflow-Xy1.tmp".to_owned(), format!("person_1/56/{ID}.287a0350.png")];
        assert_eq!(names(&folder, None), expected);
        assert_eq!(names(&folder, Some("person_1")), expected);
        for field in ["other", "..", "../maps/person_1", "person_1/56", ".", ""] {
            assert!(names(&folder, Some(field)).is_empty(), "{field}");
        }
    }

    #[test]
    fn a_file_is_gone_only_if_that_is_certain() {
        let (place, folder) = folder();
        let path = file(&folder, "a");
        let presence = |path: &Path| folder.presence(path);
        assert_eq!(presence(&path).unwrap(), Presence::There);
        let missing = folder.path().join("a/56").join(format!("{ID}.00000000.npy"));
        assert_eq!(presence(&missing).unwrap(), Presence::Gone);
        for path in ["/elsewhere/a/56/6b03690476852489c1dd7256.287a0350.png", "a.png", ""] {
            assert_eq!(presence(Path::new(path)).unwrap(), Presence::Elsewhere, "{path}");
        }
        let roundabout = folder.path().join("../maps/a/56").join(path.file_name().unwrap());
        assert_eq!(presence(&roundabout).unwrap(), Presence::There);
        // A field's folder that is a file now: nobody can say what was in it.
        fs::write(folder.path().join("b"), "").unwrap();
        let behind = folder.path().join("b/56").join(path.file_name().unwrap());
        assert!(presence(&behind).is_err());
        // What was opened is looked at, whatever took its place.
        fs::rename(folder.path(), place.path().join("moved")).unwrap();
        fs::create_dir(folder.path()).unwrap();
        assert_eq!(presence(&path).unwrap(), Presence::There);
    }

    #[test]
    fn removal_takes_the_file_and_what_it_leaves_empty() {
        let (_place, folder) = folder();
        let (one, other) = (file(&folder, "a"), file(&folder, "b"));
        fs::write(other.with_file_name("notes.txt"), "").unwrap();
        assert!(folder.remove(&FileName::of_path(&one).unwrap()).unwrap());
        assert!(!folder.remove(&FileName::of_path(&one).unwrap()).unwrap(), "it is not there any more");
        assert!(folder.remove(&FileName::of_path(&other).unwrap()).unwrap());
        assert!(!folder.path().join("a").exists() && other.with_file_name("notes.txt").exists());
        assert!(folder.path().exists());
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let (place, folder) = folder();
        let path = file(&folder, "a");
        let outside = place.path().join("outside/56");
        fs::create_dir_all(&outside).unwrap();
        fs::copy(&path, outside.join(path.file_name().unwrap())).unwrap();
        symlink(outside.parent().unwrap(), folder.path().join("out")).unwrap();
        symlink("a", folder.path().join("in")).unwrap();
        symlink("unmounted", folder.path().join("dangling")).unwrap();
        fs::create_dir(folder.path().join("c")).unwrap();
        symlink(&outside, folder.path().join("c/56")).unwrap();
        for field in ["out", "in", "dangling", "c"] {
            let linked = folder.path().join(field).join("56").join(path.file_name().unwrap());
            let expected = if field == "in" { Presence::There } else { Presence::Elsewhere };
            assert_eq!(folder.presence(&linked).unwrap(), expected, "{field}");
            assert!(folder.remove(&FileName::of_path(&linked).unwrap()).is_err(), "{field}");
        }
        assert!(path.exists() && outside.join(path.file_name().unwrap()).exists());
        assert_eq!(names(&folder, None).len(), 1);
    }
}
