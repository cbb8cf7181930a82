//! The fields of boxes and masks that heatmaps localize, in a dataset's schema, and what the numbers in masks mean. As with heatmaps,
//! a field is declared before the first sample has it: FiftyOne could not read the dataset otherwise.

use bson::{Bson, DateTime, Document, doc};

use super::{
    dataset::Dataset,
    error::Error,
    fields::kind_of,
    retry::with_retries,
    schema::unusable,
    schema_entry::{DETECTIONS, SEGMENTATION, boxes_entry, is_localized, masks_entry},
};
use camflow_media::MaskValue;

/// Reading and writing again where somebody else was quicker.
const ATTEMPTS: usize = 8;

/// Numbers that a mask of 8 bits has for classes; 0 is the background.
const MAX_CLASSES: i64 = 255;

/// What is made of heatmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalizedKind {
    /// Detections.
    Boxes,
    /// A segmentation.
    Masks,
}

impl LocalizedKind {
    /// A word for it, which is also the flag's.
    pub fn name(self) -> &'static str {
        match self {
            LocalizedKind::Boxes => "boxes",
            LocalizedKind::Masks => "masks",
        }
    }

    fn class(self) -> &'static str {
        match self {
            LocalizedKind::Boxes => DETECTIONS,
            LocalizedKind::Masks => SEGMENTATION,
        }
    }

    fn entry(self, name: &str, now: DateTime) -> Document {
        match self {
            LocalizedKind::Boxes => boxes_entry(name, now),
            LocalizedKind::Masks => masks_entry(name, now),
        }
    }
}

/// Keeps such fields declared.
#[derive(Clone, Debug)]
pub struct LocalizedSchema {
    dataset: Dataset,
    fields: Vec<(String, LocalizedKind)>,
}

impl LocalizedSchema {
    /// Of fields that are to hold such labels; nothing is written yet.
    ///
    /// # Errors
    /// A name is not allowed, or taken by a field that `camflow localize` did not make; the dataset is gone.
    pub fn new(dataset: &Dataset, fields: Vec<(String, LocalizedKind)>) -> Result<Self, Error> {
        let schema = LocalizedSchema { dataset: dataset.clone(), fields };
        for (field, kind) in &schema.fields {
            if let Some(reason) = unusable(field, dataset.group().is_some()) {
                return Err(schema.conflict(field, *kind, reason));
            }
        }
        schema.missing()?;
        Ok(schema)
    }

    /// Declares those that are not. Call it again after the run: somebody may have deleted a field meanwhile.
    ///
    /// # Errors
    /// As for [`LocalizedSchema::new`], or the database fails.
    pub fn declare(&self) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let missing = self.missing()?;
            if missing.is_empty() {
                return Ok(());
            }
            for (field, kind) in missing {
                let now = DateTime::now();
                let query = doc! {"_id": self.dataset.id, "sample_fields.name": {"$ne": field}};
                let update = doc! {"$push": {"sample_fields": kind.entry(field, now)}, "$set": {"last_modified_at": now}};
                with_retries(|| {
                    let (query, update) = (query.clone(), update.clone());
                    let datasets = self.dataset.database.collection::<Document>("datasets");
                    let doing = format!("declaring field `{field}` of dataset `{}`", self.dataset.name);
                    self.dataset.database.run(&doing, async { datasets.update_one(query, update).await })
                })?;
            }
        }
        let reason = "its fields change faster than others can be added".to_owned();
        Err(Error::MalformedDataset { name: self.dataset.name.clone(), reason })
    }

    /// Those that are to be declared.
    fn missing(&self) -> Result<Vec<(&str, LocalizedKind)>, Error> {
        let stored = read_dataset(&self.dataset, doc! {"sample_fields": 1})?;
        let entries: Vec<&Document> =
            stored.get_array("sample_fields").into_iter().flatten().filter_map(Bson::as_document).collect();
        let mut missing = Vec::new();
        for (field, kind) in &self.fields {
            match in_the_way(&entries, field, *kind) {
                Ok(true) => {}
                Ok(false) => missing.push((field.as_str(), *kind)),
                Err(reason) => return Err(self.conflict(field, *kind, reason)),
            }
        }
        Ok(missing)
    }

    fn conflict(&self, field: &str, kind: LocalizedKind, reason: String) -> Error {
        Error::LocalizedField { field: field.to_owned(), dataset: self.dataset.name.clone(), what: kind.name(), reason }
    }
}

/// Whether the field is declared; an error is why it cannot be ours.
fn in_the_way(entries: &[&Document], name: &str, kind: LocalizedKind) -> Result<bool, String> {
    let Some(stored) = entries.iter().find(|entry| entry.get_str("name").ok() == Some(name)) else {
        // Another field may be stored under this key.
        return match entries.iter().find(|entry| entry.get_str("db_field").ok() == Some(name)) {
            Some(other) => Err(format!("field `{}` is stored under this name", other.get_str("name").unwrap_or_default())),
            None => Ok(false),
        };
    };
    let is_of_kind = stored.get_str("embedded_doc_type").ok() == Some(kind.class());
    match () {
        () if !is_of_kind => Err(format!("it exists already and is of type {}", kind_of(stored))),
        () if !is_localized(stored) => Err("it exists already, with labels that `camflow localize` did not make".to_owned()),
        () if stored.get_bool("read_only").ok() == Some(true) => Err("it is read-only".to_owned()),
        () => Ok(true),
    }
}

