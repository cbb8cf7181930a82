//! What the pixel values of a segmentation field mean: FiftyOne's `mask_targets`, read as name to value.

use bson::{Bson, Document};

use super::error::Error;
use camflow_media::MaskValue;

/// Name and value of each class, in stored order, of the stored form, whose keys are strings for numbers too: `{"1": "person"}`
/// or `{"#ff6d04": "person"}`.
pub(super) fn read_mask_targets(stored: &Document, field: &str, dataset: &str) -> Result<Vec<(String, MaskValue)>, Error> {
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
    Ok(entries)
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

    fn read(stored: Document) -> Vec<(String, MaskValue)> {
        read_mask_targets(&stored, "ground_truth", "street").unwrap()
    }

    #[test]
    fn numbers_and_colors_are_read() {
        let entry = |name: &str, value| (name.to_owned(), value);
        assert_eq!(
            read(doc! {"0": "background", "255": "void", "-1": "other"}),
            [
                entry("background", MaskValue::Index(0)),
                entry("void", MaskValue::Index(255)),
                entry("other", MaskValue::Index(-1))
            ]
        );
        assert_eq!(
            read(doc! {"#ff6d04": "person", "#499CEF": "car"}),
            [entry("person", MaskValue::Rgb([0xff, 0x6d, 0x04])), entry("car", MaskValue::Rgb([0x49, 0x9c, 0xef]))]
        );
    }

    #[test]
    fn other_keys_are_errors() {
        for key in ["", "one", "1.5", "#fff", "#gg0000", "#+12345", "#ff6d04ff"] {
            assert!(read_mask_targets(&doc! {key: "x"}, "f", "d").is_err(), "{key}");
        }
    }
}
