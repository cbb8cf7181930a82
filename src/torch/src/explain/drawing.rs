//! From the saliency of a batch to heatmaps over its images: those of one size at once.

use tch::{Device, Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    Fusion, HeatmapSize, TorchExplainer,
    grid::{Cell, ColumnIndex, Grid, SampleIndex},
    heatmap,
    saliency::PassMaps,
    smoothing::Variant,
    target::index_tensor,
};
use crate::program::to_host;
use camflow_media::{FrameRegion, Upsampling};
use camflow_pipeline::DecodedSample;

/// Heatmaps on the device.
#[derive(Debug)]
pub(super) struct DeviceMaps {
    /// `[N, H, W]`, as they are stored.
    pub shown: Tensor,
    /// `[N, H, W]` over the model's input, where those are other ones and are needed.
    pub of_input: Option<Tensor>,
    /// `[N, H', W']` in `[0, 1]`, from which they were drawn, and how; where somebody wants it, and it is one and smaller.
    pub layer_map: Option<LayerMap>,
}

/// The map of a layer, and how heatmaps are drawn from it.
type LayerMap = (Tensor, Upsampling);

/// Heatmaps of several cells, as [`DeviceMaps`] has them.
struct Drawn {
    shown: Tensor,
    of_input: Option<Tensor>,
    /// Of each cell.
    layer_maps: Vec<Option<LayerMap>>,
}

impl DeviceMaps {
    /// `[N, H, W]` over the model's input; as they are stored, where nobody asked for those.
    pub(super) fn over_input(&self) -> &Tensor {
        self.of_input.as_ref().unwrap_or(&self.shown)
    }

    /// One or both.
    pub(super) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        [Some(&mut self.shown), self.of_input.as_mut()].into_iter().flatten()
    }
}

/// What the heatmaps of a sample are drawn on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Canvas {
    /// The layer's own resolution.
    Layer,
    /// The model's input, of whatever part of the image.
    Input,
    /// The whole image, of so many rows and columns.
    Image(usize, usize),
    /// The frame that the input was cut out of.
    Frame(FrameRegion),
    /// The image that the frame was made of.
    ImageOfFrame(FrameRegion),
}

impl Canvas {
    fn of(sample: &DecodedSample, size: HeatmapSize) -> Self {
        let region = sample.region;
        match (size, is_whole(sample)) {
            (HeatmapSize::Layer, _) => Canvas::Layer,
            (HeatmapSize::Input, true) => Canvas::Input,
            // Straight from the layer to the image where nothing was cropped.
            (HeatmapSize::Image, true) => Canvas::Image(region.image_height, region.image_width),
            (HeatmapSize::Input, false) => Canvas::Frame(region),
            (HeatmapSize::Image, false) => Canvas::ImageOfFrame(region),
        }
    }
}

/// Pixels that drawing a heatmap of a sample takes at most.
pub(super) fn pixels_of(sample: &DecodedSample, size: HeatmapSize, (height, width): (usize, usize)) -> usize {
    let FrameRegion { image_height, image_width, frame_height, frame_width, .. } = sample.region;
    let of_image = if size == HeatmapSize::Image { image_height * image_width } else { 0 };
    of_image.max(frame_height * frame_width).max(height * width)
}

/// Whether the model saw the whole image.
pub(super) fn is_whole(sample: &DecodedSample) -> bool {
    !sample.region.is_cropped(sample.height, sample.width)
}

/// The saliency of each layer of a column, of these samples in these passes, `[n, H', W']`.
fn rows_of(
    passes: &[PassMaps],
    group: &[(usize, SampleIndex)],
    column: ColumnIndex,
    num_samples: usize,
) -> Result<Vec<Tensor>, TchError> {
    let mut of_passes: Vec<Vec<Tensor>> = Vec::new();
    for rows in group.chunk_by(|one, next| one.0 == next.0) {
        let select = |saliency: &Tensor| match rows.len() == num_samples {
            true => Ok(saliency.shallow_clone()),
            false => {
                let rows: Vec<i64> = rows.iter().map(|(_, sample)| sample.row()).collect();
                saliency.f_index_select(0, &index_tensor(&rows, saliency)?)
            }
        };
        of_passes.push(passes[rows[0].0].columns[column].iter().map(select).collect::<Result<_, _>>()?);
    }
    if let [_] = of_passes[..] {
        return Ok(of_passes.swap_remove(0));
    }
    let num_layers = of_passes.first().map_or(0, Vec::len);
    (0..num_layers).map(|layer| Tensor::f_cat(&of_passes.iter().map(|maps| &maps[layer]).collect::<Vec<_>>(), 0)).collect()
}

