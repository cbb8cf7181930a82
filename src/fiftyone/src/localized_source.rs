//! Heatmaps with what boxes and masks are made of, the labels that were made before, and the label that says what is true.

use std::path::PathBuf;

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    dataset::Dataset,
    error::Error,
    label_field::LabelField,
    retry::with_retries,
    sample_page::sample_page,
    selection::{Selection, among, filter, parse_ids, refused_query, told_tags, unknown_fields},
    source::unknown_ids,
    stored_heatmap::path,
    stored_sample::SampleReader,
};
use camflow_media::RecordedChecksum;
use camflow_pipeline::StoredTarget;

/// Samples per query: masks in documents may be large.
const PAGE: usize = 64;

/// What is read of a heatmap.
const HEATMAP_KEYS: [&str; 11] = [
    "fingerprint",
    "target_class",
    "confidence",
    "method",
    "layer",
    "model",
    "map_path",
    "npy_path",
    "map_checksum",
    "npy_checksum",
    "upsampling",
];

/// What is read of a label that was made before.
const LABEL_KEYS: [&str; 4] = ["_cls", "fingerprint", "mask_path", "mask_checksum"];

/// A heatmap as the database has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceHeatmap {
    /// Its field.
    pub field: String,
    /// What it was made of.
    pub fingerprint: String,
    /// The class that was explained.
    pub class: String,
    /// The model's probability of that class.
    pub confidence: Option<f64>,
    /// The CAM method.
    pub method: String,
    /// The layer, by its module path.
    pub layer: String,
    /// The model's name.
    pub model: String,
    /// Its picture, if stored by path.
    pub map_path: Option<PathBuf>,
    /// Its exact floats.
    pub npy_path: Option<PathBuf>,
    /// Of the picture's file.
    pub map_checksum: Option<RecordedChecksum>,
    /// Of the floats' file.
    pub npy_checksum: Option<RecordedChecksum>,
    /// How the floats become the heatmap; empty where they are it.
    pub upsampling: Vec<i64>,
}

/// What a sample has in a field of boxes or masks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalizedLabel {
    /// What it was made of; `None` where somebody else made it.
    pub fingerprint: Option<String>,
    /// The file of a mask.
    pub mask_path: Option<PathBuf>,
    /// What the label says of that.
    pub mask_checksum: Option<RecordedChecksum>,
}

/// A sample with heatmaps.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalizedSample {
    /// Its id.
    pub id: String,
    /// Its image.
    pub media_path: PathBuf,
    /// Its heatmaps, in the order of the fields.
    pub heatmaps: Vec<SourceHeatmap>,
    /// What is true; [`StoredTarget::Unlabelled`] where nobody asked.
    pub truth: StoredTarget,
    /// What it has in each field that is written; `None` for nothing.
    pub labels: Vec<Option<LocalizedLabel>>,
}

/// Reads samples with heatmaps, in the order of their ids.
#[derive(Debug)]
pub struct LocalizedSource {
    dataset: Dataset,
    heatmaps: Vec<String>,
    /// The fields that are written.
    written: Vec<String>,
    truth: Option<LabelField>,
    reader: SampleReader,
    filter: Document,
    ids: Option<Vec<ObjectId>>,
    notices: Vec<String>,
    last: Option<ObjectId>,
    /// What is left of the ids, the next ones last.
    left: Option<Vec<ObjectId>>,
}

impl LocalizedSource {
    /// The heatmaps of these fields, what the fields that are written hold, and the label that says what is true; the selection says
    /// of which samples.
    ///
    /// # Errors
    /// The selection's query is none, or one of its ids.
    pub fn new(
        dataset: &Dataset,
        heatmaps: Vec<String>,
        written: Vec<String>,
        truth: Option<LabelField>,
        selection: &Selection,
    ) -> Result<Self, Error> {
        let filter = filter(dataset, selection)?;
        let mut ids = selection.ids.as_deref().map(|ids| parse_ids(dataset, ids)).transpose()?;
        let mut notices = told_tags(dataset, &selection.tags)?;
        notices.extend(unknown_fields(dataset, selection.matching.as_deref()));
        notices.extend(unknown_ids(dataset, ids.as_deref().unwrap_or_default(), None)?);
        ids.iter_mut().for_each(|ids| ids.sort_unstable_by(|a, b| b.cmp(a)));
        let reader = SampleReader::new(truth.clone(), Vec::new(), None);
        Ok(LocalizedSource {
            dataset: dataset.clone(),
            heatmaps,
            written,
            truth,
            reader,
            filter,
            left: ids.clone(),
            ids,
            notices,
            last: None,
        })
    }

    /// What the user should know about the selection, lowercase, without a period.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Begins again with the first sample.
    pub fn rewind(&mut self) {
        self.last = None;
        self.left.clone_from(&self.ids);
    }

