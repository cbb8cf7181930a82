//! `--model`: a `.pt2` file, or the name of a model whose exported file is in the user's cache.

use std::path::{Path, PathBuf};

/// What the tutorial uses.
pub const DEFAULT_MODEL: &str = "deeplabv3-resnet50-coco-torch";

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// An exported file.
    File(PathBuf),
    /// A zoo, torchvision or timm name, or `module:function`, for the exporter.
    Name(String),
}

impl ModelRef {
    /// From what was typed: anything that exists or ends in `.pt2` is a file.
    pub fn parse(text: &str) -> ModelRef {
        let path = Path::new(text);
        if path.extension().is_some_and(|extension| extension == "pt2") || path.is_file() {
            ModelRef::File(path.to_owned())
        } else {
            ModelRef::Name(text.to_owned())
        }
    }

    /// The file, given the folder in which exported models are kept.
    pub fn path(&self, models: &Path) -> PathBuf {
        match self {
            ModelRef::File(path) => path.clone(),
            // Names of files and functions hold separators.
            ModelRef::Name(name) => {
                let stem: String =
                    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
                models.join(format!("{stem}.pt2"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_files_in_the_cache() {
        let models = Path::new("models");
        assert_eq!(ModelRef::parse("a/b.pt2").path(models), Path::new("a/b.pt2"));
        assert_eq!(ModelRef::parse(DEFAULT_MODEL).path(models), Path::new("models/deeplabv3-resnet50-coco-torch.pt2"));
        assert_eq!(ModelRef::parse("my/file.py:build").path(models), Path::new("models/my_file.py_build.pt2"));
    }
}
