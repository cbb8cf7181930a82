//! The fields that a job writes: one per class and column, and the fingerprint that goes with each.

use super::{Fingerprint, Ingredient, SampleFingerprint, StoredHeatmap};

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
    pub fn fingerprint(&self, sample: &SampleFingerprint, class: usize, column: usize) -> Fingerprint {
        Self::fingerprint_of(sample.of(class), &self.classes[class], &self.columns[column])
    }

    /// The same for a class and a column that identify themselves otherwise.
    pub fn fingerprint_of(sample: Fingerprint, class: &str, column: &str) -> Fingerprint {
        let sample = sample.and(Ingredient::Settings, "class", class.as_bytes());
        sample.and(Ingredient::Settings, "column", column.as_bytes())
    }

    /// The fingerprint of all heatmaps together, from their sample's.
    pub(super) fn fingerprint_of_all(&self, sample: Fingerprint) -> Fingerprint {
        let with =
            |what: &'static str| move |sample: Fingerprint, of: &String| sample.and(Ingredient::Settings, what, of.as_bytes());
        let sample = self.classes.iter().fold(sample, with("class"));
        self.columns.iter().fold(sample, with("column"))
    }

    /// Of a sample's heatmaps those of camflow's that explain one of the classes `absent`, which it has no more.
    pub fn withdrawn<'a>(
        &self,
        existing: &'a [StoredHeatmap],
        absent: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = &'a StoredHeatmap> {
        let fields: Vec<&str> = (0..self.names.len())
            .filter(|class| absent(*class))
            .flat_map(|class| &self.names[class])
            .map(String::as_str)
            .collect();
        existing.iter().filter(move |stored| stored.fingerprint.is_some() && fields.contains(&stored.field.as_str()))
    }
}
