//! What the engine says while it works.

use camflow_pipeline::{Event, RunError, Summary, Survey};

/// Hears what happens to a job. Texts are lowercase sentences without a period.
pub trait Observer: Sync {
    /// Something worth knowing.
    fn notice(&self, _text: &str) {}

    /// A step of the preparation that takes a moment.
    fn step(&self, _text: &str) {}

    /// Something that should not be so, but does not stop the run.
    fn warning(&self, _text: &str) {}

    /// What happens in the run.
    fn tell(&self, _event: Event) {}

    /// The run is over, with a fault or without one.
    fn finish(&self, _summary: &Summary, _fault: Option<&RunError>) {}

    /// Samples of the dataset have new heatmaps, and nothing is left to do.
    fn annotated(&self, _dataset: &str) {}

    /// A dry run is over; every sample that would be annotated would get a heatmap of each class in so many columns.
    fn surveyed(&self, _survey: &Survey, _num_columns: usize) {}
}

/// Hears nothing.
impl Observer for () {}
