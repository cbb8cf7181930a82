//! From what was named to files: folders and patterns.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{diagnostic::Diagnostic, media::shown};

/// Names of image files end so. Whether one can be read is found out when it is.
const IMAGES: [&str; 16] =
    ["bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "qoi", "tga", "tif", "tiff", "webp"];

/// The files: those that are named, the images in folders that are (not in folders within), and what patterns find, by name.
///
/// # Errors
/// A folder has no images, a pattern finds nothing, a folder cannot be read, or none of the files is there, of which models need not be
/// opened first. Of several that some are missing is told when their turn comes.
pub(in crate::cli) fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Diagnostic> {
    let mut files = Vec::new();
    for path in named {
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
        match pattern {
            _ if path.is_dir() => files.extend(in_folder(path)?),
            Some(pattern) => files.extend(found(pattern)?),
            None => files.push(path.clone()),
        }
    }
    let missing = |path: &PathBuf| {
        let error = fs::metadata(path).err().filter(|error| error.kind() == io::ErrorKind::NotFound)?;
        Some(Diagnostic::invalid(format!("cannot read `{}`", shown(path))).because(&error))
    };
    // Ends at the first that is there.
    match files.iter().map(missing).collect::<Option<Vec<_>>>().and_then(Diagnostic::join) {
        Some(error) => Err(error),
        None => Ok(files),
    }
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    let unreadable =
        |error: io::Error| Diagnostic::invalid(format!("cannot read the folder `{}`", shown(folder))).because(&error);
    let entries = fs::read_dir(folder).map_err(unreadable)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.retain(|path| is_image(path) && path.is_file());
    paths.sort();
    match paths.is_empty() {
        true => {
            let pattern = folder.join("**").join("*.jpg");
            Err(Diagnostic::invalid(format!("the folder `{}` has no images", shown(folder)))
                .hint(format!("those in folders within it are found by a pattern: `'{}'`", shown(&pattern))))
        }
        false => Ok(paths),
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    IMAGES.contains(&extension.to_ascii_lowercase().as_str())
}

fn found(pattern: &str) -> Result<Vec<PathBuf>, Diagnostic> {
    let paths = glob::glob(pattern).map_err(|error| {
        Diagnostic::invalid(format!("there is no file `{pattern}`, and as a pattern it is wrong"))
            .because(&error)
            .hint("`*` stands for any letters, `?` for one, `**` for folders at any depth, `[ab]` for one of these")
    })?;
    let paths = paths.collect::<Result<Vec<_>, _>>().map_err(|error| {
        Diagnostic::invalid(format!("cannot read the folder `{}`", shown(error.path()))).because(error.error())
    })?;
    let paths: Vec<PathBuf> = paths.into_iter().filter(|path| path.is_file()).collect();
    match paths.is_empty() {
        true => Err(Diagnostic::invalid(format!("nothing is called `{pattern}`")).hint("`**/` before it looks in folders, too")),
        false => Ok(paths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_stand_for_their_images() {
        let root = tempfile::tempdir().expect("a folder");
        let inner = root.path().join("inner");
        fs::create_dir(&inner).expect("a folder");
        for name in ["b.JPG", "a.png", "notes.txt", "c[1].png", "inner/d.png"] {
            fs::write(root.path().join(name), "").expect("a file");
        }
        let names = |paths: &[PathBuf]| -> Result<Vec<String>, Diagnostic> {
            let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
            Ok(files(paths)?.into_iter().map(name).collect())
        };
        assert_eq!(names(&[root.path().into()]).expect("images"), ["a.png", "b.JPG", "c[1].png"]);
        assert_eq!(names(&[root.path().join("**/*.png")]).expect("images"), ["a.png", "c[1].png", "d.png"]);
        assert!(names(&["/nowhere.png".into()]).expect_err("none").message.contains("/nowhere.png"));
        // A file whose name looks like a pattern is itself, and what is not there is told when it is read.
        assert_eq!(names(&[root.path().join("c[1].png"), "/nowhere.png".into()]).expect("names"), ["c[1].png", "nowhere.png"]);
        fs::remove_file(inner.join("d.png")).expect("removed");
        assert!(names(&[inner]).expect_err("none").message.contains("no images"));
        assert!(names(&[root.path().join("*.gif")]).expect_err("none").message.contains("*.gif"));
        assert!(names(&[root.path().join("a[")]).expect_err("no pattern").message.contains("as a pattern it is wrong"));
    }
}
