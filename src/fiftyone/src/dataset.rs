//! A dataset: a handle on it, found by name, checked for being plain images, its fields and mask targets read.

use std::collections::BTreeMap;

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};

use super::{
    database::{Database, is_listed},
    error::Error,
    fields::{Field, InnerField, holds_heatmaps, holds_predictions, is_localized, read_fields, read_inner_fields},
    mask_targets::read_mask_targets,
};
use camflow_media::MaskValue;
use camflow_names::backticked;

/// A handle on a dataset of images: where it is, and what its document said when it was opened. It is known by its id from here on,
/// so that renaming it does no harm. What is done to a dataset is in modules of its own, which take the handle.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub(super) database: Database,
    pub(super) id: ObjectId,
    pub(super) name: String,
    /// The collection that holds its samples.
    pub(super) samples: String,
    group: Option<Group>,
    fields: Vec<Field>,
    /// Those within others.
    inner_fields: Vec<InnerField>,
    mask_targets: BTreeMap<String, Document>,
    default_mask_targets: Document,
    /// Keys of evaluations with the ids of their records.
    evaluations: BTreeMap<String, ObjectId>,
    version: String,
    persistent: bool,
}

/// How a grouped dataset is cut into slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) field: String,
    /// The slices that hold images.
    pub(super) image_slices: Vec<String>,
    pub(super) other_slices: Vec<String>,
}

impl Dataset {
    /// Opens the dataset of this name.
    ///
    /// # Errors
    /// There is none, or it is none of images, or of a version that camflow does not know.
    pub fn open(database: &Database, name: &str) -> Result<Self, Error> {
        let doing = format!("opening dataset `{name}`");
        let found =
            database.run(&doing, async { database.collection::<Document>("datasets").find_one(doc! {"name": name}).await })?;
        match found {
            Some(document) => Self::read(database.clone(), name, &document),
            None => {
                let known = database
                    .run(&doing, async { database.collection::<Document>("datasets").distinct("name", is_listed()).await })?;
                let known = known.into_iter().filter_map(|name| match name {
                    Bson::String(name) => Some(name),
                    _ => None,
                });
                let database = database.name().to_owned();
                Err(Error::UnknownDataset { name: name.to_owned(), database, known: known.collect() })
            }
        }
    }

    /// Opens another dataset of the same database.
    ///
    /// # Errors
    /// As for [`Dataset::open`].
    pub fn beside(&self, name: &str) -> Result<Self, Error> {
        Self::open(&self.database, name)
    }

    fn read(database: Database, name: &str, document: &Document) -> Result<Self, Error> {
        let malformed = |what: &str| Error::MalformedDataset { name: name.to_owned(), reason: what.to_owned() };
        let samples = document.get_str("sample_collection_name").map_err(|_| malformed("it names no collection of samples"))?;
        check_kind(name, document, samples)?;
        let group = read_group(name, document)?;
        let targets = |key: &str| document.get_document(key).ok().cloned().unwrap_or_default();
        Ok(Dataset {
            id: document.get_object_id("_id").map_err(|_| malformed("it has no id"))?,
            name: name.to_owned(),
            samples: samples.to_owned(),
            group,
            fields: read_fields(document),
            inner_fields: read_inner_fields(document),
            mask_targets: targets("mask_targets")
                .into_iter()
                .filter_map(|(field, stored)| Some((field, stored.as_document()?.clone())))
                .collect(),
            default_mask_targets: targets("default_mask_targets"),
            evaluations: targets("evaluations")
                .into_iter()
                .filter_map(|(key, record)| Some((key, record.as_object_id()?)))
                .collect(),
            version: document.get_str("version").unwrap_or_default().to_owned(),
            persistent: document.get_bool("persistent").unwrap_or(false),
            database,
        })
    }

    /// Its name, as it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id: 24 hexadecimal digits.
    pub fn id(&self) -> String {
        self.id.to_hex()
    }

