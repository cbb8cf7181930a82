//! The output folder: how files are named, and how they are found again.
//!
//! ```text
//! FOLDER/person_grad_layer_4/56/6b03690476852489c1dd7256.287a0350.npy
//!        field               |  sample id                tag of the fingerprint
//!                            last two digits of the id
//! FOLDER/.camflow/6b0369...  one empty file for each dataset whose heatmaps are here
//! ```

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::file_tag;
use crate::media::{Durability, MediaError, write_atomically};

/// Where the names of the datasets are kept.
const DATASETS: &str = ".camflow";

/// The files of one heatmap, without their suffixes. The last digits of an id are a counter, so that a million samples spread
/// evenly over 256 folders.
pub(super) fn stem(folder: &Path, field: &str, id: &str, fingerprint: &str) -> PathBuf {
    folder.join(field).join(bucket(id)).join(format!("{id}.{}", file_tag(fingerprint)))
}

fn bucket(id: &str) -> &str {
    &id[id.len().saturating_sub(2)..]
}

/// Notes in the folder that heatmaps of this dataset are there, so that nobody takes them for rubbish.
///
/// # Errors
/// The folder cannot be written to.
pub fn note_dataset(folder: &Path, id: &str) -> Result<(), MediaError> {
    write_atomically(&folder.join(DATASETS).join(id), Durability::Machine, |_| Ok(()))
}

/// The ids of the datasets whose heatmaps are in the folder.
///
/// # Errors
/// The folder cannot be read; that it is not there is no error.
pub fn noted_datasets(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder.join(DATASETS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// A file that camflow wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// Where it is.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// The sample whose heatmap it is; `None` for a file that was never finished.
    pub sample: Option<String>,
}

/// The last three parts of the path of a heatmap's file: whatever way leads to the folder, this is its name in it.
pub fn name_in_folder(path: &Path) -> Option<PathBuf> {
    let file = path.file_name()?;
    let bucket = path.parent()?.file_name()?;
    let field = path.parent()?.parent()?.file_name()?;
    Some([field, bucket, file].iter().collect())
}

/// Tells of every file in the folder that has a name that camflow gives, and of nothing else. Links are not followed.
///
/// # Errors
/// A folder cannot be read, with its path.
pub fn visit_files(folder: &Path, visit: &mut dyn FnMut(OutputFile)) -> Result<(), (PathBuf, io::Error)> {
    for field in entries(folder)?.into_iter().filter(is_folder) {
        visit_field(&field.path(), visit)?;
    }
    Ok(())
}

/// The same for the files of one field; none if it has no folder there.
///
/// # Errors
/// A folder cannot be read, with its path.
pub fn visit_field_files(folder: &Path, field: &str, visit: &mut dyn FnMut(OutputFile)) -> Result<(), (PathBuf, io::Error)> {
    let path = folder.join(field);
    // Neither a link nor a path that leads elsewhere: the name comes from the database.
    let is_here = path.parent() == Some(folder) && path.file_name() == Some(OsStr::new(field));
    match fs::symlink_metadata(&path) {
        Ok(metadata) if is_here && metadata.is_dir() => visit_field(&path, visit),
        _ => Ok(()),
    }
}

fn visit_field(field: &Path, visit: &mut dyn FnMut(OutputFile)) -> Result<(), (PathBuf, io::Error)> {
    for bucket in entries(field)?.into_iter().filter(is_folder) {
        let bucket_name = bucket.file_name();
        for file in entries(&bucket.path())? {
            let Ok(metadata) = file.metadata() else { continue };
            let Some(sample) = sample_of(&file.file_name(), &bucket_name).filter(|_| metadata.is_file()) else { continue };
            visit(OutputFile { path: file.path(), size: metadata.len(), sample });
        }
    }
    Ok(())
}

/// Removes the folders of a file that are empty, up to the output folder.
pub fn remove_empty_folders(folder: &Path, file: &Path) {
    for parent in file.ancestors().skip(1).take_while(|parent| *parent != folder && parent.starts_with(folder)) {
        // It fails where there is something in it.
        if fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, (PathBuf, io::Error)> {
    let read = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    let mut entries = read().map_err(|error| (folder.to_owned(), error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// `Some` if the name is one of camflow's: of the heatmap of a sample, or of a file that was never finished.
fn sample_of(file: &OsStr, in_bucket: &OsStr) -> Option<Option<String>> {
    let name = file.to_str()?;
    if name.starts_with(".camflow-") && name.ends_with(".tmp") {
        return Some(None);
    }
    let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = name.split('.');
    let (id, tag, suffix) = (parts.next()?, parts.next()?, parts.next()?);
    let is_ours = is_hex(id, 24) && is_hex(tag, 8) && matches!(suffix, "npy" | "png") && parts.next().is_none();
    (is_ours && in_bucket.to_str() == Some(bucket(id))).then(|| Some(id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_camflow_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let id = "6b03690476852489c1dd7256";
        let ours = crate::media::with_suffix(&stem(folder.path(), "person_1", id, "fingerprint"), ".npy");
        let bucket = ours.parent().unwrap();
        fs::create_dir_all(bucket).unwrap();
        let unfinished = bucket.join(".camflow-Xy1.tmp");
        let foreign = ["notes.txt", "6b03690476852489c1dd7257.287a0350.png", "6b03690476852489c1dd7256.287a0350.png.bak"];
        for path in foreign.map(|name| bucket.join(name)).iter().chain([&ours, &unfinished, &folder.path().join("a.png")]) {
            fs::write(path, b"1234").unwrap();
        }
        let mut found = Vec::new();
        let mut of_field = Vec::new();
        visit_files(folder.path(), &mut |file| found.push(file)).unwrap();
        for field in ["person_1", "other", "..", "../person_1", "person_1/56", ""] {
            visit_field_files(folder.path(), field, &mut |file| of_field.push(file)).unwrap();
        }
        assert_eq!(of_field, found);
        let file =
            |path: &Path, sample: Option<&str>| OutputFile { path: path.to_owned(), size: 4, sample: sample.map(Into::into) };
        assert_eq!(found, [file(&unfinished, None), file(&ours, Some(id))]);
        assert_eq!(folder.path().join(name_in_folder(&ours).unwrap()), ours);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
        visit_files(folder.path(), &mut |file| panic!("{file:?}")).unwrap();
    }

    #[test]
    fn a_folder_knows_its_datasets() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(noted_datasets(folder.path()).unwrap(), Vec::<String>::new());
        note_dataset(folder.path(), "6b03").unwrap();
        note_dataset(folder.path(), "6b03").unwrap();
        assert_eq!(noted_datasets(folder.path()).unwrap(), ["6b03"]);
        let mut found = 0;
        visit_files(folder.path(), &mut |_| found += 1).unwrap();
        assert_eq!(found, 0);
    }

    #[test]
    fn empty_folders_go_up_to_the_output_folder() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("maps");
        fs::create_dir_all(kept.join("person/56")).unwrap();
        fs::create_dir_all(kept.join("dog/00")).unwrap();
        remove_empty_folders(&kept, &kept.join("person/56/x.npy"));
        assert!(!kept.join("person").exists() && kept.join("dog/00").exists());
        remove_empty_folders(&kept, &kept.join("dog/00/x.npy"));
        assert!(kept.exists() && !kept.join("dog").exists());
    }
}
