//! Maps that are kept in the documents, of the heatmaps that name no file.

use std::collections::HashMap;

use camflow_fiftyone::{Error, LocalizedSample, LocalizedSource, SourceHeatmap};

/// By sample and field.
#[derive(Debug, Default)]
pub(super) struct InlineMaps(HashMap<(String, String), Vec<u8>>);

impl InlineMaps {
    /// Reads those of these heatmaps that need it.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn read<'a>(
        source: &LocalizedSource,
        heatmaps: impl Iterator<Item = (&'a LocalizedSample, &'a SourceHeatmap)>,
    ) -> Result<InlineMaps, Error> {
        let needed = heatmaps.filter(|(_, heatmap)| heatmap.npy_path.is_none() && heatmap.map_path.is_none());
        let mut samples: Vec<&str> = needed.map(|(sample, _)| sample.id.as_str()).collect();
        samples.dedup();
        let maps = source.inline_maps(&samples)?;
        Ok(InlineMaps(maps.into_iter().map(|(sample, field, map)| ((sample, field), map)).collect()))
    }

    /// The map of a sample in a field.
    pub(super) fn get(&self, sample: &str, field: &str) -> Option<&[u8]> {
        self.0.get(&(sample.to_owned(), field.to_owned())).map(Vec::as_slice)
    }
}