    /// The version of FiftyOne to which it is migrated.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The fields of its samples, as they were when it was opened.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub(super) fn inner_fields(&self) -> &[InnerField] {
        &self.inner_fields
    }

    /// What the user should know, lowercase, without a period.
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        if !self.persistent {
            notices.push(format!(
                "dataset `{}` is not persistent: FiftyOne deletes it when its last process ends; keep it with `dataset.persistent = True`",
                self.name
            ));
        }
        if let Some(Group { other_slices, .. }) = self.group.as_ref().filter(|group| !group.other_slices.is_empty()) {
            notices.push(format!(
                "of the groups of dataset `{}`, the slices {} are left out: they hold no images",
                self.name,
                backticked(other_slices)
            ));
        }
        notices
    }

    /// Name and mask value of the classes of a segmentation field: its own mask targets if it has an entry, else the dataset's default ones.
    ///
    /// # Errors
    /// They are not as FiftyOne writes them.
    pub fn mask_targets(&self, field: &str) -> Result<Vec<(String, MaskValue)>, Error> {
        let stored = self.mask_targets.get(field).unwrap_or(&self.default_mask_targets);
        read_mask_targets(stored, field, &self.name)
    }

    /// Makes sure that the values in a field's masks may have these names: nobody gave it others.
    ///
    /// # Errors
    /// Somebody did.
    pub fn check_mask_names(&self, field: &str, names: &[(i64, String)], model: &str) -> Result<(), Error> {
        let Some(stored) = self.mask_targets.get(field) else { return Ok(()) };
        let stored: BTreeMap<&str, &str> =
            stored.iter().filter_map(|(value, name)| Some((value.as_str(), name.as_str()?))).collect();
        let is_there = |(value, name): &(i64, String)| stored.get(value.to_string().as_str()) == Some(&name.as_str());
        if stored.len() == names.len() && names.iter().all(is_there) {
            return Ok(());
        }
        Err(Error::MaskTargets {
            problem: format!("there are other classes than those of model `{model}`"),
            field: field.to_owned(),
            dataset: self.name.clone(),
            hint: format!(
                "store the predictions in another field, or have these go in FiftyOne: `del dataset.mask_targets[\"{field}\"]; dataset.save()`"
            ),
        })
    }

    /// Gives the values in a field's masks these names, where it has none of its own.
    pub(super) fn name_masks(&self, field: &str, names: &[(i64, String)]) -> Result<(), Error> {
        let key = format!("mask_targets.{field}");
        let targets: Document = names.iter().map(|(value, name)| (value.to_string(), name.into())).collect();
        let update = doc! {"$set": {&key: targets, "last_modified_at": DateTime::now()}};
        let query = doc! {"_id": self.id, &key: {"$exists": false}};
        let datasets = self.database.collection::<Document>("datasets");
        let doing = format!("naming the values of masks in dataset `{}`", self.name);
        self.database.run(&doing, async { datasets.update_one(query, update).await }).map(drop)
    }

    /// The keys of its evaluations.
    pub(super) fn evaluations(&self) -> Vec<String> {
        self.evaluations.keys().cloned().collect()
    }

    /// The fields that an evaluation compared, (predictions, truth), those that its record names.
    pub(super) fn evaluated_fields(&self, key: &str) -> Result<(Option<String>, Option<String>), Error> {
        let Some(id) = self.evaluations.get(key) else { return Ok((None, None)) };
        let doing = format!("reading evaluation `{key}` of dataset `{}`", self.name);
        let record = self.database.run(&doing, async {
            let records = self.database.collection::<Document>("runs");
            records.find_one(doc! {"_id": id}).projection(doc! {"config.pred_field": 1, "config.gt_field": 1}).await
        })?;
        let config = record.and_then(|record| record.get_document("config").ok().cloned()).unwrap_or_default();
        let field = |name: &str| config.get_str(name).ok().map(str::to_owned);
        Ok((field("pred_field"), field("gt_field")))
    }

    /// The fields that hold heatmaps.
    pub fn heatmap_fields(&self) -> Vec<String> {
        self.fields.iter().filter(|field| field.kind == "Heatmap").map(|field| field.name.clone()).collect()
    }

    /// The fields that hold detections with heatmaps of their own, which camflow wrote.
    pub fn detection_fields(&self) -> Vec<String> {
        let fields = self.fields.iter().filter(|field| field.kind == "Detections" && holds_heatmaps(field, &self.inner_fields));
        fields.map(|field| field.name.clone()).collect()
    }

    /// The fields that hold boxes or masks which `camflow localize` made of heatmaps.
    pub fn localized_fields(&self) -> Vec<String> {
        let fields = self.fields.iter().filter(|field| is_localized(field, &self.inner_fields));
        fields.map(|field| field.name.clone()).collect()
    }

    /// All fields in which heatmaps are kept.
    pub fn written_fields(&self) -> Vec<String> {
        [self.heatmap_fields(), self.detection_fields()].concat()
    }

    /// The fields in which camflow stored what a model predicts.
    pub fn prediction_fields(&self) -> Vec<String> {
        let is_one = |field: &&Field| {
            ["Classification", "Detections", "Segmentation"].contains(&&*field.kind)
                && holds_predictions(field, &self.inner_fields)
        };
        self.fields.iter().filter(is_one).map(|field| field.name.clone()).collect()
    }

    /// The fields of masks that camflow wrote: what a model predicts, and what was made of heatmaps.
    pub fn mask_fields(&self) -> Vec<String> {
        let is_mask = |name: &String| self.fields.iter().any(|field| field.name == *name && field.kind == "Segmentation");
        [self.prediction_fields(), self.localized_fields()].concat().into_iter().filter(is_mask).collect()
    }

    /// Whether its groups have a slice.
    pub fn has_slice(&self, slice: &str) -> bool {
        let mut known = self.group.iter().flat_map(|group| group.image_slices.iter().chain(&group.other_slices));
        known.any(|known| known == slice)
    }

    pub(super) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Whether somebody deleted it meanwhile. FiftyOne drops the samples first, so an empty answer to any question may
    /// mean this.
    pub(super) fn check_exists(&self) -> Result<(), Error> {
        let found = self.database.run(&format!("looking for dataset `{}`", self.name), async {
            let datasets = self.database.collection::<Document>("datasets");
            datasets.find_one(doc! {"_id": self.id}).projection(doc! {"_id": 1}).await
        })?;
        found.map(drop).ok_or_else(|| Error::DatasetGone { name: self.name.clone() })
    }
}

