//! Opening files whose paths come from elsewhere, and naming them in messages.

use std::{
    fmt::Display,
    fs::{self, File, Metadata, OpenOptions},
    io,
    path::Path,
};

use camflow_names as names;

/// Opens a regular file for reading, with its length. The inner error says what the path is instead, with its article.
///
/// # Errors
/// The path leads nowhere, runs in circles or may not be read.
pub fn open_regular(path: &Path) -> io::Result<Result<(File, u64), &'static str>> {
    // Before it is opened, since opening a device may already do something.
    if let Some(what) = other_kind(&fs::metadata(path)?) {
        return Ok(Err(what));
    }
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe that took the file's place meanwhile must not block for want of a writer.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    Ok(match other_kind(&metadata) {
        Some(what) => Err(what),
        None => Ok((file, metadata.len())),
    })
}

/// What a path leads to, with its article, if that is no regular file.
pub(super) fn other_kind(metadata: &Metadata) -> Option<&'static str> {
    match (metadata.is_file(), metadata.is_dir()) {
        (true, _) => None,
        (_, true) => Some("a folder"),
        _ => Some("a pipe or device"),
    }
}

/// A path as messages show it, on one line: a name may hold line breaks, which would forge lines of a log, and escape
/// sequences, which a terminal would obey. What is not UTF-8 becomes `�`.
pub fn shown(path: &Path) -> impl Display + '_ {
    names::shown(path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_on_one_line() {
        assert_eq!(shown(Path::new("/a b/é.jpg")).to_string(), "/a b/é.jpg");
        assert_eq!(shown(Path::new("/a\nerror: \x1b[2Jx\u{202e}.jpg")).to_string(), "/a\\nerror: \\u{1b}[2Jx\\u{202e}.jpg");
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_are_shown_all_the_same() {
        let name = std::os::unix::ffi::OsStrExt::from_bytes(b"/a\xff.jpg");
        assert_eq!(shown(Path::new::<std::ffi::OsStr>(name)).to_string(), "/a\u{fffd}.jpg");
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let kind = |path: &Path| open_regular(path).unwrap().err();
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        for path in [at("pipe"), at("link"), "/dev/zero".into(), "/dev/null".into()] {
            assert_eq!(kind(&path), Some("a pipe or device"), "{path:?}");
        }
        assert_eq!(kind(folder.path()), Some("a folder"));
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(kind(&at("socket")), Some("a pipe or device"));
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        assert_eq!(open_regular(&at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::write(at("file"), "four").unwrap();
        assert_eq!(open_regular(&at("file")).unwrap().unwrap().1, 4);
    }
}
