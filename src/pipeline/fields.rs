//! The fields that a job writes: one per class and column, and the fingerprint that goes with each.

use super::Fingerprint;

/// Field names by class and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapFields {
    /// `[class][column]`
    names: Vec<Vec<String>>,
    /// What identifies each class: its name, channel and mask value.
    classes: Vec<String>,
    /// What identifies each column: method and module path.
    columns: Vec<String>,
}

impl HeatmapFields {
    /// Names by class and column, with what identifies each class and each column in fingerprints.
    ///
    /// # Panics
    /// If there is not one name per class and column.
    pub fn new(names: Vec<Vec<String>>, classes: Vec<String>, columns: Vec<String>) -> Self {
        assert!(
            names.len() == classes.len() && names.iter().all(|row| row.len() == columns.len()),
            "one name per class and column"
        );
        HeatmapFields { names, classes, columns }
    }

    /// The sample field of a class and column.
    pub fn name(&self, class: usize, column: usize) -> &str {
        &self.names[class][column]
    }

    /// Every field, class by class.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
    }

    /// How many heatmaps each class has.
    pub fn num_columns(&self) -> usize {
        self.columns.len()
    }

    /// The fingerprint of one heatmap, from its sample's.
    pub fn fingerprint(&self, sample: Fingerprint, class: usize, column: usize) -> String {
        sample.and("class", self.classes[class].as_bytes()).and("column", self.columns[column].as_bytes()).to_hex()
    }
}
