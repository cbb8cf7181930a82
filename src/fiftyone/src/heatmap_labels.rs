//! What `camflow check` asks of the database: the labels whose files camflow wrote, and notes on those whose content is damaged.

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    dataset::Dataset,
    error::Error,
    label_change::{LabelChange, change_labels},
    lock::Lock,
    retry::with_retries,
    sample_page::sample_page,
    stored_heatmap::{SEGMENTATION_CLASS, heatmap, heatmap_keys, picture_checksum_key, picture_key},
};
use camflow_media::{FileForm, RecordedChecksum};
use camflow_pipeline::StoredHeatmap;

/// Samples per query, without and with their inline maps.
const PAGE: [usize; 2] = [1000, 32];

/// Where heatmaps and masks are in documents.
const INLINE: [&str; 2] = ["map", "mask"];

/// A label of camflow's with what it holds: a heatmap, or a mask that was predicted or made of heatmaps.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatmapLabel {
    sample: ObjectId,
    /// The detection that it is of, in a field of detections.
    detection: Option<ObjectId>,
    /// What it says, with its field.
    pub stored: StoredHeatmap,
    /// The map or mask in the document itself.
    pub inline: InlineMap,
    /// FiftyOne's word for what it is.
    class: String,
    /// As they stand in the label, whatever that is.
    checksums: [Bson; 2],
}

/// Whether a label holds its map, or mask, in the document.
#[derive(Clone, Debug, PartialEq)]
pub enum InlineMap {
    /// It does not.
    Absent,
    /// It does; the map was not asked for.
    Unread,
    /// It does: a zlib stream of a complete `.npy` file, or what became of it.
    Content(Vec<u8>),
}

impl HeatmapLabel {
    /// The sample's id.
    pub fn sample(&self) -> String {
        self.sample.to_hex()
    }

    /// Whether its picture is a mask.
    pub fn is_mask(&self) -> bool {
        self.class == SEGMENTATION_CLASS
    }
}

/// What to write into a label about one of its files.
#[derive(Clone, Debug)]
pub struct ChecksumNote<'a> {
    /// The label as it was read: one that changed since keeps what it has.
    pub label: &'a HeatmapLabel,
    /// Which of the files.
    pub file: FileForm,
    /// What the label is to say of it.
    pub checksum: Option<RecordedChecksum>,
}

/// Reads the heatmap labels of a dataset in the order of the samples' ids.
#[derive(Debug)]
pub struct HeatmapLabelSource {
    dataset: Dataset,
    fields: Vec<String>,
    with_maps: bool,
    last: Option<ObjectId>,
}

