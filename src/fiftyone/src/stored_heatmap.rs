//! A heatmap's label as it is stored.

use std::path::PathBuf;

use bson::RawDocument;

use camflow_media::RecordedChecksum;
use camflow_pipeline::StoredHeatmap;

/// What [`heatmap`] reads.
pub(super) const HEATMAP_KEYS: [&str; 6] = ["_cls", "fingerprint", "map_path", "npy_path", "map_checksum", "npy_checksum"];

/// What a label of this field is known by.
pub(super) fn heatmap(field: &str, label: &RawDocument) -> StoredHeatmap {
    // The fingerprint vouches for a whole label. In a fragment it would keep the heatmap from being made again.
    let whole = label.get_str("_cls").ok() == Some("Heatmap");
    StoredHeatmap {
        field: field.to_owned(),
        fingerprint: label.get_str("fingerprint").ok().filter(|_| whole).map(str::to_owned),
        map_path: path(label, "map_path"),
        npy_path: path(label, "npy_path"),
        map_checksum: label.get_str("map_checksum").ok().and_then(RecordedChecksum::parse),
        npy_checksum: label.get_str("npy_checksum").ok().and_then(RecordedChecksum::parse),
    }
}

/// A path that is there, and not empty.
pub(super) fn path(document: &RawDocument, key: &str) -> Option<PathBuf> {
    document.get_str(key).ok().filter(|path| !path.is_empty()).map(PathBuf::from)
}
