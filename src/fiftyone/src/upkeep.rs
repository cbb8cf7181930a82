//! What `camflow clean` asks of a dataset: which labels lead nowhere, and which fields hold nothing.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    dataset::Dataset,
    error::Error,
    label_change::{LabelChange, change_labels},
    lock::Lock,
    retry::with_retries,
    sample_page::sample_page,
    schema::detections_of,
    schema_entry::{DETECTIONS, HEATMAP, SEGMENTATION},
};
use camflow_storage::{OutputFolder, Presence};

/// Samples per query.
const BATCH: usize = 1000;

/// Where the paths of a label stand, and those of each of its detections.
const PATHS: [&[&str]; 2] = [&["map_path", "npy_path", "mask_path"], &["detections.map_path", "detections.npy_path"]];

/// The heatmap labels of a dataset, and their files in one output folder.
#[derive(Debug, Default)]
pub struct LabelSurvey {
    /// Labels of camflow's.
    pub num_labels: u64,
    /// Those of them whose files are in other folders, about which nothing is known.
    pub num_elsewhere: u64,
    /// Those of them whose files are provably not there.
    pub broken: Vec<BrokenLabel>,
    /// Heatmap fields of camflow's that no sample has.
    pub unused: Vec<String>,
}

/// The ids of a dataset's samples.
#[derive(Debug, Default)]
pub struct SampleIds(HashSet<ObjectId>);

impl SampleIds {
    /// Whether the dataset has the sample.
    pub fn contains(&self, id: &str) -> bool {
        ObjectId::parse_str(id).is_ok_and(|id| self.0.contains(&id))
    }
}

/// A heatmap label that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLabel {
    sample: ObjectId,
    fingerprint: String,
    /// The key of the path in it.
    key: &'static str,
    /// Its field.
    pub field: String,
    /// The file that is not there.
    pub missing: PathBuf,
}

impl BrokenLabel {
    /// The sample's id.
    pub fn sample(&self) -> String {
        self.sample.to_hex()
    }

    fn removal(&self) -> LabelChange {
        let BrokenLabel { sample, fingerprint, key, field, missing } = self;
        let query = doc! {
            "_id": sample, format!("{field}.fingerprint"): fingerprint,
            format!("{field}.{key}"): missing.to_string_lossy().as_ref(),
        };
        LabelChange { query, update: vec![doc! {"$unset": field}, doc! {"$set": {"last_modified_at": "$$NOW"}}] }
    }
}

/// Looks at all heatmap labels of the dataset, and at their files.
///
/// # Errors
/// The database fails, or the folder cannot be read: then nothing is known to be missing.
pub fn survey_labels(dataset: &Dataset, folder: &OutputFolder) -> Result<LabelSurvey, Error> {
    let heatmaps = heatmap_keys(dataset)?;
    let mut survey = LabelSurvey::default();
    let mut used = vec![false; heatmaps.len()];
    let mut last: Option<ObjectId> = None;
    loop {
        let page = heatmap_page(dataset, &heatmaps, last)?;
        if page.is_empty() {
            break;
        }
        for sample in &page {
            let Ok(id) = sample.get_object_id("_id") else { continue };
            last = Some(id);
            for ((field, is_ours), used) in heatmaps.iter().zip(&mut used) {
                let Ok(label) = sample.get_document(field) else { continue };
                *used = true;
                if let Ok(fingerprint) = label.get_str("fingerprint")
                    && *is_ours
                {
                    survey.num_labels += 1;
                    survey.look(folder, id, field, fingerprint, label)?;
                }
            }
        }
    }
    // One in which a view shows heatmaps of detections holds nothing, and is needed.
    let is_needed = |field: &str| heatmaps.iter().any(|(other, _)| *other == detections_of(field));
    let unused = heatmaps.iter().zip(used).filter(|((field, is_ours), used)| *is_ours && !used && !is_needed(field));
    survey.unused = unused.map(|((field, _), _)| field.clone()).collect();
    Ok(survey)
}

/// The ids of its samples.
///
/// # Errors
/// The database fails.
pub fn sample_ids(dataset: &Dataset) -> Result<SampleIds, Error> {
    let mut ids = SampleIds::default();
    let mut last = None;
    loop {
        let page = heatmap_page(dataset, &[], last)?;
        ids.0.extend(page.iter().filter_map(|sample| sample.get_object_id("_id").ok()));
        last = page.last().and_then(|sample| sample.get_object_id("_id").ok());
        if last.is_none() {
            return Ok(ids);
        }
    }
}

/// The ids of all datasets in the database.
///
/// # Errors
/// The database fails.
pub fn siblings(dataset: &Dataset) -> Result<Vec<String>, Error> {
    let ids = with_retries(|| {
        dataset.database.run("listing the datasets", async {
            dataset.database.collection::<Document>("datasets").distinct("_id", doc! {}).await
        })
    })?;
    Ok(ids.iter().filter_map(Bson::as_object_id).map(|id| id.to_hex()).collect())
}

