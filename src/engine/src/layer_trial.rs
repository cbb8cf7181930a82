//! `--layers auto`: the last layers of a model are tried on a few images, and the one whose heatmaps are most faithful is explained.
//!
//! A layer is as good as its heatmaps' insertion AUC less their deletion AUC (see `--faithfulness`), in the mean over all classes and
//! methods. A heatmap without attention says nothing and counts 0.

use std::{collections::BTreeMap, mem, path::PathBuf};

use camflow_diagnostic::{Class, Diagnostic};
use camflow_measure::{Measure, Measures};
use camflow_pipeline::{
    BatchLimit, Cancellation, CommitOutcome, Decoder, Encoder, Explainer, KnownFailures, NpyFormat, Parts, RunError, RunOptions,
    SampleUpdate, SelectedSample, Sink, SkipReason, Source, SpaceCheck, Store, run,
};
use camflow_torch::explain::{Column, ExplainOptions};

use super::aborted;

/// Images with heatmaps that decide: each takes 60 forward passes for each layer, class and method.
const NUM_IMAGES: usize = 8;

/// Images that are looked at for that many: in most there may be none of the classes.
pub const MAX_SEEN: usize = 64;

/// What is measured of the layers that are tried.
pub struct LayerTrial {
    columns: Vec<Column>,
    /// Of each layer its heatmaps' insertion AUC less their deletion AUC.
    gains: Vec<Vec<f64>>,
    num_images: usize,
}

impl LayerTrial {
    /// Of the layers with these options, which are changed so that faithfulness is measured, and it alone.
    pub fn new(options: &mut ExplainOptions) -> Self {
        options.faithfulness = true;
        options.counterfactuals = None;
        let gains = vec![Vec::new(); options.layers.len()];
        LayerTrial { columns: options.columns(), gains, num_images: 0 }
    }

    /// Whether enough images were explained.
    pub fn is_complete(&self) -> bool {
        self.num_images >= NUM_IMAGES
    }

    /// Adds what was measured of an image's heatmaps: of each of its classes, column by column.
    pub fn add<'m>(&mut self, heatmaps: impl IntoIterator<Item = &'m Measures>) {
        let mut num_heatmaps = 0;
        for (measures, column) in heatmaps.into_iter().zip(self.columns.iter().cycle()) {
            num_heatmaps += 1;
            let areas = [Measure::InsertionAuc, Measure::DeletionAuc].map(|area| measures.get(area).unwrap_or_default());
            for layer in &column.layers {
                self.gains[usize::from(*layer)].push(areas[0] - areas[1]);
            }
        }
        self.num_images += usize::from(num_heatmaps > 0);
    }

    /// Which layer is best, with a sentence that says so. Of equal ones it is the last.
    ///
    /// # Errors
    /// No image had a heatmap.
    pub fn best(&self) -> Result<(usize, String), Diagnostic> {
        if self.num_images == 0 {
            return Err(Diagnostic::invalid(format!(
                "no layer can be chosen: none of the first images, {MAX_SEEN} at most, has anything to explain"
            ))
            .hint("name a layer with `--layers`, or other classes"));
        }
        // Beyond four digits it is chance.
        let mean = |gains: &Vec<f64>| (1e4 * gains.iter().sum::<f64>() / gains.len().max(1) as f64).round() / 1e4;
        let means: Vec<f64> = self.gains.iter().map(mean).collect();
        let best = (0..means.len()).max_by(|one, other| means[*one].total_cmp(&means[*other])).unwrap_or_default();
        let column = |layer: usize| self.columns.iter().find(|column| column.layers.contains(&layer.into()));
        let label = |layer: usize| column(layer).map_or("?", |column| &column.label);
        let figures: Vec<String> =
            means.iter().enumerate().map(|(layer, mean)| format!("`{}` {mean:.4}", label(layer))).collect();
        let images = if self.num_images == 1 { "1 image".to_owned() } else { format!("{} images", self.num_images) };
        let path = column(best).map_or("?", |column| &column.path);
        let sentence = format!(
            "layer `{}` (`{path}`) is explained: its heatmaps are the most faithful ones on {images} (insertion less deletion AUC: {})",
            label(best),
            figures.join(", ")
        );
        Ok((best, sentence))
    }

    /// Tries the layers on samples, in their order.
    ///
    /// # Errors
    /// The run is aborted or interrupted.
    pub(super) fn run(
        &mut self,
        samples: Vec<SelectedSample>,
        decoder: Decoder,
        explainer: &mut dyn Explainer,
        cancellation: &Cancellation,
    ) -> Result<(), Diagnostic> {
        // Nothing is written, and what is up to date is explained, too.
        let decoder = Decoder { overwrite: true, predictions: None, ..decoder };
        let encoder = Encoder {
            folder: PathBuf::new(),
            fields: decoder.fields.clone(),
            preceding: vec![None; self.columns.len()],
            store: Store::Inline,
            npy: NpyFormat::None,
            absence: SkipReason::ClassAbsent,
            predictions: None,
            class_names: BTreeMap::new(),
        };
        for some in samples.chunks(NUM_IMAGES) {
            let mut updates = Updates::default();
            let parts = Parts {
                source: &mut Samples(some.to_vec()),
                decoder: &decoder,
                explainers: vec![&mut *explainer],
                encoder: &encoder,
                sink: &mut updates,
                orphans: None,
                known: &mut KnownFailures::default(),
            };
            // One by one, so that the same samples always give the same numbers.
            let options = RunOptions {
                batch_limit: Some(BatchLimit::samples(1)),
                num_workers: 1,
                max_failures: None,
                space_check: SpaceCheck::Off,
                most_bytes: None,
            };
            let (_, fault) = run(parts, options, cancellation, &|_| {});
            fault.map_or(Ok(()), |fault| Err(aborted(fault)))?;
            if cancellation.is_cancelled() {
                return Err(Diagnostic::new(Class::Interrupted, "interrupted while layers were tried"));
            }
            updates.0.sort_by_key(|update| update.sample.seq);
            for update in &updates.0 {
                self.add(update.heatmaps.iter().map(|heatmap| &heatmap.measures));
            }
            if self.is_complete() {
                break;
            }
        }
        Ok(())
    }
}

