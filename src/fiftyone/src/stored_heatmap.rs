//! A heatmap's label as it is stored.

use std::path::PathBuf;

use bson::{RawBsonRef, RawDocument};

use camflow_media::RecordedChecksum;
use camflow_pipeline::StoredHeatmap;

/// FiftyOne's word for a label that is a heatmap.
pub(super) const HEATMAP_CLASS: &str = "Heatmap";

/// The same of a list of detections.
pub(super) const DETECTIONS_CLASS: &str = "Detections";

/// The same of the class of an image.
pub(super) const CLASSIFICATION_CLASS: &str = "Classification";

/// The same of a mask.
pub(super) const SEGMENTATION_CLASS: &str = "Segmentation";

/// What [`heatmap`] reads.
pub(super) const HEATMAP_KEYS: [&str; 8] =
    ["_cls", "fingerprint", "map_path", "npy_path", "map_checksum", "npy_checksum", "mask_path", "mask_checksum"];

/// What labels of camflow's are.
const CLASSES: [&str; 4] = [HEATMAP_CLASS, DETECTIONS_CLASS, CLASSIFICATION_CLASS, SEGMENTATION_CLASS];

/// What [`heatmap`] reads of each detection that has a heatmap of its own.
const DETECTION_KEYS: [&str; 4] =
    ["detections.map_path", "detections.npy_path", "detections.map_checksum", "detections.npy_checksum"];

/// What [`heatmap`] reads of a field.
pub(super) fn heatmap_keys(per_detection: bool) -> impl Iterator<Item = &'static str> {
    HEATMAP_KEYS.into_iter().chain(DETECTION_KEYS.into_iter().filter(move |_| per_detection))
}

/// Where a label of this class has its picture.
pub(super) fn picture_key(class: &str) -> &'static str {
    if class == SEGMENTATION_CLASS { "mask_path" } else { "map_path" }
}

/// Where a label of this class says what that picture was.
pub(super) fn picture_checksum_key(class: &str) -> &'static str {
    if class == SEGMENTATION_CLASS { "mask_checksum" } else { "map_checksum" }
}

/// What a label of this field is known by.
pub(super) fn heatmap(field: &str, label: &RawDocument) -> StoredHeatmap {
    // The fingerprint vouches for a whole label. In a fragment it would keep the heatmap from being made again.
    let class = label.get_str("_cls").unwrap_or_default();
    let whole = CLASSES.contains(&class);
    let detections = label.get_array("detections").ok().into_iter().flatten();
    let of_detection = |detection: bson::error::Result<RawBsonRef<'_>>| {
        Some(StoredHeatmap { fingerprint: None, ..heatmap(field, detection.ok()?.as_document()?) })
    };
    StoredHeatmap {
        field: field.to_owned(),
        fingerprint: label.get_str("fingerprint").ok().filter(|_| whole).map(str::to_owned),
        map_path: path(label, picture_key(class)),
        npy_path: path(label, "npy_path"),
        map_checksum: label.get_str(picture_checksum_key(class)).ok().and_then(RecordedChecksum::parse),
        npy_checksum: label.get_str("npy_checksum").ok().and_then(RecordedChecksum::parse),
        detections: detections.filter_map(of_detection).collect(),
    }
}

/// A path that is there, and not empty.
pub(super) fn path(document: &RawDocument, key: &str) -> Option<PathBuf> {
    document.get_str(key).ok().filter(|path| !path.is_empty()).map(PathBuf::from)
}
