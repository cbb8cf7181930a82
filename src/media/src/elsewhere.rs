//! Paths that cannot be those of files on this disk: addresses of stores and servers, paths of other systems.

use std::{
    io::{self, ErrorKind},
    path::{Component, Path},
};

use super::file::shown;

/// Why a file cannot be read, and what to do where that is plain from its path.
pub(super) fn why_unreadable(path: &Path, cause: &io::Error) -> String {
    if path.as_os_str().is_empty() {
        return "the path is empty; a sample needs the path of its image as `filepath`".to_owned();
    }
    // A folder may be called anything.
    if !matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename) {
        return cause.to_string();
    }
    match elsewhere(path) {
        None => cause.to_string(),
        Some(Elsewhere::Address(address)) => match address.strip_prefix("file://") {
            Some(local) => format!(
                "it is the address `{}` and no path: set the sample's field to the path alone, `/{}` it may be",
                shown(Path::new(&address)),
                shown(Path::new(local.trim_start_matches('/')))
            ),
            None => format!(
                "`{}` is not on this disk: download the files (or mount the store), and set the sample's field to the path here",
                shown(Path::new(&address))
            ),
        },
        Some(Elsewhere::Windows) => {
            "it is a path of Windows, and not on this disk: set the sample's field to the path under which the files are here"
                .to_owned()
        }
    }
}

enum Elsewhere {
    /// As it was before somebody took it for a path below the current folder, which joins its slashes.
    Address(String),
    Windows,
}

fn elsewhere(path: &Path) -> Option<Elsewhere> {
    let mut parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    while let Some(part) = parts.next() {
        let is_scheme = |name: &str| {
            name.len() > 1
                && name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
        };
        if let Some(scheme) = part.strip_suffix(':').filter(|name| is_scheme(name)) {
            let rest: Vec<&str> = parts.collect();
            return Some(Elsewhere::Address(format!("{scheme}://{}", rest.join("/"))));
        }
        let mut letters = part.chars();
        let is_drive = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
            && letters.next() == Some(':')
            && matches!(letters.next(), None | Some('\\'));
        if is_drive || part.starts_with(r"\\") {
            return Some(Elsewhere::Windows);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(path: &str) -> String {
        why_unreadable(Path::new(path), &io::Error::from(ErrorKind::NotFound))
    }

    /// FiftyOne keeps `s3://bucket/a.png` as a path below the folder that it was added in.
    #[test]
    fn what_is_not_on_this_disk_is_called_so() {
        for (path, address) in [
            ("s3://bucket/a.png", "`s3://bucket/a.png` is not on this disk"),
            ("/home/me/s3:/bucket/a.png", "`s3://bucket/a.png` is not on this disk"),
            ("/home/me/gs:/b/c/a.png", "`gs://b/c/a.png` is not on this disk"),
            ("/home/me/https:/host/a.png?x=1", "`https://host/a.png?x=1` is not on this disk"),
            ("/home/me/az:/b/a.png", "`az://b/a.png` is not on this disk"),
            ("/home/me/file:/data/a.png", "the path alone, `/data/a.png`"),
            ("/home/me/C:\\data\\a.png", "a path of Windows"),
            ("D:/data/a.png", "a path of Windows"),
            ("/home/me/\\\\server\\share\\a.png", "a path of Windows"),
            ("", "`filepath`"),
        ] {
            let why = why(path);
            assert!(why.contains(address) && !why.contains('\n'), "{path}: {why}");
        }
        for path in ["/data/a.png", "/data/12:30/a.png", "/data/a:b.png", "/data/C/a.png", "a.png"] {
            assert_eq!(why(path), io::Error::from(ErrorKind::NotFound).to_string(), "{path}");
        }
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        assert_eq!(why_unreadable(Path::new("/me/s3:/a.png"), &denied), denied.to_string());
    }
}