/// Samples that are there already.
struct Samples(Vec<SelectedSample>);

impl Source for Samples {
    fn num_samples(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }

    fn next_samples(&mut self) -> Result<Vec<SelectedSample>, RunError> {
        Ok(mem::take(&mut self.0))
    }
}

/// Keeps what samples would be given.
#[derive(Default)]
struct Updates(Vec<SampleUpdate>);

impl Sink for Updates {
    fn commit(&mut self, updates: &[SampleUpdate]) -> Result<Vec<CommitOutcome>, RunError> {
        self.0.extend_from_slice(updates);
        Ok(vec![CommitOutcome::Committed; updates.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_torch::explain::Method;

    fn trial(num_layers: usize) -> LayerTrial {
        let columns = (0..num_layers).map(|layer| Column {
            method: Method::Gradcam,
            label: layer.to_string(),
            path: format!("layer{layer}"),
            layers: vec![layer.into()],
        });
        LayerTrial { columns: columns.collect(), gains: vec![Vec::new(); num_layers], num_images: 0 }
    }

    fn measured(insertion: f64, deletion: f64) -> Measures {
        Measures::default().with(Measure::InsertionAuc, insertion).with(Measure::DeletionAuc, deletion)
    }

    #[test]
    fn the_layer_with_the_largest_area_between_the_curves_is_best() {
        let mut trial = trial(3);
        // Two classes in the first image; a heatmap without attention counts 0.
        let first = [measured(0.5, 0.4), measured(0.9, 0.2), Measures::default()];
        trial.add(first.iter().chain(&[measured(0.6, 0.2), measured(0.8, 0.2), measured(0.8, 0.1)]));
        trial.add(&[measured(0.6, 0.2), measured(0.5, 0.2), measured(0.5, 0.1)]);
        trial.add(&[]);
        let (layer, sentence) = trial.best().expect("a layer");
        assert!(layer == 1 && sentence.starts_with("layer `1` (`layer1`) is explained"), "{sentence}");
        assert!(sentence.contains("on 2 images (insertion less deletion AUC: `0` 0.3000, `1` 0.5333, `2` 0.3667)"), "{sentence}");
    }

    #[test]
    fn of_equal_layers_the_last_is_taken_and_without_heatmaps_none() {
        let mut trial = trial(2);
        assert!(trial.best().expect_err("nothing was seen").message.contains("no layer can be chosen"));
        trial.add(&[measured(0.5, 0.25), measured(0.500_001, 0.25)]);
        trial.add(&[measured(0.5, 0.25), measured(0.5, 0.250_001)]);
        assert_eq!(trial.best().expect("a layer").0, 1);
        assert!(!trial.is_complete());
    }
}
