//! Room on disks.

use std::{io, path::Path};

/// Bytes that this user may still write to the file system of a folder. Where the folder does not exist yet: to that of the nearest
/// one above it.
///
/// # Errors
/// The system does not say.
pub fn free_space(folder: &Path) -> io::Result<u64> {
    let present = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    fs4::available_space(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).unwrap() > 0);
        assert!(free_space(&folder.path().join("a/b")).unwrap() > 0);
    }
}
