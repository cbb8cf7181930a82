//! Files that are either complete or not there.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::error::MediaError;

/// What a written file is to survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the program, not of the machine. For files that are made again easily.
    Process,
    /// Also a power cut: the content reaches the disk before the file gets its name, so that a database entry never
    /// names an empty file. Costs one `fdatasync` per file (0.1 to 10 ms, by the disk). Whether the name itself is there
    /// afterwards is up to [`sync_names`].
    #[default]
    Machine,
}

/// The file next to others of one stem: `stem` and `suffix` joined. (`Path::with_extension` would replace what stands behind the
/// last dot of the stem.)
pub fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a folder and those above it, where they are missing; permissions follow the umask, but not everyone may write there.
///
/// # Errors
/// The system refuses.
pub fn create_folders(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o775);
    builder.create(folder)
}

/// Writes a file under a temporary name in the same folder and renames it when it is complete: nobody ever sees half a file,
/// and an existing file is replaced in one step. Missing parent folders are created; permissions follow the umask, but not
/// everyone may write.
///
/// The temporary file is removed on any error and on a panic, but not when the process is killed: it is named `.camflow-*.tmp`.
///
/// # Errors
/// The folder cannot be created, `fill` fails, or the disk is full or read-only.
pub fn write_atomically(
    path: &Path,
    durability: Durability,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), MediaError> {
    write(path, durability, None, fill).map_err(|cause| MediaError::Unwritable { path: path.to_owned(), cause })
}

/// Brings the names of written files to the disk, and those of the folders that were made for them: after a power cut they
/// are there. For many files at once, because on common file systems the first folder costs as much as all of them.
///
/// # Errors
/// A folder, with what is wrong with it: it is gone, or the disk fails.
pub fn sync_names<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), (PathBuf, io::Error)> {
    /// `<folder>/<field>/<bucket>/<file>`: all that a run may have had to make, and where it made them.
    const LEVELS: usize = 4;
    // Once each; what is in a folder comes before it.
    let folders: BTreeSet<&Path> = paths.into_iter().flat_map(|path| path.ancestors().skip(1).take(LEVELS)).collect();
    for folder in folders.into_iter().rev().filter(|folder| *folder != Path::new("")) {
        sync_folder(folder).map_err(|error| (folder.to_owned(), error))?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows opens no folders, and writes names through.
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder) {
        // A folder above ours may be closed to us, and then it was there before.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
        Ok(opened) => match opened.sync_all() {
            // Some network file systems know no such thing for folders.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            done => done,
        },
    }
}

/// The same for a file that may be there, and keeps its permissions then.
pub(super) fn write_replacing(
    path: &Path,
    durability: Durability,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    write(path, durability, fs::metadata(path).ok().map(|metadata| metadata.permissions()), fill)
}

fn write(
    path: &Path,
    durability: Durability,
    permissions: Option<fs::Permissions>,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder of that name exists"));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".camflow-").suffix(".tmp");
    // tempfile's own files are private to the user; results are for everyone whom the umask lets read, such as the user of the
    // App. Nobody but user and group may change them, whatever the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o664));
    let temporary = match builder.tempfile_in(&folder) {
        // Creating the folder only when it is missing saves a system call for every other file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_folders(&folder)?;
            builder.tempfile_in(&folder)?
        }
        other => other?,
    };
    if let Some(permissions) = permissions {
        temporary.as_file().set_permissions(permissions)?;
    }
    let mut writer = BufWriter::with_capacity(64 << 10, temporary.as_file());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    if durability == Durability::Machine {
        temporary.as_file().sync_data()?;
    }
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn folders_are_made_and_files_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/map.png");
        for content in [&b"first, and longer"[..], b"second"] {
            write_atomically(&path, Durability::Machine, |writer| writer.write_all(content)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(names(path.parent().unwrap()), ["map.png"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.png");
        fs::write(&path, "old").unwrap();
        let error = write_atomically(&path, Durability::Process, |writer| {
            writer.write_all(&vec![1; 100_000])?;
            Err(io::Error::other("disk full"))
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("map.png") && message.contains("disk full"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["map.png"]);
    }

    #[test]
    fn a_panic_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.png");
        let panicked = std::panic::catch_unwind(|| {
            write_atomically(&path, Durability::Process, |_| std::panic::resume_unwind(Box::new(())))
        });
        assert!(panicked.is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn names_are_synced_where_their_folder_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("field/a0/map.png");
        let (missing, error) = sync_names([path.as_path()]).unwrap_err();
        assert_eq!((missing, error.kind()), (folder.path().join("field/a0"), io::ErrorKind::NotFound));
        write_atomically(&path, Durability::Machine, |writer| writer.write_all(b"map")).unwrap();
        sync_names([path.as_path(), path.as_path()]).unwrap();
        sync_names([]).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        fs::write(folder.path().join("plain"), "").unwrap();
        write_atomically(&folder.path().join("ours"), Durability::Process, |_| Ok(())).unwrap();
        assert_eq!(mode("ours"), mode("plain"));
    }

    #[test]
    fn a_folder_in_the_way_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("map.png")).unwrap();
        let error = write_atomically(&folder.path().join("map.png"), Durability::Process, |_| Ok(()));
        assert!(error.is_err());
        assert_eq!(names(folder.path()), ["map.png"]);
        // The name of a file where a folder is needed.
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(write_atomically(&folder.path().join("file/map.png"), Durability::Process, |_| Ok(())).is_err());
    }
}