impl TorchExplainer {
    /// Of each class that is there the heatmap `[1, H, W]` of each column, over the image as it is.
    pub(super) fn heatmaps(
        &self,
        passes: &[PassMaps],
        variant: Variant,
        samples: &TiSlice<SampleIndex, DecodedSample>,
        input: (usize, usize),
    ) -> Result<Grid<TiVec<ColumnIndex, DeviceMaps>>, TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut maps = Grid::default();
        for some in passes.chunks(self.passes_at_once(passes, samples, input)) {
            let mut groups: Vec<(Canvas, Vec<(usize, SampleIndex)>)> = Vec::new();
            for (number, pass) in some.iter().enumerate() {
                for &sample in &pass.samples {
                    let canvas = Canvas::of(&samples[sample], self.options.size);
                    match groups.iter_mut().find(|(other, _)| *other == canvas) {
                        Some((_, group)) => group.push((number, sample)),
                        None => groups.push((canvas, vec![(number, sample)])),
                    }
                }
            }
            for (canvas, group) in groups {
                for (index, column) in self.columns.iter_enumerated() {
                    let own = rows_of(some, &group, index, samples.len())?;
                    let drawn = self.draw(&own, self.options.fusion_of(column.method), variant, canvas, input)?;
                    let mut of_input = drawn.of_input.map(|maps| maps.f_split(1, 0)).transpose()?.map(Vec::into_iter);
                    let each = drawn.shown.f_split(1, 0)?.into_iter().zip(drawn.layer_maps);
                    for (&(number, sample), (shown, layer_map)) in group.iter().zip(each) {
                        let of_input = of_input.as_mut().and_then(Iterator::next);
                        let cell = Cell { sample, target: some[number].target };
                        maps.get_or_insert_with(cell, TiVec::new).push(DeviceMaps { shown, of_input, layer_map });
                    }
                }
            }
        }
        Ok(maps)
    }

    /// How many passes are drawn together: a device is to be kept busy, and what a CPU works on is to stay in its caches.
    fn passes_at_once(&self, passes: &[PassMaps], samples: &TiSlice<SampleIndex, DecodedSample>, input: (usize, usize)) -> usize {
        const CPU_PIXELS: usize = 1 << 18;
        const GPU_PIXELS: usize = 1 << 24;
        let at_once = if self.plan.device() == Device::Cpu { CPU_PIXELS } else { GPU_PIXELS };
        let of_layers = || passes.first().iter().flat_map(|pass| &pass.columns).flatten().map(Tensor::numel).max();
        let pixels = match self.options.size {
            HeatmapSize::Layer => of_layers().unwrap_or(0),
            size => samples.iter().map(|sample| pixels_of(sample, size, input)).sum(),
        };
        (at_once / pixels.max(1)).max(1)
    }

    /// Heatmaps from the saliency `[N, H', W']` of one or several layers.
    fn draw(
        &self,
        saliencies: &[Tensor],
        fusion: Fusion,
        variant: Variant,
        canvas: Canvas,
        input: (usize, usize),
    ) -> Result<Drawn, TchError> {
        let layer_maps = saliencies.iter().map(heatmap::layer_map).collect::<Result<Vec<_>, _>>()?;
        let draw = |size| variant.undo(heatmap::upsample(&layer_maps, size, fusion)?);
        let size = match canvas {
            Canvas::Layer => None,
            Canvas::Image(height, width) => Some((height, width)),
            Canvas::Input | Canvas::Frame(_) | Canvas::ImageOfFrame(_) => Some(input),
        };
        let maps = draw(size)?;
        let of_input = (self.options.examines() && size != Some(input)).then(|| draw(Some(input))).transpose()?;
        let layer_maps = self.layer_maps(&layer_maps, fusion, canvas, size)?;
        let (shown, of_input) = match canvas {
            Canvas::Layer | Canvas::Input | Canvas::Image(..) => (maps, of_input),
            Canvas::Frame(region) => (heatmap::place_in_frame(&maps, &region)?, Some(maps)),
            Canvas::ImageOfFrame(region) => {
                let placed = heatmap::place_in_frame(&maps, &region)?;
                (heatmap::resize_to_image(&placed, &region)?, Some(maps))
            }
        };
        Ok(Drawn { shown, of_input, layer_maps })
    }

    /// What each heatmap is drawn from, and how, if that is one map and less than the heatmap is.
    fn layer_maps(
        &self,
        layer_maps: &[Tensor],
        fusion: Fusion,
        canvas: Canvas,
        size: Option<(usize, usize)>,
    ) -> Result<Vec<Option<LayerMap>>, TchError> {
        let count = layer_maps.first().map_or(0, |map| map.size()[0]);
        let (true, false, Some(size)) = (self.options.with_layer_maps, self.options.aug_smooth, size) else {
            return Ok((0..count).map(|_| None).collect());
        };
        let (region, is_image) = match canvas {
            Canvas::Frame(region) => (Some(region), false),
            Canvas::ImageOfFrame(region) => (Some(region), true),
            Canvas::Layer | Canvas::Input | Canvas::Image(..) => (None, false),
        };
        let upsampling = Upsampling { size, region, is_image };
        let (height, width) = upsampling.output();
        let of_row = |(row, level): (i64, Option<usize>)| {
            let Some(map) = level.map(|level| &layer_maps[level]) else { return Ok(None) };
            let is_smaller = map.size()[1] * map.size()[2] < (height * width) as i64;
            is_smaller.then(|| Ok((map.f_narrow(0, row, 1)?, upsampling))).transpose()
        };
        (0..count).zip(decisive(layer_maps, fusion)?).map(of_row).collect()
    }
}

