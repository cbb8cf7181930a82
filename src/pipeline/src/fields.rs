//! The fields that a job writes: one per class and column, and the fingerprint that goes with each.

use crate::{
    fingerprint::{Fingerprint, Ingredient, SampleFingerprint},
    grid::{ClassIndex, ColumnIndex, Grid},
    message::StoredHeatmap,
};

/// Field names by class and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeatmapFields {
    names: Grid<ClassIndex, ColumnIndex, String>,
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
        let names = Grid::from_rows(columns.len(), names).filter(|names| names.size().0 == classes.len());
        HeatmapFields { names: names.expect("one name per class and column"), classes, columns }
    }

    /// The sample field of a class and column.
    pub fn name(&self, class: ClassIndex, column: ColumnIndex) -> &str {
        &self.names[(class, column)]
    }

    /// Every field, class by class.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.cells().map(|(_, name)| name)
    }

    /// The same with the class and the column of each.
    pub fn cells(&self) -> impl Iterator<Item = ((ClassIndex, ColumnIndex), &str)> {
        self.names.cells().map(|(place, name)| (place, name.as_str()))
    }

    /// The columns of each class.
    pub fn columns(&self) -> impl Iterator<Item = ColumnIndex> + use<> {
        (0..self.columns.len()).map(ColumnIndex)
    }

    /// The fingerprint of one heatmap, from its sample's.
    pub fn fingerprint(&self, sample: &SampleFingerprint, class: ClassIndex, column: ColumnIndex) -> Fingerprint {
        Self::fingerprint_of(sample.of(class), &self.classes[class.0], &self.columns[column.0])
    }

    /// The same for a class and a column that identify themselves otherwise.
    pub fn fingerprint_of(sample: Fingerprint, class: &str, column: &str) -> Fingerprint {
        let sample = sample.and(Ingredient::Settings, "class", class.as_bytes());
        sample.and(Ingredient::Settings, "column", column.as_bytes())
    }

    /// The fingerprint of all heatmaps together, from their sample's.
    pub(crate) fn fingerprint_of_all(&self, sample: Fingerprint) -> Fingerprint {
        let with =
            |what: &'static str| move |sample: Fingerprint, of: &String| sample.and(Ingredient::Settings, what, of.as_bytes());
        let sample = self.classes.iter().fold(sample, with("class"));
        self.columns.iter().fold(sample, with("column"))
    }

    /// Of a sample's heatmaps those of camflow's that explain one of the classes `absent`, which it has no more.
    pub fn withdrawn<'a>(
        &self,
        existing: &'a [StoredHeatmap],
        absent: impl Fn(ClassIndex) -> bool,
    ) -> impl Iterator<Item = &'a StoredHeatmap> {
        let fields: Vec<&str> = self.cells().filter(|((class, _), _)| absent(*class)).map(|(_, name)| name).collect();
        existing.iter().filter(move |stored| stored.fingerprint.is_some() && fields.contains(&stored.field.as_str()))
    }
}
