//! Files that the user named: they may be more than files. What is written to `/dev/null`, a pipe or the standard output goes into
//! it; a link stays one, and what it leads to is replaced; a file with several names keeps them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    error::MediaError,
    write::{Durability, create_folders, write_replacing},
};

/// Where content that is written to a path goes.
enum Place {
    /// A file of one name, or none yet: replaced in one step.
    File(PathBuf),
    /// A file of several names: its content is replaced.
    Shared(PathBuf),
    /// A pipe or a device such as `/dev/null`.
    Stream(PathBuf),
    /// One of the process's own, such as `/dev/stdout`.
    #[cfg(unix)]
    Descriptor(std::os::fd::RawFd),
}

/// More links in a row lead in a circle.
const MAX_LINKS: usize = 40;

/// Writes a file that the user named. A regular one is either complete or as it was before, and keeps its permissions.
///
/// # Errors
/// It is a folder, a disk or a socket; it cannot be written to; `fill` fails.
pub fn write_named(
    path: &Path,
    durability: Durability,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), MediaError> {
    let write = || match place(path)? {
        Place::File(file) if fs::metadata(&file).is_ok() && !is_writable(folder_of(&file)) => overwrite(&file, fill),
        Place::File(file) => write_replacing(&file, durability, fill),
        Place::Shared(file) => overwrite(&file, fill),
        Place::Stream(stream) => stream_to(OpenOptions::new().write(true).open(stream)?, fill),
        #[cfg(unix)]
        Place::Descriptor(descriptor) => stream_to(copy_of(descriptor)?, fill),
    };
    write().map_err(|cause| MediaError::Unwritable { path: path.to_owned(), cause })
}

/// Whether [`write_named`] will get that far, before there is anything to write. Makes the folder, where it is missing.
///
/// # Errors
/// What it would fail with.
pub fn check_named(path: &Path) -> io::Result<()> {
    let open = |file: &Path| OpenOptions::new().write(true).open(file).map(drop);
    match place(path)? {
        Place::File(file) if fs::metadata(&file).is_ok() && !is_writable(folder_of(&file)) => open(&file),
        Place::File(file) => {
            create_folders(folder_of(&file))?;
            tempfile::tempfile_in(folder_of(&file)).map(drop)
        }
        Place::Shared(file) => open(&file),
        // A pipe would wait for its reader.
        Place::Stream(_) => Ok(()),
        #[cfg(unix)]
        Place::Descriptor(descriptor) => copy_of(descriptor).map(drop),
    }
}

/// The same as far as it can be said without changing anything.
///
/// # Errors
/// What it would fail with.
pub fn check_named_untouched(path: &Path) -> io::Result<()> {
    match place(path)? {
        Place::File(file) => check_folder_untouched(folder_of(&file)),
        _ => Ok(()),
    }
}

