//! The fields that a job writes: one per class and layer, and the fingerprint that goes with each.

use super::Fingerprint;

/// Field names by class and layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapFields {
    /// `[class][layer]`
    names: Vec<Vec<String>>,
    /// What identifies each class: its name, channel and mask value.
    classes: Vec<String>,
    /// Module paths.
    layers: Vec<String>,
}

impl HeatmapFields {
    /// Names by class and layer, with what identifies each class and each layer in fingerprints.
    ///
    /// # Panics
    /// If there is not one name per class and layer.
    pub fn new(names: Vec<Vec<String>>, classes: Vec<String>, layers: Vec<String>) -> Self {
        assert!(
            names.len() == classes.len() && names.iter().all(|row| row.len() == layers.len()),
            "one name per class and layer"
        );
        HeatmapFields { names, classes, layers }
    }

    /// The sample field of a class and layer.
    pub fn name(&self, class: usize, layer: usize) -> &str {
        &self.names[class][layer]
    }

    /// Every field, class by class.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
    }

    /// How many layers each class has.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// The fingerprint of one heatmap, from its sample's.
    pub fn fingerprint(&self, sample: Fingerprint, class: usize, layer: usize) -> String {
        sample.and("class", self.classes[class].as_bytes()).and("layer", self.layers[layer].as_bytes()).to_hex()
    }
}
