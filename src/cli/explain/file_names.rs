//! What the files of each input and class are called, so that no result replaces another's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    diagnostic::Diagnostic,
    media::{Durability, read_text, shown, write_atomically},
};

/// Of which input the files in the folder are, by the beginning of their names: a later run must not replace another image's.
const INDEX: &str = ".explained.json";

/// The names, in the order of what was asked for.
#[derive(Debug)]
pub(super) struct FileNames {
    pub inputs: Vec<String>,
    pub classes: Vec<String>,
    /// What the user should know, lowercase, without a period.
    pub notices: Vec<String>,
}

impl FileNames {
    /// Inputs are called by their stem and classes by their name; where several would be called the same, also by their extension or
    /// folders, and by their channel. A class without a channel has only its name.
    pub(super) fn new(inputs: &[PathBuf], classes: &[(String, Option<i64>)]) -> Result<Self, Diagnostic> {
        let mut notices = Vec::new();
        let paths: Vec<PathBuf> = inputs.iter().map(|input| identity(input)).collect();
        let called = |path: &PathBuf, level: usize| input_name(path, level);
        let most = paths.iter().map(|path| path.components().count()).max().unwrap_or_default() + LEVELS;
        let input_names = distinct(&paths, most, called, |path| tensor_stem(path, &paths));
        let class_names = distinct(classes, 2, class_name, |_| None);
        let changed = inputs.iter().zip(&paths).zip(&input_names).filter(|((_, path), name)| input_name(path, 0) != **name);
        notices.extend(changed.map(|((input, _), name)| {
            format!("the files of `{}` are called `{name}`, as other inputs have the same name", shown(input))
        }));
        let changed = classes.iter().zip(&class_names).filter(|(class, name)| class_name(class, 0) != **name);
        notices.extend(
            changed.map(|((class, _), name)| {
                format!("the files of class `{class}` say `{name}`, as other classes have the same name")
            }),
        );
        let mut seen = BTreeMap::new();
        for (path, input) in paths.iter().zip(&input_names) {
            for (class, (label, channel)) in class_names.iter().zip(classes) {
                let here = (path, label, channel);
                let before = seen.insert(folded(&format!("{input}.{class}")), here).filter(|before| *before != here);
                if let Some((other, other_class, _)) = before {
                    let (other, path) = (shown(other), shown(path));
                    let problem = format!(
                        "class `{other_class}` of `{other}` and class `{label}` of `{path}` would get the same files, `{input}.{class}.*`"
                    );
                    return Err(Diagnostic::invalid(problem).hint("explain them one after the other, with an `--out` for each"));
                }
            }
        }
        Ok(FileNames { inputs: input_names, classes: class_names, notices })
    }

    /// Makes sure that the folder has no results of other inputs under these names, and notes whose they are from now on.
    pub(super) fn claim(&self, folder: &Path, inputs: &[PathBuf]) -> Result<(), Diagnostic> {
        let path = folder.join(INDEX);
        let mut index: BTreeMap<String, String> = match read_text(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                Diagnostic::invalid(format!("`{}` does not say whose files are in the folder", shown(&path)))
                    .because(&error)
                    .hint("choose another folder with `--out`")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                let problem = format!("cannot use the folder `{}`", shown(folder));
                return Err(Diagnostic::invalid(problem).because(&error).hint("choose another folder with `--out`"));
            }
        };
        for (input, name) in inputs.iter().zip(&self.inputs) {
            let source = identity(input).to_string_lossy().into_owned();
            if let Some(other) = index.insert(folded(name), source.clone()).filter(|other| *other != source) {
                let (folder, other, input) = (shown(folder), shown(Path::new(&other)), shown(input));
                let problem =
                    format!("the files `{name}.*` in `{folder}` are those of `{other}`, and `{input}` would replace them");
                return Err(
                    Diagnostic::invalid(problem).hint("choose another folder with `--out`, or name both images in one command")
                );
            }
        }
        let text = serde_json::to_string_pretty(&index)
            .map_err(|error| Diagnostic::aborted(format!("cannot write `{}`", shown(&path))).because(&error))?;
        write_atomically(&path, Durability::Process, |writer| std::io::Write::write_all(writer, text.as_bytes()))?;
        Ok(())
    }
}

/// The same for two ways to one file.
fn identity(input: &Path) -> PathBuf {
    fs::canonicalize(input).or_else(|_| std::path::absolute(input)).unwrap_or_else(|_| input.to_owned())
}

/// Ways to call an input besides its folders.
const LEVELS: usize = 2;

/// Says more of a path with each level: the stem, the file's name, then each with one folder more.
fn input_name(path: &Path, level: usize) -> String {
    let (depth, with_extension) = (level / LEVELS, level % LEVELS == 1);
    let name = if with_extension { path.file_name() } else { path.file_stem() };
    let name = name.map_or_else(|| "input".into(), |name| name.to_string_lossy());
    let mut parts: Vec<_> =
        path.ancestors().skip(1).take(depth).filter_map(|folder| Some(folder.file_name()?.to_string_lossy())).collect();
    parts.reverse();
    parts.push(name);
    clean(&parts.join("_"))
}