/// Writes notes into labels that are still what they were when they were read; returns how many it wrote.
///
/// # Errors
/// The lock was lost, or the database fails.
pub fn note_checksums(dataset: &Dataset, notes: &[ChecksumNote<'_>], lock: &Lock) -> Result<u64, Error> {
    let changes: Vec<LabelChange> = notes.iter().map(change).collect();
    change_labels(dataset, &changes, lock, &format!("noting damaged files in the labels of dataset `{}`", dataset.name))
}

/// Only the one attribute of a label that still says the same of the file, and of the heatmap.
fn change(note: &ChecksumNote<'_>) -> LabelChange {
    let HeatmapLabel { sample, detection, stored, checksums, class, .. } = note.label;
    let (path_key, path, checksum_key, checksum) = match note.file {
        FileForm::Png => (picture_key(class), &stored.map_path, picture_checksum_key(class), &checksums[0]),
        FileForm::Npy => ("npy_path", &stored.npy_path, "npy_checksum", &checksums[1]),
    };
    let key = |key: &str| format!("{}.{key}", stored.field);
    let text = note.checksum.map(|checksum| checksum.to_string());
    let path = path.as_ref().map(|path| path.to_string_lossy().into_owned());
    if let Some(id) = detection {
        let same = doc! {"_id": id, path_key: path, checksum_key: checksum};
        let query = doc! {"_id": sample, key("fingerprint"): &stored.fingerprint, key("detections"): {"$elemMatch": same}};
        let noted = doc! {"$mergeObjects": ["$$one", {checksum_key: {"$literal": text}}]};
        let each = doc! {"$cond": [{"$eq": ["$$one._id", id]}, noted, "$$one"]};
        let all = doc! {"$map": {"input": format!("${}", key("detections")), "as": "one", "in": each}};
        return LabelChange { query, update: vec![doc! {"$set": {key("detections"): all, "last_modified_at": "$$NOW"}}] };
    }
    // Null also matches what is not there, as in the labels of earlier versions.
    let query = doc! {
        "_id": sample, key("fingerprint"): &stored.fingerprint, key(path_key): path, key(checksum_key): checksum,
    };
    let update = vec![doc! {"$set": {key(checksum_key): {"$literal": text}, "last_modified_at": "$$NOW"}}];
    LabelChange { query, update }
}

impl HeatmapLabelSource {
    /// The labels that camflow wrote into these fields, with or without the maps that are in the documents.
    pub fn new(dataset: &Dataset, fields: Vec<String>, with_maps: bool) -> HeatmapLabelSource {
        HeatmapLabelSource { dataset: dataset.clone(), fields, with_maps, last: None }
    }

    /// The next labels; an empty list ends the dataset.
    ///
    /// # Errors
    /// The database fails, or the dataset is gone.
    pub fn next_page(&mut self) -> Result<Vec<HeatmapLabel>, Error> {
        loop {
            let page = self.read(&Document::new(), self.last)?;
            match page.last() {
                None => with_retries(|| self.dataset.check_exists())?,
                Some(last) => self.last = last.get_object_id("_id").ok(),
            }
            let labels: Vec<_> = page.iter().flat_map(|sample| self.labels(sample)).collect();
            // What has a fingerprint may still be no label.
            if page.is_empty() || !labels.is_empty() {
                return Ok(labels);
            }
        }
    }

    /// These labels as they are now; those that are gone are left out.
    ///
    /// # Errors
    /// The database fails.
    pub fn again(&self, labels: &[&HeatmapLabel]) -> Result<Vec<HeatmapLabel>, Error> {
        let mut now = Vec::new();
        for part in labels.chunks(self.page_size()) {
            let ids: Vec<ObjectId> = part.iter().map(|label| label.sample).collect();
            let samples = self.read(&doc! {"_id": {"$in": ids}}, None)?;
            let is_meant = |label: &HeatmapLabel| {
                let known = |label: &HeatmapLabel| (label.sample, label.detection, label.stored.field.clone());
                part.iter().any(|meant| known(meant) == known(label))
            };
            now.extend(samples.iter().flat_map(|sample| self.labels(sample)).filter(is_meant));
        }
        Ok(now)
    }

    fn page_size(&self) -> usize {
        PAGE[usize::from(self.with_maps)]
    }

    fn read(&self, chosen: &Document, after: Option<ObjectId>) -> Result<Vec<RawDocumentBuf>, Error> {
        let has = |field: &String| Bson::Document(doc! {format!("{field}.fingerprint"): {"$type": "string"}});
        let query = doc! {"$and": [chosen.clone(), {"$or": self.fields.iter().map(has).collect::<Vec<_>>()}]};
        let mut projection = doc! {"_id": 1};
        for field in &self.fields {
            projection.extend(heatmap_keys(true).chain(["detections._id"]).map(|key| (format!("{field}.{key}"), 1.into())));
            for key in INLINE {
                let key = format!("{field}.{key}");
                let map: Bson = if self.with_maps { 1.into() } else { doc! {"$type": format!("${key}")}.into() };
                projection.insert(key, map);
            }
        }
        let doing = format!("reading the heatmaps of dataset `{}`", self.dataset.name);
        sample_page(&self.dataset, &query, after, &projection, self.page_size(), &doing)
    }

    fn labels(&self, sample: &RawDocument) -> Vec<HeatmapLabel> {
        let Ok(id) = sample.get_object_id("_id") else { return Vec::new() };
        let labels = |field: &String| {
            let Ok(label) = sample.get_document(field) else { return Vec::new() };
            let StoredHeatmap { fingerprint: Some(fingerprint), detections, .. } = heatmap(field, label) else {
                return Vec::new();
            };
            let made = |of: &RawDocument, detection: Option<ObjectId>| {
                let stored =
                    StoredHeatmap { fingerprint: Some(fingerprint.clone()), detections: Vec::new(), ..heatmap(field, of) };
                let checksum = |key| of.get(key).ok().flatten().and_then(|value| value.try_into().ok()).unwrap_or(Bson::Null);
                let class = of.get_str("_cls").unwrap_or_default().to_owned();
                let checksums = [picture_checksum_key(&class), "npy_checksum"].map(checksum);
                HeatmapLabel { sample: id, detection, stored, inline: self.inline(of, &class), class, checksums }
            };
            if detections.is_empty() {
                return vec![made(label, None)];
            }
            let each = label.get_array("detections").ok().into_iter().flatten();
            let each = each.filter_map(|detection| detection.ok()?.as_document());
            each.map(|detection| made(detection, detection.get_object_id("_id").ok())).collect()
        };
        self.fields.iter().flat_map(labels).collect()
    }

    fn inline(&self, label: &RawDocument, class: &str) -> InlineMap {
        match label.get(INLINE[usize::from(class == SEGMENTATION_CLASS)]).ok().flatten() {
            Some(RawBsonRef::String("binData")) if !self.with_maps => InlineMap::Unread,
            Some(RawBsonRef::Binary(map)) => InlineMap::Content(map.bytes.to_vec()),
            _ => InlineMap::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stored_heatmap::HEATMAP_CLASS, *};
    use camflow_media::Checksum;

    #[test]
    fn a_note_is_for_the_label_that_was_read_and_no_other() {
        let recorded = |is_damaged| Some(RecordedChecksum { checksum: Some(Checksum::of(b"npy")), is_damaged });
        let stored = StoredHeatmap {
            field: "cam".into(),
            fingerprint: Some("f".into()),
            npy_path: Some("/out/a.npy".into()),
            npy_checksum: recorded(false),
            ..StoredHeatmap::default()
        };
        let checksums = [Bson::Null, Checksum::of(b"npy").to_string().into()];
        let sample = ObjectId::from_bytes([7; 12]);
        let class = HEATMAP_CLASS.to_owned();
        let label = HeatmapLabel { sample, detection: None, stored, inline: InlineMap::Absent, class, checksums };
        let made = change(&ChecksumNote { label: &label, file: FileForm::Npy, checksum: recorded(true) });
        let text = Checksum::of(b"npy").to_string();
        let expected = doc! {
            "_id": label.sample, "cam.fingerprint": "f", "cam.npy_path": "/out/a.npy", "cam.npy_checksum": &text,
        };
        assert_eq!(made.query, expected);
        let set = doc! {"cam.npy_checksum": {"$literal": format!("damaged:{text}")}, "last_modified_at": "$$NOW"};
        assert_eq!(made.update, [doc! {"$set": set}]);
        // A label of an earlier version, whose map is damaged.
        let made = change(&ChecksumNote { label: &label, file: FileForm::Png, checksum: None });
        let expected = doc! {"_id": label.sample, "cam.fingerprint": "f", "cam.map_path": null, "cam.map_checksum": null};
        assert_eq!(made.query, expected);
    }
}
