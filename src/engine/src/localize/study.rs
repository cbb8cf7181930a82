//! What labelled samples say of heatmaps: which threshold fits them best, and how well they localize.

use std::collections::BTreeMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{
    Failures, LocalizeSpec, Series,
    heat::Heat,
    inline::InlineMaps,
    truth::{Truth, TruthReader},
};
use camflow_fiftyone::{Error, LocalizedSample, LocalizedSource, SourceHeatmap};
use camflow_measure::localization::{
    BoxAccuracy, BoxRule, PixelPrecision, STEPS, Threshold, ThresholdStudy, best_overlaps, box_ious, pixel_ious,
};
use camflow_media::{ImageLimits, MediaError, with_large_pictures_in_turn};
use camflow_pipeline::Cancellation;

/// What a threshold is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// IoU of pixels with those of the labelled object.
    Pixels,
    /// IoU of the area that boxes cover with that of the labelled ones.
    Boxes,
}

impl Criterion {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Criterion::Pixels => "pixels",
            Criterion::Boxes => "boxes",
        }
    }
}

/// The labelled heatmaps of a field and class, or of several, summed up.
#[derive(Clone, Debug, Default)]
pub(super) struct Study {
    pixels: ThresholdStudy,
    boxes: ThresholdStudy,
    pub accuracy: BoxAccuracy,
    pub precision: PixelPrecision,
}

impl Study {
    /// How many there are.
    pub(super) fn num_maps(&self) -> u64 {
        self.pixels.num_maps()
    }

    /// The IoU by threshold.
    pub(super) fn by(&self, criterion: Criterion) -> &ThresholdStudy {
        match criterion {
            Criterion::Pixels => &self.pixels,
            Criterion::Boxes => &self.boxes,
        }
    }

    fn add(&mut self, one: &Observation) {
        self.pixels.add(&one.pixels);
        if let Some((ious, overlaps)) = &one.boxes {
            self.boxes.add(ious);
            self.accuracy.add(overlaps);
        }
        self.precision.merge(&one.precision);
    }
}

/// One heatmap beside its label.
struct Observation {
    pixels: [f64; STEPS],
    /// Where the label has boxes: IoU by threshold, and the evaluator's.
    boxes: Option<([f64; STEPS], Vec<f64>)>,
    precision: PixelPrecision,
    is_masked: bool,
}

impl Observation {
    fn new(heat: &Heat, truth: &Truth, rule: BoxRule) -> Self {
        let mut precision = PixelPrecision::default();
        precision.add(&heat.values, &truth.pixels);
        let boxes = (!truth.boxes.is_empty()).then(|| {
            let ious = box_ious(&heat.steps, heat.size, &truth.covered, rule);
            (ious, best_overlaps(&heat.levels, heat.size, &truth.boxes))
        });
        Observation { pixels: pixel_ious(&heat.steps, &truth.pixels), boxes, precision, is_masked: truth.is_masked }
    }
}

/// All labelled heatmaps.
#[derive(Clone, Debug, Default)]
pub(super) struct Studies {
    /// By field and class.
    pub(super) by_series: BTreeMap<(String, String), Study>,
    /// By field, of all its classes.
    pub(super) by_field: BTreeMap<String, Study>,
    /// Of all.
    pub(super) all: Study,
    num_unmasked: u64,
    /// Heatmaps of samples whose label has no object of the class.
    pub(super) num_without_object: u64,
}

impl Studies {
    /// Masks say more than boxes, if all objects have some.
    pub(super) fn criterion(&self) -> Criterion {
        if self.num_unmasked == 0 { Criterion::Pixels } else { Criterion::Boxes }
    }

    /// Reads all labelled samples, until it is cancelled.
    ///
    /// # Errors
    /// The database fails.
    pub(super) fn read(
        source: &mut LocalizedSource,
        reader: &TruthReader,
        series: &[Series],
        spec: &LocalizeSpec,
        failures: &mut Failures<'_>,
        cancellation: &Cancellation,
    ) -> Result<Studies, Error> {
        let mut studies = Studies::default();
        source.rewind();
        while !cancellation.is_cancelled() {
            let page = source.next_labelled()?;
            if page.is_empty() {
                break;
            }
            let inline =
                InlineMaps::read(source, page.iter().flat_map(|sample| sample.heatmaps.iter().map(move |one| (sample, one))))?;
            let number =
                |heatmap: &SourceHeatmap| series.iter().position(|one| one.field == heatmap.field && one.class == heatmap.class);
            let work: Vec<(&LocalizedSample, &SourceHeatmap, usize)> = page
                .iter()
                .flat_map(|sample| sample.heatmaps.iter().map(move |heatmap| (sample, heatmap)))
                .filter_map(|(sample, heatmap)| Some((sample, heatmap, number(heatmap)?)))
                .collect();
            let rule = spec.rule();
            let look = |(sample, heatmap, number): &(&LocalizedSample, &SourceHeatmap, usize)| {
                let inline = inline.get(&sample.id, &heatmap.field);
                with_large_pictures_in_turn(|| observe(heatmap, *number as i64, sample, inline, reader, rule))
            };
            // In order, whoever is done first: sums of floats are then the same next time.
            let found: Vec<_> = work.par_iter().map(look).collect();
            for ((sample, heatmap, _), found) in work.into_iter().zip(found) {
                match found {
                    Err(error) => failures.add(sample, &heatmap.field, &error),
                    Ok(None) => studies.num_without_object += 1,
                    Ok(Some(one)) => studies.add(heatmap, &one),
                }
            }
        }
        Ok(studies)
    }

    fn add(&mut self, heatmap: &SourceHeatmap, one: &Observation) {
        self.num_unmasked += u64::from(!one.is_masked);
        let field = heatmap.field.clone();
        self.by_series.entry((field.clone(), heatmap.class.clone())).or_default().add(one);
        self.by_field.entry(field).or_default().add(one);
        self.all.add(one);
    }
}

fn observe(
    heatmap: &SourceHeatmap,
    number: i64,
    sample: &LocalizedSample,
    inline: Option<&[u8]>,
    reader: &TruthReader,
    rule: BoxRule,
) -> Result<Option<Observation>, MediaError> {
    let heat = Heat::read(heatmap, inline, &ImageLimits::default())?;
    let truth = reader.read(&sample.truth, (&heatmap.class, number), heat.size, heat.seen.as_ref())?;
    Ok(truth.map(|truth| Observation::new(&heat, &truth, rule)))
}

/// Where a threshold is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdSource {
    /// It was given.
    Given,
    /// Learnt on labelled samples of the class.
    Learnt,
    /// Learnt on labelled samples of the other classes of the field: of this one there are none.
    LearntOnOthers,
}

impl ThresholdSource {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            ThresholdSource::Given => "given",
            ThresholdSource::Learnt => "learnt",
            ThresholdSource::LearntOnOthers => "learnt on other classes",
        }
    }
}

/// The threshold of a field and class; `None` where no sample of the field is labelled.
pub(super) fn threshold(
    series: &Series,
    given: Option<Threshold>,
    studies: Option<&Studies>,
) -> Option<(Threshold, ThresholdSource)> {
    if let Some(given) = given {
        return Some((given, ThresholdSource::Given));
    }
    let studies = studies?;
    let criterion = studies.criterion();
    let own = studies.by_series.get(&(series.field.clone(), series.class.clone()));
    let own = own.and_then(|study| study.by(criterion).best()).map(|best| (best, ThresholdSource::Learnt));
    let others = || studies.by_field.get(&series.field)?.by(criterion).best().map(|best| (best, ThresholdSource::LearntOnOthers));
    own.or_else(others)
}
