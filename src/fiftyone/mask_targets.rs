//! What the pixel values of a segmentation field mean: FiftyOne's `mask_targets`, read as name to value.

use bson::{Bson, Document};

use super::{
    error::Error,
    names::{backticked, nearest},
};
use crate::media::MaskValue;

/// More names than this are a page of output, not a hint.
const FEW_NAMES: usize = 25;

/// The classes of a segmentation field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskTargets {
    dataset: String,
    field: String,
    entries: Vec<(String, MaskValue)>,
}

impl MaskTargets {
    /// Reads the stored form, whose keys are strings for numbers too: `{"1": "person"}` or `{"#ff6d04": "person"}`.
    pub(super) fn read(stored: &Document, field: &str, dataset: &str) -> Result<Self, Error> {
        let mut entries = Vec::with_capacity(stored.len());
        for (key, name) in stored {
            let Some(value) = mask_value(key) else {
                return Err(Error::MaskTargets {
                    problem: format!("`{key}` is neither a number nor a color like `#ff6d04`"),
                    field: field.to_owned(),
                    dataset: dataset.to_owned(),
                    hint: "correct `dataset.mask_targets` or `dataset.default_mask_targets` in FiftyOne".to_owned(),
                });
            };
            // FiftyOne stores strings only; a class without a name cannot be asked for.
            if let Bson::String(name) = name {
                entries.push((name.clone(), value));
            }
        }
        Ok(MaskTargets { dataset: dataset.to_owned(), field: field.to_owned(), entries })
    }

    /// Name and value of each class, in stored order.
    pub fn entries(&self) -> &[(String, MaskValue)] {
        &self.entries
    }

    /// The names of the classes, in stored order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// The value that marks the class in the masks.
    ///
    /// # Errors
    /// There is no class of that name, or there are several values for it.
    pub fn value(&self, name: &str) -> Result<MaskValue, Error> {
        let mut values = self.entries.iter().filter(|(entry, _)| entry == name).map(|(_, value)| *value);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            (Some(_), Some(_)) => Err(self.error(
                format!("class `{name}` stands for several values"),
                "give each value its own name in FiftyOne, and name the one that is meant".to_owned(),
            )),
            (None, _) if self.entries.is_empty() => Err(self.error(
                format!("there is no class `{name}`: none is named"),
                "name the pixel values in FiftyOne: `dataset.default_mask_targets = {1: \"person\", ...}; dataset.save()`"
                    .to_owned(),
            )),
            (None, _) => {
                let names: Vec<String> = self.names().map(str::to_owned).collect();
                let near = if names.len() <= FEW_NAMES { Vec::new() } else { nearest(name, &names) };
                let hint = match (names.len() <= FEW_NAMES, near.is_empty()) {
                    (true, _) => format!("the classes are {}", backticked(&names)),
                    (false, false) => format!("the nearest of its {} classes are {}", names.len(), backticked(&near)),
                    (false, true) => format!("the first of its {} classes are {}", names.len(), backticked(&names[..3])),
                };
                Err(self.error(format!("there is no class `{name}`"), hint))
            }
        }
    }

    fn error(&self, problem: String, hint: String) -> Error {
        Error::MaskTargets { problem, field: self.field.clone(), dataset: self.dataset.clone(), hint }
    }
}

fn mask_value(key: &str) -> Option<MaskValue> {
    let Some(color) = key.strip_prefix('#') else { return key.parse().ok().map(MaskValue::Index) };
    // `from_str_radix` would take a sign.
    if color.len() != 6 || !color.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let [_, red, green, blue] = u32::from_str_radix(color, 16).ok()?.to_be_bytes();
    Some(MaskValue::Rgb([red, green, blue]))
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn read(stored: Document) -> MaskTargets {
        MaskTargets::read(&stored, "ground_truth", "street").unwrap()
    }

    #[test]
    fn numbers_and_colors_are_read() {
        let targets = read(doc! {"0": "background", "255": "void", "-1": "other"});
        assert_eq!(targets.value("background").unwrap(), MaskValue::Index(0));
        assert_eq!(targets.value("void").unwrap(), MaskValue::Index(255));
        assert_eq!(targets.value("other").unwrap(), MaskValue::Index(-1));
        let targets = read(doc! {"#ff6d04": "person", "#499CEF": "car"});
        assert_eq!(targets.value("person").unwrap(), MaskValue::Rgb([0xff, 0x6d, 0x04]));
        assert_eq!(targets.value("car").unwrap(), MaskValue::Rgb([0x49, 0x9c, 0xef]));
    }

    #[test]
    fn other_keys_are_errors() {
        for key in ["", "one", "1.5", "#fff", "#gg0000", "#+12345", "#ff6d04ff"] {
            assert!(MaskTargets::read(&doc! {key: "x"}, "f", "d").is_err(), "{key}");
        }
    }

    #[test]
    fn an_unknown_class_is_answered_with_the_known_ones() {
        let error = read(doc! {"1": "person", "2": "car"}).value("persn").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no class `persn` in the mask targets of field `ground_truth` of dataset `street`\nhint: the classes are `person`, `car`"
        );
        assert!(read(doc! {}).value("person").unwrap_err().to_string().contains("default_mask_targets"));
    }

    #[test]
    fn a_name_of_two_values_is_ambiguous() {
        let targets = read(doc! {"1": "person", "7": "person"});
        assert!(targets.value("person").unwrap_err().to_string().contains("several values"));
    }
}