fn read_dataset(dataset: &Dataset, projection: Document) -> Result<Document, Error> {
    let found = with_retries(|| {
        let projection = projection.clone();
        dataset.database.run(&format!("reading the fields of dataset `{}`", dataset.name), async {
            let datasets = dataset.database.collection::<Document>("datasets");
            datasets.find_one(doc! {"_id": dataset.id}).projection(projection).await
        })
    })?;
    found.ok_or_else(|| Error::DatasetGone { name: dataset.name.clone() })
}

/// The number that each class has in the masks of a field: what its mask targets, else the dataset's default ones say, and of the
/// others the next ones.
///
/// # Errors
/// The mask targets are not as FiftyOne writes them, or are colours, or no number is left.
pub fn mask_numbers(dataset: &Dataset, field: &str, classes: &[String]) -> Result<Vec<u8>, Error> {
    let known = dataset.mask_targets(field)?;
    numbered(&known, classes).map_err(|reason| Error::MaskTargets {
        problem: reason,
        field: field.to_owned(),
        dataset: dataset.name.clone(),
        hint: "name another field with `--masks`, and give it no mask targets".to_owned(),
    })
}

fn numbered(known: &[(String, MaskValue)], classes: &[String]) -> Result<Vec<u8>, String> {
    let mut numbers = Vec::with_capacity(classes.len());
    let mut next = 1;
    for (name, value) in known {
        match value {
            MaskValue::Index(index) => next = next.max(index + 1),
            _ => return Err(format!("class `{name}` has a colour where a number is needed,")),
        }
    }
    for class in classes {
        let found = known.iter().find(|(name, value)| name == class && *value != MaskValue::Index(0));
        let number = match found {
            Some((_, MaskValue::Index(index))) => *index,
            _ => {
                next += 1;
                next - 1
            }
        };
        numbers.push(u8::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| {
            format!("class `{class}` would have the number {number}, beyond the 1 to {MAX_CLASSES} of masks of 8 bits,")
        })?);
    }
    Ok(numbers)
}

/// Has the field's mask targets say so, where they or the default ones do not yet.
///
/// # Errors
/// The database fails, or somebody else has just given the numbers other names.
pub fn note_mask_numbers(dataset: &Dataset, field: &str, classes: &[String], numbers: &[u8]) -> Result<(), Error> {
    let key = format!("mask_targets.{field}");
    for _ in 0..ATTEMPTS {
        let stored = read_dataset(dataset, doc! {"mask_targets": 1, "default_mask_targets": 1})?;
        let own = stored.get_document("mask_targets").ok().and_then(|targets| targets.get_document(field).ok());
        let mut wanted = own.or_else(|| stored.get_document("default_mask_targets").ok()).cloned().unwrap_or_default();
        let mut is_said = true;
        for (class, number) in classes.iter().zip(numbers) {
            let number = number.to_string();
            match wanted.get_str(&number) {
                Ok(name) if name == class => {}
                Ok(other) => {
                    return Err(Error::MaskTargets {
                        problem: format!("the number {number} means `{other}` by now, not `{class}`,"),
                        field: field.to_owned(),
                        dataset: dataset.name.clone(),
                        hint: "run the same command again".to_owned(),
                    });
                }
                Err(_) => {
                    is_said = false;
                    wanted.insert(number, class);
                }
            }
        }
        if is_said {
            return Ok(());
        }
        let as_read = own.map_or_else(|| doc! {&key: {"$exists": false}}, |own| doc! {&key: own.clone()});
        let query = doc! {"$and": [{"_id": dataset.id}, as_read]};
        let update = doc! {"$set": {&key: wanted}, "$currentDate": {"last_modified_at": true}};
        let updated = with_retries(|| {
            let (query, update) = (query.clone(), update.clone());
            dataset.database.run(&format!("setting the mask targets of field `{field}` of dataset `{}`", dataset.name), async {
                dataset.database.collection::<Document>("datasets").update_one(query, update).await
            })
        })?;
        if updated.matched_count > 0 {
            return Ok(());
        }
    }
    let reason = "its mask targets change faster than others can be added".to_owned();
    Err(Error::MalformedDataset { name: dataset.name.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_others_are_in_the_way() {
        let now = DateTime::from_millis(0);
        let (boxes, masks) = (boxes_entry("found", now), masks_entry("cut", now));
        let entries = [&boxes, &masks];
        let way = |name: &str, kind| in_the_way(&entries, name, kind);
        assert_eq!((way("found", LocalizedKind::Boxes), way("cut", LocalizedKind::Masks)), (Ok(true), Ok(true)));
        assert_eq!(way("new", LocalizedKind::Boxes), Ok(false));
        assert!(way("found", LocalizedKind::Masks).unwrap_err().contains("is of type Detections"));
        let mut theirs = boxes.clone();
        theirs.get_array_mut("fields").unwrap().truncate(1);
        assert!(in_the_way(&[&theirs], "found", LocalizedKind::Boxes).unwrap_err().contains("did not make"));
    }

    #[test]
    fn classes_keep_their_numbers() {
        let target = |name: &str, value| (name.to_owned(), MaskValue::Index(value));
        let classes = ["cat".to_owned(), "dog".to_owned()];
        assert_eq!(numbered(&[], &classes), Ok(vec![1, 2]));
        assert_eq!(numbered(&[target("background", 0), target("dog", 1)], &classes), Ok(vec![2, 1]));
        assert_eq!(numbered(&[target("cat", 0)], &classes), Ok(vec![1, 2]), "0 is the background");
        assert!(numbered(&[("cat".into(), MaskValue::Rgb([1, 2, 3]))], &classes).unwrap_err().contains("colour"));
        assert!(numbered(&[target("other", 255)], &classes).unwrap_err().contains("the number 256"));
    }
}