/// A tensor's images are called by its stem and a number, which an image file may have in its own name.
fn tensor_stem(path: &Path, all: &[PathBuf]) -> Option<String> {
    let stem = path.file_stem()?.to_string_lossy();
    let (base, number) = stem.rsplit_once('.')?;
    let is_tensor = |other: &PathBuf| is_tensor(other) && folded(&input_name(other, 0)) == folded(&clean(base));
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && all.iter().any(is_tensor)).then(|| clean(base))
}

/// Whether a file holds a tensor, by its name.
pub(in crate::cli) fn is_tensor(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}

fn class_name((name, channel): &(String, Option<i64>), level: usize) -> String {
    match channel {
        Some(channel) if level > 0 => clean(&format!("{name}_{channel}")),
        _ => clean(name),
    }
}

fn clean(name: &str) -> String {
    name.replace(['/', ' '], "_")
}

/// Many file systems do not tell upper from lower case.
fn folded(name: &str) -> String {
    name.to_lowercase()
}

/// A name for each: at the first level at which all that shared one differ. `also` is another name that one would be known by.
fn distinct<T: Ord>(
    all: &[T],
    levels: usize,
    name: impl Fn(&T, usize) -> String,
    also: impl Fn(&T) -> Option<String>,
) -> Vec<String> {
    let mut groups = BTreeMap::<String, BTreeSet<&T>>::new();
    let key = |one: &T| folded(&also(one).unwrap_or_else(|| name(one, 0)));
    for one in all {
        groups.entry(key(one)).or_default().insert(one);
    }
    let level = |group: &BTreeSet<&T>| {
        let differ =
            |level: &usize| group.iter().map(|one| folded(&name(one, *level))).collect::<BTreeSet<_>>().len() == group.len();
        let first = usize::from(group.len() > 1);
        (first..levels).find(differ).unwrap_or(0)
    };
    let levels: BTreeMap<&String, usize> = groups.iter().map(|(key, group)| (key, level(group))).collect();
    all.iter().map(|one| name(one, levels[&key(one)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(paths: &[&str]) -> Result<Vec<String>, String> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        FileNames::new(&paths, &[("top".into(), None)]).map(|names| names.inputs).map_err(|error| error.to_string())
    }

    fn classes(names: &[(&str, i64)]) -> Vec<String> {
        let classes: Vec<_> = names.iter().map(|(name, channel)| ((*name).to_owned(), Some(*channel))).collect();
        FileNames::new(&["/x.png".into()], &classes).unwrap().classes
    }

    #[test]
    fn inputs_are_called_by_their_stem_where_it_is_theirs_alone() {
        assert_eq!(inputs(&["/a/x.png", "/b/my photo.jpg"]).unwrap(), ["x", "my_photo"]);
        // One file twice is one result.
        assert_eq!(inputs(&["/a/x.png", "/a/x.png"]).unwrap(), ["x", "x"]);
    }

    #[test]
    fn equal_stems_get_what_tells_them_apart() {
        assert_eq!(inputs(&["/a/x.png", "/a/x.jpg", "/a/y.png"]).unwrap(), ["x.png", "x.jpg", "y"]);
        assert_eq!(inputs(&["/a/x.png", "/b/x.png"]).unwrap(), ["a_x", "b_x"]);
        assert_eq!(inputs(&["/a/x.png", "/b/x.png", "/a/x.jpg"]).unwrap(), ["a_x.png", "b_x.png", "a_x.jpg"]);
        assert_eq!(inputs(&["/1/a/x.png", "/2/a/x.png"]).unwrap(), ["1_a_x", "2_a_x"]);
        assert_eq!(inputs(&["/a/X.png", "/a/x.jpg"]).unwrap(), ["X.png", "x.jpg"]);
        assert_eq!(inputs(&["/a/p q.png", "/a/p_q.jpg"]).unwrap(), ["p_q.png", "p_q.jpg"]);
        assert_eq!(inputs(&["/a/x.npy", "/a/x.0.png"]).unwrap(), ["x.npy", "x.0.png"]);
        // What cannot be told apart is refused.
        let refused = inputs(&["/a/p q.png", "/a/p_q.png"]).unwrap_err();
        assert!(refused.contains("`/a/p q.png`"), "{refused}");
        let refused = inputs(&["/a/x.png", "/b/x.png", "/c/a_x.png"]).unwrap_err();
        assert!(refused.contains("`a_x.top.*`"), "{refused}");
    }

    #[test]
    fn equal_class_names_get_their_channel() {
        assert_eq!(classes(&[("hot dog", 3), ("cat", 4)]), ["hot_dog", "cat"]);
        assert_eq!(
            classes(&[("hot dog", 3), ("hot_dog", 4), ("Cat", 5), ("cat", 6)]),
            ["hot_dog_3", "hot_dog_4", "Cat_5", "cat_6"]
        );
    }

    #[test]
    fn later_runs_do_not_replace_what_is_of_another_input() {
        let folder = tempfile::tempdir().unwrap();
        let claim = |path: &str| {
            let paths = [PathBuf::from(path)];
            FileNames::new(&paths, &[("top".into(), None)]).unwrap().claim(folder.path(), &paths)
        };
        claim("/a/x.png").unwrap();
        claim("/a/x.png").unwrap();
        claim("/a/y.png").unwrap();
        let refused = claim("/b/X.png").unwrap_err();
        assert!(refused.message.contains("are those of `/a/x.png`") && refused.hints.len() == 1, "{refused:?}");
    }
}
