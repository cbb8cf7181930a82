//! The output folder: names of files, the folder's identity, leases on it, and what is left over in it. docs/storage.md is the
//! specification.
//!
//! [`OutputFolder`] looks at files and removes them; [`FolderLease`] is the right to do so; [`Journal`] remembers what runs have
//! replaced, until its grace period is over.

mod error;
mod folder;
mod journal;
mod lease;
mod names;
mod owner;
mod space;

pub use error::StorageError;
pub use folder::{OutputFolder, Presence, StoredFile};
pub use journal::{Cause, Grace, Journal, Orphan};
pub use lease::{FolderLease, LEASE, RENEWAL, Sharing, WATCH};
pub use names::{FileName, file_tag, keys_in, stem};
pub use owner::Owner;
pub use space::free_space;