/// Takes labels away that lead nowhere; returns those that somebody has changed meanwhile, and that stay.
///
/// # Errors
/// The lock was lost, or the database fails.
pub fn remove_labels<'a>(dataset: &Dataset, labels: &'a [BrokenLabel], lock: &Lock) -> Result<Vec<&'a BrokenLabel>, Error> {
    let doing = format!("removing labels without files from dataset `{}`", dataset.name);
    let changes: Vec<LabelChange> = labels.iter().map(BrokenLabel::removal).collect();
    change_labels(dataset, &changes, lock, &doing)?;
    let mut kept = Vec::new();
    for part in labels.chunks(BATCH) {
        let ids: Vec<ObjectId> = part.iter().map(|label| label.sample).collect();
        let projection = part.iter().map(|label| (format!("{}.fingerprint", label.field), 1.into())).collect();
        let samples = sample_page(dataset, &doc! {"_id": {"$in": ids}}, None, &projection, BATCH, &doing)?;
        let by_id: HashMap<ObjectId, &RawDocumentBuf> =
            samples.iter().filter_map(|sample| Some((sample.get_object_id("_id").ok()?, sample))).collect();
        let is_there =
            |label: &&BrokenLabel| by_id.get(&label.sample).is_some_and(|sample| sample.get_document(&label.field).is_ok());
        kept.extend(part.iter().filter(is_there));
    }
    Ok(kept)
}

/// The heatmap fields as they are declared now: key, and whether they are camflow's.
fn heatmap_keys(dataset: &Dataset) -> Result<Vec<(String, bool)>, Error> {
    let stored = with_retries(|| {
        dataset.database.run(&format!("reading the fields of dataset `{}`", dataset.name), async {
            let datasets = dataset.database.collection::<Document>("datasets");
            datasets.find_one(doc! {"_id": dataset.id}).projection(doc! {"sample_fields": 1}).await
        })
    })?;
    let stored = stored.ok_or_else(|| Error::DatasetGone { name: dataset.name.clone() })?;
    let fields = stored.get_array("sample_fields").into_iter().flatten().filter_map(Bson::as_document);
    let heatmaps = fields.filter_map(|entry| {
        let name = entry.get_str("db_field").or_else(|_| entry.get_str("name")).ok()?.to_owned();
        let attributes = entry.get_array("fields").into_iter().flatten().filter_map(Bson::as_document);
        let is_ours = attributes.into_iter().any(|attribute| attribute.get_str("name").ok() == Some("fingerprint"));
        match entry.get_str("embedded_doc_type").ok()? {
            HEATMAP => Some((name, is_ours)),
            // Detections and masks of others have nothing to do with heatmaps.
            DETECTIONS | SEGMENTATION => is_ours.then_some((name, true)),
            _ => None,
        }
    });
    Ok(heatmaps.collect())
}

/// The next samples with what their heatmaps refer to; none at the end.
fn heatmap_page(dataset: &Dataset, heatmaps: &[(String, bool)], last: Option<ObjectId>) -> Result<Vec<RawDocumentBuf>, Error> {
    let mut projection = doc! {"_id": 1};
    for (field, _) in heatmaps {
        projection.extend(PATHS.concat().into_iter().chain(["fingerprint"]).map(|key| (format!("{field}.{key}"), 1.into())));
    }
    sample_page(dataset, &doc! {}, last, &projection, BATCH, &format!("reading the heatmaps of dataset `{}`", dataset.name))
}

impl LabelSurvey {
    fn look(
        &mut self,
        folder: &OutputFolder,
        sample: ObjectId,
        field: &str,
        fingerprint: &str,
        label: &RawDocument,
    ) -> Result<(), Error> {
        let mut is_elsewhere = false;
        let [own, of_detections] = PATHS;
        let detections = label.get_array("detections").ok().into_iter().flatten();
        let detections = detections.filter_map(|detection| detection.ok()?.as_document());
        let paths = detections.flat_map(|detection| ["map_path", "npy_path"].map(|key| detection.get_str(key)));
        let own = own.iter().map(|key| (*key, label.get_str(key)));
        for (key, path) in own.chain(of_detections.iter().copied().cycle().zip(paths)) {
            let Ok(path) = path else { continue };
            match folder.presence(Path::new(path))? {
                Presence::There => {}
                Presence::Elsewhere => is_elsewhere = true,
                Presence::Gone => {
                    let (field, fingerprint, missing) = (field.to_owned(), fingerprint.to_owned(), PathBuf::from(path));
                    self.broken.push(BrokenLabel { sample, fingerprint, key, field, missing });
                    return Ok(());
                }
            }
        }
        self.num_elsewhere += u64::from(is_elsewhere);
        Ok(())
    }
}