/// Refuses whatever is no collection of image files.
fn check_kind(name: &str, document: &Document, samples: &str) -> Result<(), Error> {
    let refuse = |reason: &str, hint: &str| {
        Err(Error::UnsupportedDataset { name: name.to_owned(), reason: reason.to_owned(), hint: hint.to_owned() })
    };
    if !samples.starts_with("samples.") {
        let kind = samples.split('.').next().unwrap_or_default();
        return refuse(
            &format!("is a generated dataset of {kind}, which FiftyOne keeps for a view"),
            "run camflow on the dataset that the view was made from",
        );
    }
    if document.get_array("_media_roots").is_ok_and(|roots| !roots.is_empty()) {
        return refuse(
            "refers to media that it does not hold as files",
            "camflow needs a `filepath` that it can open for each sample",
        );
    }
    let version = document.get_str("version").unwrap_or_default();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(1) => {}
        Some(0) => {
            return refuse(
                &format!("is still in the form of FiftyOne {version}"),
                "load it once with a current FiftyOne, which migrates it: `fiftyone.load_dataset(...)`",
            );
        }
        _ => {
            return refuse(
                &format!("is in the form of FiftyOne `{version}`, which camflow does not know"),
                "camflow knows versions 1.x",
            );
        }
    }
    match document.get_str("media_type") {
        // An empty dataset has no media type yet; of arrays (`.npy`) it is unknown.
        Ok("image" | "group" | "unknown") | Err(_) => Ok(()),
        Ok("video") => {
            refuse("holds videos", "make image samples of its frames: `dataset.to_frames(sample_frames=True).clone(...)`")
        }
        Ok("point-cloud") => refuse("holds point clouds", "camflow explains models of images"),
        Ok("3d") => refuse("holds 3D scenes", "camflow explains models of images"),
        Ok("mixed") => refuse("mixes kinds of media", "clone its images into a dataset of their own"),
        Ok(other) => refuse(&format!("holds media of type `{other}`"), "camflow reads datasets of images"),
    }
}

