//! What can go wrong with an output folder, in the user's words.

use std::{io, path::PathBuf};

use super::{Owner, Sharing};
use camflow_diagnostic::{Class, Diagnose, Diagnostic};
use camflow_media::{MediaError, shown};
use camflow_names as names;

/// A fault of the output folder, or of what is asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no such folder.
    #[error("there is no output folder `{}`", shown(path))]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing says that camflow wrote there.
    #[error("`{}` is not an output folder of camflow: it has no `.camflow/identity`", shown(path))]
    NoIdentity {
        /// The folder.
        path: PathBuf,
    },
    /// What says so cannot be read.
    #[error(
        "the identity of the output folder `{}` is damaged: `.camflow/identity` does not hold 32 hexadecimal digits",
        shown(path)
    )]
    DamagedIdentity {
        /// The folder.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot {doing} `{}`: {source}", shown(path))]
    Io {
        /// What was being done: `read`, `write to`.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// Somebody else holds the folder.
    #[error(
        "the output folder `{}` is in use: {}, {owner}{}",
        shown(path), names::shown(what), exclusive(*sharing)
    )]
    Held {
        /// The folder.
        path: PathBuf,
        /// Who it is.
        owner: Box<Owner>,
        /// What it does.
        what: String,
        /// How it holds it.
        sharing: Sharing,
    },
    /// Our own lease is not there any more.
    #[error("the lease on the output folder `{}` was lost", shown(path))]
    LeaseLost {
        /// The folder.
        path: PathBuf,
    },
}

impl StorageError {
    /// A file that camflow keeps for itself in the folder cannot be written.
    pub(super) fn unwritable(error: MediaError, path: impl Into<PathBuf>) -> StorageError {
        let source = match error {
            MediaError::Unwritable { cause, .. } => cause,
            other => io::Error::other(other.to_string()),
        };
        StorageError::Io { doing: "write to", path: path.into(), source }
    }

    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.into();
        move |source| StorageError::Io { doing, path, source }
    }
}

impl Diagnose for StorageError {
    fn diagnose(&self) -> Diagnostic {
        let (class, hint) = match self {
            StorageError::NoFolder { .. } => (Class::Invalid, "if it is on a disk that is not mounted, mount it; check `--out`"),
            StorageError::NoIdentity { .. } => (
                Class::Invalid,
                "if it is on a disk that is not mounted, mount it; check `--out`; a folder of an earlier version gets an identity \
                 when `camflow annotate` next writes there",
            ),
            StorageError::DamagedIdentity { .. } => {
                (Class::Invalid, "bring the file back from a backup, or remove it and run `camflow annotate --new-folder`")
            }
            StorageError::Io { source, .. } => (Class::Aborted, remedy(source)),
            StorageError::Held { .. } => {
                (Class::Locked, "wait until it is done; if it was cut off, its lease expires within two minutes")
            }
            StorageError::LeaseLost { .. } => (
                Class::Aborted,
                "this run was held up for longer than its lease lasts and another camflow went on without it, or the folder is not \
                 mounted any more; what was committed stays; run the same command again to go on",
            ),
        };
        Diagnostic::new(class, self.to_string()).hint(hint)
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "give this user the right to read and write there, or choose another folder with `--out`"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space there; run the same command again to go on",
        io::ErrorKind::ReadOnlyFilesystem => "mount the disk for writing, or choose another folder with `--out`",
        _ => "see that the disk is mounted and sound; nothing is taken for missing that cannot be read",
    }
}

fn exclusive(sharing: Sharing) -> &'static str {
    match sharing {
        Sharing::Exclusive => ", which removes files there",
        Sharing::Shared => "",
    }
}
