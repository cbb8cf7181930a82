//! A sample as it is stored, read into what the pipeline needs of it. Labels may be null, absent, or fragments that an
//! edit left behind after somebody else removed the label.

use std::path::PathBuf;

use bson::{Document, RawBsonRef, RawDocument, raw::RawBinaryRef};

use crate::pipeline::{SampleRef, SelectedSample, StoredHeatmap, StoredMask, StoredTarget};

/// Knows which keys of a sample to ask for, and reads them.
#[derive(Clone, Debug)]
pub(super) struct SampleReader {
    /// The segmentation's key; `None` when predictions are the targets.
    label: Option<String>,
    heatmaps: Vec<String>,
}

impl SampleReader {
    pub(super) fn new(label: Option<String>, heatmaps: Vec<String>) -> Self {
        SampleReader { label, heatmaps }
    }

    /// Only what is read: other labels of a sample can be megabytes.
    pub(super) fn projection(&self) -> Document {
        let mut projection = Document::new();
        projection.insert("filepath", 1);
        if let Some(label) = &self.label {
            projection.extend(["_cls", "mask", "mask_path"].map(|key| (format!("{label}.{key}"), 1.into())));
        }
        for field in &self.heatmaps {
            projection.extend(["_cls", "fingerprint", "map_path", "npy_path"].map(|key| (format!("{field}.{key}"), 1.into())));
        }
        projection
    }

    pub(super) fn read(&self, seq: u64, sample: &RawDocument) -> SelectedSample {
        let id = sample.get_object_id("_id").map(|id| id.to_hex()).unwrap_or_default();
        // Without a path, decoding fails for this sample with a message that names it.
        let media_path = path(sample, "filepath").unwrap_or_default();
        let target = match &self.label {
            None => StoredTarget::Predicted,
            Some(label) => sample.get_document(label).ok().and_then(mask).map_or(StoredTarget::Missing, StoredTarget::Mask),
        };
        let existing =
            self.heatmaps.iter().filter_map(|field| sample.get_document(field).ok().map(|label| heatmap(field, label))).collect();
        SelectedSample { sample: SampleRef { seq, id, media_path }, target, existing }
    }
}

/// FiftyOne prefers the array where a label has both.
fn mask(label: &RawDocument) -> Option<StoredMask> {
    if label.get_str("_cls").ok() != Some("Segmentation") {
        return None;
    }
    match label.get("mask").ok().flatten() {
        Some(RawBsonRef::Binary(RawBinaryRef { bytes, .. })) => Some(StoredMask::Inline(bytes.to_vec())),
        None | Some(RawBsonRef::Null) => path(label, "mask_path").map(StoredMask::File),
        // No array: an empty one fails in decoding, which names the sample, where "no label" would hide the damage.
        Some(_) => Some(StoredMask::Inline(Vec::new())),
    }
}

fn heatmap(field: &str, label: &RawDocument) -> StoredHeatmap {
    // The fingerprint vouches for a whole label. In a fragment it would keep the heatmap from being made again.
    let whole = label.get_str("_cls").ok() == Some("Heatmap");
    StoredHeatmap {
        field: field.to_owned(),
        fingerprint: label.get_str("fingerprint").ok().filter(|_| whole).map(str::to_owned),
        map_path: path(label, "map_path"),
        npy_path: path(label, "npy_path"),
    }
}

fn path(document: &RawDocument, key: &str) -> Option<PathBuf> {
    document.get_str(key).ok().filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use bson::{Binary, Bson, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype};

    use super::*;

    fn read(label: Bson, heatmap: Bson) -> SelectedSample {
        let sample = doc! {"_id": ObjectId::from_bytes([7; 12]), "filepath": "/data/a.jpg", "gt": label, "cam": heatmap};
        let raw = RawDocumentBuf::try_from(&sample).unwrap();
        SampleReader::new(Some("gt".into()), vec!["cam".into()]).read(3, &raw)
    }

    fn target(label: impl Into<Bson>) -> StoredTarget {
        read(label.into(), Bson::Null).target
    }

    #[test]
    fn masks_are_read_from_the_document_or_by_path() {
        let bytes = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] });
        let inline = StoredTarget::Mask(StoredMask::Inline(vec![1, 2]));
        assert_eq!(target(doc! {"_cls": "Segmentation", "mask": &bytes}), inline);
        assert_eq!(target(doc! {"_cls": "Segmentation", "mask": &bytes, "mask_path": "/m.png"}), inline);
        let file = StoredTarget::Mask(StoredMask::File("/m.png".into()));
        assert_eq!(target(doc! {"_cls": "Segmentation", "mask": null, "mask_path": "/m.png"}), file);
        assert_eq!(target(doc! {"_cls": "Segmentation", "mask": "?"}), StoredTarget::Mask(StoredMask::Inline(Vec::new())));
    }

    #[test]
    fn null_and_fragments_are_no_labels() {
        let cases = [Bson::Null, doc! {}.into(), doc! {"note": "x"}.into(), doc! {"_cls": "Segmentation"}.into(), 3.into()];
        for label in cases {
            assert_eq!(target(label), StoredTarget::Missing);
        }
    }

    #[test]
    fn stored_heatmaps_are_read_back() {
        let label = doc! {"_cls": "Heatmap", "fingerprint": "f", "map_path": "/a.png", "npy_path": null};
        let sample = read(Bson::Null, label.into());
        let expected =
            StoredHeatmap { field: "cam".into(), fingerprint: Some("f".into()), map_path: Some("/a.png".into()), npy_path: None };
        assert_eq!(sample.existing, [expected]);
        assert_eq!((sample.sample.seq, sample.sample.id.len()), (3, 24));
        let fragment = read(Bson::Null, doc! {"fingerprint": "f"}.into());
        assert_eq!(fragment.existing[0].fingerprint, None);
        assert!(read(Bson::Null, Bson::Null).existing.is_empty());
    }

    #[test]
    fn only_what_is_read_is_asked_for() {
        let reader = SampleReader::new(None, vec!["cam".into()]);
        let expected = doc! {"filepath": 1, "cam._cls": 1, "cam.fingerprint": 1, "cam.map_path": 1, "cam.npy_path": 1};
        assert_eq!(reader.projection(), expected);
    }
}