    /// The next samples that have heatmaps and, where the truth is asked for, a label; an empty list ends the dataset.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn next_labelled(&mut self) -> Result<Vec<LocalizedSample>, Error> {
        let mut query = vec![self.has_heatmaps()];
        query.extend(self.truth.as_ref().map(|truth| doc! {&truth.key: {"$type": ["object", "array"]}}));
        self.next(&doc! {"$and": query}, true)
    }

    /// The next samples that have heatmaps or labels made of such; an empty list ends the dataset.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn next_page(&mut self) -> Result<Vec<LocalizedSample>, Error> {
        let made = self.written.iter().map(|field| Bson::Document(doc! {format!("{field}.fingerprint"): {"$type": "string"}}));
        let any: Vec<Bson> = std::iter::once(self.has_heatmaps().into()).chain(made).collect();
        self.next(&doc! {"$or": any}, false)
    }

    fn has_heatmaps(&self) -> Document {
        let has = |field: &String| Bson::Document(doc! {format!("{field}.fingerprint"): {"$type": "string"}});
        doc! {"$or": self.heatmaps.iter().map(has).collect::<Vec<_>>()}
    }

    fn next(&mut self, query: &Document, with_truth: bool) -> Result<Vec<LocalizedSample>, Error> {
        let query = doc! {"$and": [self.filter.clone(), query.clone()]};
        let mut projection = if with_truth {
            self.reader.sources()
        } else {
            doc! {"filepath": 1}
        };
        for field in &self.heatmaps {
            projection.extend(HEATMAP_KEYS.map(|key| (format!("{field}.{key}"), 1.into())));
        }
        for field in &self.written {
            projection.extend(LABEL_KEYS.map(|key| (format!("{field}.{key}"), 1.into())));
        }
        let doing = format!("reading the heatmaps of dataset `{}`", self.dataset.name);
        let page = loop {
            let chosen = self.left.as_mut().map(|ids| ids.split_off(ids.len().saturating_sub(PAGE)));
            let query = chosen.as_deref().map_or_else(|| query.clone(), |ids| among(&query, ids));
            let page = sample_page(&self.dataset, &query, self.last, &projection, PAGE, &doing)
                .map_err(|error| refused_query(&self.dataset, error))?;
            // None of the chosen ones may have heatmaps, and there may be more of them.
            if !page.is_empty() || self.left.as_ref().is_none_or(Vec::is_empty) {
                break page;
            }
        };
        match page.last() {
            None => with_retries(|| self.dataset.check_exists())?,
            Some(last) => self.last = last.get_object_id("_id").ok(),
        }
        Ok(page.iter().map(|sample| self.read(sample, with_truth)).collect())
    }

    fn read(&self, sample: &RawDocument, with_truth: bool) -> LocalizedSample {
        let label = |field: &String| {
            let label = sample.get_document(field).ok()?;
            Some(LocalizedLabel {
                fingerprint: label.get_str("fingerprint").ok().map(str::to_owned),
                mask_path: path(label, "mask_path"),
                mask_checksum: label.get_str("mask_checksum").ok().and_then(RecordedChecksum::parse),
            })
        };
        LocalizedSample {
            id: sample.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default(),
            media_path: path(sample, "filepath").unwrap_or_default(),
            heatmaps: self.heatmaps.iter().filter_map(|field| heatmap(field, sample.get_document(field).ok()?)).collect(),
            truth: if with_truth { self.reader.read(0, sample).target } else { StoredTarget::Unlabelled },
            labels: self.written.iter().map(label).collect(),
        }
    }

    /// The maps of heatmaps that are kept in the documents, by sample and field; those that are elsewhere are left out.
    ///
    /// # Errors
    /// The database fails.
    pub fn inline_maps(&self, samples: &[&str]) -> Result<Vec<(String, String, Vec<u8>)>, Error> {
        let ids = samples.iter().filter_map(|id| ObjectId::parse_str(id).ok()).collect::<Vec<_>>();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let projection = self.heatmaps.iter().map(|field| (format!("{field}.map"), 1.into())).collect();
        let doing = format!("reading the heatmaps of dataset `{}`", self.dataset.name);
        let page: Vec<RawDocumentBuf> =
            sample_page(&self.dataset, &doc! {"_id": {"$in": &ids}}, None, &projection, ids.len(), &doing)?;
        let mut maps = Vec::new();
        for sample in &page {
            let Ok(id) = sample.get_object_id("_id") else { continue };
            for field in &self.heatmaps {
                if let Some(RawBsonRef::Binary(map)) = sample.get_document(field).ok().and_then(|label| label.get("map").ok()?) {
                    maps.push((id.to_hex(), field.clone(), map.bytes.to_vec()));
                }
            }
        }
        Ok(maps)
    }
}

fn heatmap(field: &str, label: &RawDocument) -> Option<SourceHeatmap> {
    let text = |key: &str| label.get_str(key).ok().map(str::to_owned);
    let checksum = |key: &str| label.get_str(key).ok().and_then(RecordedChecksum::parse);
    let integer = |item: RawBsonRef<'_>| item.as_i64().or_else(|| item.as_i32().map(i64::from));
    let upsampling = label.get_array("upsampling").ok();
    Some(SourceHeatmap {
        field: field.to_owned(),
        fingerprint: text("fingerprint")?,
        class: text("target_class").unwrap_or_default(),
        confidence: label.get_f64("confidence").ok(),
        method: text("method").unwrap_or_default(),
        layer: text("layer").unwrap_or_default(),
        model: text("model").unwrap_or_default(),
        map_path: path(label, "map_path"),
        npy_path: path(label, "npy_path"),
        map_checksum: checksum("map_checksum"),
        npy_checksum: checksum("npy_checksum"),
        upsampling: upsampling.and_then(|all| all.into_iter().map(|item| integer(item.ok()?)).collect()).unwrap_or_default(),
    })
}

/// The classes that the heatmaps of a field explain.
///
/// # Errors
/// The database fails.
pub fn explained_classes(dataset: &Dataset, field: &str) -> Result<Vec<String>, Error> {
    let found = with_retries(|| {
        dataset.database.run(&format!("reading the classes of field `{field}` of dataset `{}`", dataset.name), async {
            let has = doc! {format!("{field}.fingerprint"): {"$type": "string"}};
            dataset.database.collection::<Document>(&dataset.samples).distinct(format!("{field}.target_class"), has).await
        })
    })?;
    let mut classes: Vec<String> = found.into_iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    classes.sort();
    Ok(classes)
}