/// Which of several layers' maps `[N, H', W']` each heatmap is drawn from alone; `None` where it is several. Of levels of which the largest
/// value counts, those of zeros change nothing: a single prediction of a detector is of one level. A GPU would have to wait to know it.
fn decisive(layer_maps: &[Tensor], fusion: Fusion) -> Result<Vec<Option<usize>>, TchError> {
    let count = layer_maps.first().map_or(0, |map| map.size()[0]) as usize;
    if layer_maps.len() == 1 {
        return Ok(vec![Some(0); count]);
    }
    if fusion != Fusion::Levels || layer_maps.iter().any(|map| map.device() != Device::Cpu) {
        return Ok(vec![None; count]);
    }
    let largest = |map: &Tensor| to_host::<f32>(&map.f_amax([1i64, 2].as_slice(), false)?.f_to_kind(Kind::Float)?);
    let largest = layer_maps.iter().map(largest).collect::<Result<Vec<_>, _>>()?;
    let of_row = |row: usize| {
        // What is no number is no zero.
        let mut others = (0..layer_maps.len()).filter(|level| largest[*level][row] != 0.0);
        let first = others.next().unwrap_or(0);
        others.next().is_none().then_some(first)
    };
    Ok((0..count).map(of_row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_decides_where_the_others_are_zero() {
        let level = |values: [f32; 4]| Tensor::from_slice(&values).view([4, 1, 1]);
        let levels = [level([0.0, 1.0, 0.0, f32::NAN]), level([0.5, 1.0, 0.0, 0.5])];
        assert_eq!(decisive(&levels, Fusion::Levels).expect("told"), [Some(1), None, Some(0), None]);
        assert_eq!(decisive(&levels, Fusion::Mean).expect("told"), [None; 4]);
        assert_eq!(decisive(&levels[..1], Fusion::Product).expect("told"), [Some(0); 4]);
    }
}