fn read_group(name: &str, document: &Document) -> Result<Option<Group>, Error> {
    if document.get_str("media_type").ok() != Some("group") {
        return Ok(None);
    }
    let Ok(field) = document.get_str("group_field") else {
        return Err(Error::MalformedDataset { name: name.to_owned(), reason: "its groups have no field".to_owned() });
    };
    let slices = document.get_document("group_media_types").cloned().unwrap_or_default();
    let (images, others): (Vec<_>, Vec<_>) = slices.into_iter().partition(|(_, media)| media.as_str() == Some("image"));
    let names = |slices: Vec<(String, Bson)>| slices.into_iter().map(|(slice, _)| slice).collect::<Vec<_>>();
    if images.is_empty() {
        let reason = "is grouped, and none of its slices holds images".to_owned();
        let hint = "camflow explains models of images".to_owned();
        return Err(Error::UnsupportedDataset { name: name.to_owned(), reason, hint });
    }
    Ok(Some(Group { field: field.to_owned(), image_slices: names(images), other_slices: names(others) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_diagnostic::Diagnose;

    fn reason(document: Document) -> String {
        let error = check_kind("d", &document, document.get_str("sample_collection_name").unwrap()).unwrap_err().diagnose();
        assert_eq!(error.hints.len(), 1, "{error:?}");
        format!("{error}; {}", error.hints[0])
    }

    #[test]
    fn each_kind_of_dataset_is_refused_in_its_own_words() {
        let samples = "samples.5f";
        assert!(reason(doc! {"sample_collection_name": "patches.5f"}).contains("generated dataset of patches"));
        assert!(reason(doc! {"sample_collection_name": samples, "_media_roots": ["s3"]}).contains("does not hold as files"));
        assert!(reason(doc! {"sample_collection_name": samples, "version": "0.24.1"}).contains("load it once"));
        assert!(reason(doc! {"sample_collection_name": samples, "version": "2.0.0"}).contains("does not know"));
        for (media, words) in [
            ("video", "holds videos"),
            ("3d", "3D scenes"),
            ("point-cloud", "point clouds"),
            ("mixed", "mixes"),
            ("multimodal", "`multimodal`"),
        ] {
            let message = reason(doc! {"sample_collection_name": samples, "version": "1.22.1", "media_type": media});
            assert!(message.contains(words), "{message}");
        }
        for document in [
            doc! {"version": "1.0.0"},
            doc! {"version": "1.22.1", "media_type": "image"},
            doc! {"version": "1.22.1", "media_type": "group"},
        ] {
            assert!(check_kind("d", &document, samples).is_ok());
        }
    }

    #[test]
    fn groups_are_split_into_images_and_others() {
        let group = doc! {"media_type": "group", "group_field": "g", "group_media_types": {"left": "image", "pcd": "3d", "right": "image"}};
        let group = read_group("d", &group).unwrap().unwrap();
        assert_eq!((group.image_slices, group.other_slices), (vec!["left".into(), "right".into()], vec!["pcd".into()]));
        assert!(read_group("d", &doc! {"media_type": "group", "group_field": "g", "group_media_types": {"pcd": "3d"}}).is_err());
        assert!(read_group("d", &doc! {"media_type": "image"}).unwrap().is_none());
    }
}