/// Whether a folder could be made, where it is missing, and written to, as far as that can be said without changing anything.
///
/// # Errors
/// Something else is there or above it, or a folder that this user may not write to.
pub fn check_folder_untouched(folder: &Path) -> io::Result<()> {
    let folder = std::path::absolute(folder)?;
    let present = folder.ancestors().find(|above| fs::symlink_metadata(above).is_ok()).unwrap_or(&folder);
    if !fs::metadata(present)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::CString::new(present.as_os_str().as_bytes())?;
        // SAFETY: reads the name, which ends in a zero.
        if unsafe { libc::access(name.as_ptr(), libc::W_OK | libc::X_OK) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The regular file that a path stands for, for programs that replace what they are given: behind all links.
///
/// # Errors
/// It is something else.
pub fn named_file(path: &Path) -> io::Result<PathBuf> {
    match place(path)? {
        Place::File(file) | Place::Shared(file) => Ok(file),
        _ => Err(io::Error::other("it is a pipe or device")),
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

fn is_writable(folder: &Path) -> bool {
    !matches!(
        tempfile::tempfile_in(folder).map_err(|error| error.kind()),
        Err(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    )
}

fn place(path: &Path) -> io::Result<Place> {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        #[cfg(unix)]
        if let Some(descriptor) = own_descriptor(&at) {
            return Ok(Place::Descriptor(descriptor));
        }
        let metadata = match fs::symlink_metadata(&at) {
            // Of a link that leads nowhere, what it leads to is made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::File(at)),
            metadata => metadata?,
        };
        if !metadata.is_symlink() {
            return of_type(at, &metadata);
        }
        at = folder_of(&at).join(fs::read_link(&at)?);
    }
    Err(io::Error::other("its links lead in a circle"))
}

fn of_type(at: PathBuf, metadata: &fs::Metadata) -> io::Result<Place> {
    let refused = |what: &str| Err(io::Error::other(format!("it is {what}")));
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder of that name exists"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let kind = metadata.file_type();
        if kind.is_fifo() || kind.is_char_device() {
            return Ok(Place::Stream(at));
        }
        if kind.is_block_device() {
            return refused("a disk");
        }
        if kind.is_socket() {
            return refused("a socket");
        }
        if metadata.nlink() > 1 {
            return Ok(Place::Shared(at));
        }
    }
    if metadata.is_file() { Ok(Place::File(at)) } else { refused("no file") }
}

/// The number of `/dev/stdout`, `/dev/fd/3` and the like: opened again, a file would be written from its beginning.
#[cfg(unix)]
fn own_descriptor(path: &Path) -> Option<std::os::fd::RawFd> {
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let own = fs::canonicalize("/proc/self/fd").ok()?;
    (fs::canonicalize(folder_of(path)).ok()? == own).then_some(number)
}

#[cfg(unix)]
fn copy_of(descriptor: std::os::fd::RawFd) -> io::Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: gives a descriptor of our own, or an error.
    let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

fn stream_to(file: File, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::new(&file);
    fill(&mut writer)?;
    writer.flush()
}

/// Replaces the content of a file when all of the new one is there.
fn overwrite(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let mut content = tempfile::tempfile()?;
    stream_to(content.try_clone()?, fill)?;
    content.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    io::copy(&mut content, &mut file)?;
    file.sync_data()
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        io::Read,
        os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
    };

    use super::*;

    fn write(path: &Path, text: &str) -> Result<(), String> {
        check_named(path).map_err(|error| format!("checked: {error}"))?;
        write_named(path, Durability::Process, |file| file.write_all(text.as_bytes())).map_err(|error| error.to_string())
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deeper")).unwrap();
        fs::write(at("deeper/target"), "old").unwrap();
        symlink("deeper/target", at("link")).unwrap();
        symlink("link", at("link-to-link")).unwrap();
        symlink("deeper/new", at("dangling")).unwrap();
        fs::set_permissions(at("deeper/target"), fs::Permissions::from_mode(0o600)).unwrap();
        write(&at("link-to-link"), "new").unwrap();
        assert_eq!(fs::read_to_string(at("deeper/target")).unwrap(), "new");
        assert_eq!(fs::metadata(at("deeper/target")).unwrap().permissions().mode() & 0o777, 0o600);
        write(&at("dangling"), "made").unwrap();
        assert_eq!(fs::read_to_string(at("deeper/new")).unwrap(), "made");
        for name in ["link", "link-to-link", "dangling"] {
            assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink(), "{name}");
        }
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        assert!(write(&at("a"), "").unwrap_err().contains("in a circle"));
        symlink("deeper", at("folder")).unwrap();
        assert!(write(&at("folder"), "").unwrap_err().contains("a folder of that name exists"));
        let error = write_named(&at("link"), Durability::Process, |_| Err(io::Error::other("full"))).unwrap_err().to_string();
        assert!(error.contains("full") && fs::read_to_string(at("link")).unwrap() == "new", "{error}");
    }

    #[test]
    fn all_names_of_a_file_get_the_new_content() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        fs::write(&one, "old and longer").unwrap();
        fs::hard_link(&one, &other).unwrap();
        write(&one, "new").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "new");
        let failed = write_named(&one, Durability::Process, |_| Err(io::Error::other("full")));
        assert!(failed.is_err() && fs::read_to_string(&other).unwrap() == "new");
    }

    #[test]
    fn pipes_and_devices_are_written_into() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let link = folder.path().join("link");
        symlink(&pipe, &link).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        write(&link, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        write(Path::new("/dev/null"), "nothing").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(write(&folder.path().join("socket"), "").unwrap_err().contains("it is a socket"));
    }

    #[test]
    fn an_open_file_is_written_on_from_where_it_is() {
        use std::os::fd::AsRawFd;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before ").unwrap();
        write(Path::new(&format!("/dev/fd/{}", file.as_raw_fd())), "after").unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "before after");
        assert!(write(Path::new("/dev/fd/987"), "").is_err());
    }
}
