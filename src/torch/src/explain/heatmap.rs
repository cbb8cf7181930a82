//! From saliency to heatmap: clip, scale, resize. Once, for all methods.
//!
//! As pytorch_grad_cam 1.5.7 does it (`utils/image.py:scale_cam_image`, `base_cam.py`): ReLU, min-max with an epsilon of 1e-7,
//! bilinear resize as `cv2.resize`, and min-max once more. Leaving the second scaling out changes values by up to 0.18.

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tch::{Kind, TchError, Tensor};

use super::Fusion;
use crate::program::{HostCopy, fuse_levels, to_host};
use camflow_media::{FrameRegion, levels};
use camflow_names::Choice;
use camflow_pipeline::Heatmap;

/// pytorch_grad_cam's guard against division by zero.
const EPSILON: f64 = 1e-7;

/// What size heatmaps have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeatmapSize {
    /// The model's input, as pytorch_grad_cam returns it.
    #[default]
    Input,
    /// The image.
    Image,
    /// The layer's own resolution. Small, and drawn as blocks in the App.
    Layer,
}

impl Choice for HeatmapSize {
    const ALL: &'static [Self] = &[HeatmapSize::Input, HeatmapSize::Image, HeatmapSize::Layer];

    fn name(self) -> &'static str {
        match self {
            HeatmapSize::Input => "input",
            HeatmapSize::Image => "image",
            HeatmapSize::Layer => "layer",
        }
    }
}

/// Min-max over each map of `[N, H, W]`: to `[0, 1]`, all zeros where the map is constant.
pub(super) fn scale(maps: &Tensor) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[1, 2];
    let shifted = maps.f_sub(&maps.f_amin(dims, true)?)?;
    let largest = shifted.f_amax(dims, true)?.f_add_scalar(EPSILON)?;
    shifted.f_div(&largest)
}

/// Bilinear with half-pixel centres and no antialiasing, as `cv2.resize` with `INTER_LINEAR`.
pub(super) fn resize(maps: &Tensor, height: usize, width: usize) -> Result<Tensor, TchError> {
    let size = [height as i64, width as i64];
    if maps.size()[1..] == size {
        return Ok(maps.shallow_clone());
    }
    maps.f_unsqueeze(1)?.f_upsample_bilinear2d(size, false, None::<f64>, None::<f64>)?.f_squeeze_dim(1)
}

/// Heatmaps `[N, H, W]` in `[0, 1]` of the saliency maps `[N, H', W']` of one layer, or of the mean over several. Without a size
/// they keep theirs, of several the largest.
///
/// # Errors
/// libtorch fails, for want of memory say.
///
/// # Panics
/// There is no layer.
pub fn heatmaps(saliencies: &[Tensor], size: Option<(usize, usize)>) -> Result<Tensor, TchError> {
    upsample(&saliencies.iter().map(layer_map).collect::<Result<Vec<_>, _>>()?, size, Fusion::Mean)
}

/// What a layer gives to heatmaps, at its own resolution: its saliency `[N, H', W']` clipped and scaled.
pub(super) fn layer_map(saliency: &Tensor) -> Result<Tensor, TchError> {
    scale(&saliency.f_relu()?)
}

/// Heatmaps from what layers give to them; sizes as for [`heatmaps`].
pub(super) fn upsample(layer_maps: &[Tensor], size: Option<(usize, usize)>, fusion: Fusion) -> Result<Tensor, TchError> {
    let own = |map: &Tensor| (map.size()[1] as usize, map.size()[2] as usize);
    let (height, width) = size.or_else(|| layer_maps.iter().map(own).max()).expect("at least one layer");
    if fusion == Fusion::Levels
        && let Some(fused) = fuse_levels(layer_maps, (height, width), EPSILON)?
    {
        return Ok(fused);
    }
    let mut fused: Option<Tensor> = None;
    for map in layer_maps {
        let map = match fusion {
            Fusion::Mean => resize(map, height, width)?,
            // A layer's own map has not quite 1: what it was divided by begins at EPSILON.
            Fusion::Max => resize(&scale(map)?, height, width)?,
            Fusion::TanhMax => resize(&scale(map)?.f_mul_scalar(2.0)?.f_tanh()?, height, width)?,
            Fusion::Levels | Fusion::Product => scale(&resize(map, height, width)?)?,
        };
        fused = Some(match (fused, fusion) {
            (None, _) => map,
            (Some(fused), Fusion::Mean) => fused.f_add(&map)?,
            (Some(fused), Fusion::Levels | Fusion::Max | Fusion::TanhMax) => fused.f_maximum(&map)?,
            (Some(fused), Fusion::Product) => fused.f_mul(&map)?,
        });
    }
    let fused = fused.expect("at least one layer");
    match fusion {
        Fusion::Mean => scale(&fused.f_div_scalar(layer_maps.len() as f64)?),
        Fusion::Levels | Fusion::Max | Fusion::TanhMax => Ok(fused),
        Fusion::Product => scale(&fused),
    }
}

/// Puts heatmaps `[N, H, W]` of inputs that were cropped alike where the crop was taken: zero (transparent in the App) outside.
///
/// # Errors
/// libtorch fails.
pub(super) fn place_in_frame(heatmaps: &Tensor, region: &FrameRegion) -> Result<Tensor, TchError> {
    let (height, width) = (heatmaps.size()[1], heatmaps.size()[2]);
    let (frame_height, frame_width) = (region.frame_height as i64, region.frame_width as i64);
    if (height, width) == (frame_height, frame_width) {
        return Ok(heatmaps.shallow_clone());
    }
    // The part of the input that lies in the frame; a crop larger than the frame was padded.
    let overlap = |offset: i64, length: i64, frame: i64| {
        let (from, to) = (offset.max(0), (offset + length).min(frame));
        (from, (to - from).max(0), from - offset)
    };
    let (top, rows, skip_rows) = overlap(region.top, height, frame_height);
    let (left, columns, skip_columns) = overlap(region.left, width, frame_width);
    let visible = heatmaps.f_narrow(1, skip_rows, rows)?.f_narrow(2, skip_columns, columns)?;
    let pad = [left, frame_width - left - columns, top, frame_height - top - rows];
    visible.f_constant_pad_nd(pad)
}

/// The frames' heatmaps `[N, H, W]` at the images' own size.
///
/// # Errors
/// libtorch fails.
pub(super) fn resize_to_image(heatmaps: &Tensor, region: &FrameRegion) -> Result<Tensor, TchError> {
    resize(heatmaps, region.image_height, region.image_width)
}

/// What came of a batch.
#[derive(Debug, Default)]
pub(super) struct OnHost {
    /// Heatmaps with whether all of their values are finite.
    pub heatmaps: Vec<(Heatmap, bool)>,
    /// Maps of layers.
    pub of_layers: Vec<Heatmap>,
    /// What else was asked for.
    pub numbers: Vec<f64>,
}

/// The same on its way.
#[derive(Debug)]
pub(super) enum ToHost {
    /// In host memory as they are: maps, of which so many are heatmaps, and numbers.
    There { maps: Vec<Tensor>, num_shown: usize, numbers: Vec<Tensor> },
    /// All in one copy.
    Copied(DeviceCopy),
}

/// What a device copies to the host.
#[derive(Debug)]
pub(super) struct DeviceCopy {
    /// f32 values, u8 levels, a f32 sum of each heatmap, f64 numbers.
    copy: HostCopy,
    num_shown: usize,
    sizes: Vec<(i64, i64, i64)>,
}

impl ToHost {
    /// Has the device copy heatmaps `[1, H, W]` of any sizes, with their 8-bit levels and whether all of their values are finite,
    /// what layers have of them, and f64 numbers `[n]`; or keeps them until they are read, where they are `on_host`.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn start(on_host: bool, shown: &[&Tensor], of_layers: &[&Tensor], numbers: &[&Tensor]) -> Result<Self, TchError> {
        if !on_host && (!shown.is_empty() || !numbers.is_empty()) {
            return Ok(ToHost::Copied(DeviceCopy::start(shown, of_layers, numbers)?));
        }
        let maps = shown.iter().chain(of_layers).map(|map| map.f_to_kind(Kind::Float)).collect::<Result<_, _>>()?;
        let numbers = numbers.iter().map(|numbers| numbers.shallow_clone()).collect();
        Ok(ToHost::There { maps, num_shown: shown.len(), numbers })
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn read(self) -> Result<OnHost, TchError> {
        let (maps, num_shown, numbers) = match self {
            ToHost::Copied(copy) => return copy.read(),
            ToHost::There { maps, num_shown, numbers } => (maps, num_shown, numbers),
        };
        let heatmap = |map: Tensor| {
            let (_, height, width) = map.size3()?;
            let values: Vec<f32> = to_host(&map)?;
            let (levels, is_finite) = levels(&values);
            Ok((Heatmap { height: height as usize, width: width as usize, values, levels, layer_map: None }, is_finite))
        };
        let mut heatmaps = maps.into_par_iter().map(heatmap).collect::<Result<Vec<_>, TchError>>()?;
        let of_layers = heatmaps.split_off(num_shown).into_iter().map(|(map, _)| map).collect();
        let numbers = numbers.iter().map(to_host::<f64>).collect::<Result<Vec<_>, _>>()?.concat();
        Ok(OnHost { heatmaps, of_layers, numbers })
    }
}

impl DeviceCopy {
    fn start(shown: &[&Tensor], of_layers: &[&Tensor], numbers: &[&Tensor]) -> Result<Self, TchError> {
        let maps = [shown, of_layers].concat();
        let mut bytes = Vec::new();
        if let Some(first) = shown.first() {
            bytes.extend(Self::of_maps(shown, &maps, &first.size())?);
        }
        if !numbers.is_empty() {
            bytes.push(Tensor::f_cat(numbers, 0)?.f_view_dtype(Kind::Uint8)?);
        }
        let copy = HostCopy::start(&Tensor::f_cat(&bytes, 0)?)?;
        let sizes = maps.iter().map(|map| map.size3()).collect::<Result<Vec<_>, _>>()?;
        Ok(DeviceCopy { copy, num_shown: shown.len(), sizes })
    }

    /// The bytes of all maps, the first ones of which are shown: their values, their levels and a sum of each that is shown.
    fn of_maps(shown: &[&Tensor], maps: &[&Tensor], size: &[i64]) -> Result<[Tensor; 3], TchError> {
        let all = match maps.iter().all(|map| map.size() == size) {
            true => Tensor::f_cat(maps, 0)?.f_flatten(0, -1)?,
            false => Tensor::f_cat(&maps.iter().map(|map| map.f_flatten(0, -1)).collect::<Result<Vec<_>, _>>()?, 0)?,
        };
        let all = all.f_to_kind(Kind::Float)?;
        // The cast cuts off, so half a level more rounds.
        let levels = all.f_mul_scalar(255.0)?.f_add_scalar(0.5)?.f_to_kind(Kind::Uint8)?;
        // A sum is finite if what is summed is, as values go up to 1.
        let (mut sums, mut start) = (Vec::new(), 0);
        for alike in shown.chunk_by(|one, next| one.size() == next.size()) {
            let (rows, pixels) = (alike.len() as i64, alike[0].numel() as i64);
            let values = all.f_narrow(0, start, rows * pixels)?.f_view([rows, pixels])?;
            sums.push(values.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?);
            start += rows * pixels;
        }
        Ok([all.f_view_dtype(Kind::Uint8)?, levels, Tensor::f_cat(&sums, 0)?.f_view_dtype(Kind::Uint8)?])
    }

    fn read(self) -> Result<OnHost, TchError> {
        let DeviceCopy { copy, num_shown, sizes } = self;
        let num_pixels: usize = sizes.iter().map(|(_, height, width)| (height * width) as usize).sum();
        copy.read(|bytes: &[u8]| {
            let (mut values, rest) = bytes.split_at(num_pixels * size_of::<f32>());
            let (mut levels, rest) = rest.split_at(num_pixels);
            let (sums, numbers) = rest.split_at(num_shown * size_of::<f32>());
            let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect::<Vec<_>>();
            let next = |(_, height, width): (i64, i64, i64)| {
                let (height, width) = (height as usize, width as usize);
                let (own_values, own_levels);
                (own_values, values) = values.split_at(height * width * size_of::<f32>());
                (own_levels, levels) = levels.split_at(height * width);
                (height, width, own_values, own_levels)
            };
            // A GPU makes gigabytes a second of them: one thread that copies them would hold it up.
            let heatmap = |(height, width, values, levels): (usize, usize, &[u8], &[u8])| Heatmap {
                height,
                width,
                values: floats(values),
                levels: levels.to_vec(),
                layer_map: None,
            };
            let parts: Vec<_> = sizes.into_iter().map(next).collect();
            let mut heatmaps: Vec<Heatmap> = parts.into_par_iter().map(heatmap).collect();
            let of_layers = heatmaps.split_off(num_shown);
            let heatmaps = heatmaps.into_iter().zip(floats(sums).into_iter().map(f32::is_finite)).collect();
            let numbers = numbers.as_chunks().0.iter().map(|bytes| f64::from_ne_bytes(*bytes)).collect();
            OnHost { heatmaps, of_layers, numbers }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::Upsampling;

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.flatten(0, -1)).expect("values")
    }

    #[test]
    fn negatives_are_clipped_and_the_largest_is_one() {
        let maps = heatmaps(&[Tensor::from_slice(&[-5f32, 0.0, 1.0, 2.0]).view([1, 2, 2])], None).expect("heatmap");
        for (value, wanted) in values(&maps).iter().zip([0.0, 0.0, 0.5, 1.0]) {
            assert!((value - wanted).abs() < 1e-6, "{value} {wanted}");
        }
    }

    #[test]
    fn a_constant_map_is_zero_not_nan() {
        assert_eq!(values(&heatmaps(&[Tensor::ones([1, 2, 2], tch::kind::FLOAT_CPU)], Some((3, 3))).expect("heatmap")), [0.0; 9]);
    }

    #[test]
    fn the_second_scaling_stretches_what_resizing_shrank() {
        // Half-pixel centres sample a 2 px ramp at 0.25 and 0.75 of its way when it is shrunk from 4 to 2.
        let ramp = Tensor::from_slice(&[0f32, 1.0, 2.0, 3.0]).view([1, 1, 4]);
        for (value, wanted) in values(&heatmaps(&[ramp], Some((1, 2))).expect("heatmap")).iter().zip([0.0, 1.0]) {
            assert!((value - wanted).abs() < 1e-6, "{value} {wanted}");
        }
    }

    #[test]
    fn each_map_of_a_batch_is_scaled_on_its_own() {
        let maps = Tensor::from_slice(&[0f32, 1.0, 0.0, 100.0]).view([2, 1, 2]);
        for (value, wanted) in values(&heatmaps(&[maps], None).expect("heatmap")).iter().zip([0.0, 1.0, 0.0, 1.0]) {
            assert!((value - wanted).abs() < 1e-6, "{value} {wanted}");
        }
    }

    #[test]
    fn several_layers_become_the_scaled_mean() {
        let opposed =
            [Tensor::from_slice(&[0f32, 2.0, 1.0]).view([1, 1, 3]), Tensor::from_slice(&[3f32, 0.0, 0.0]).view([1, 1, 3])];
        // The mean of (0, 1, 0.5) and (1, 0, 0) is (0.5, 0.5, 0.25).
        for (value, wanted) in values(&heatmaps(&opposed, None).expect("heatmap")).iter().zip([1.0, 1.0, 0.0]) {
            assert!((value - wanted).abs() < 1e-5, "{value} {wanted}");
        }
    }

    #[test]
    fn of_levels_the_largest_counts_each_scaled_by_itself() {
        let levels =
            [Tensor::from_slice(&[0f32, 0.2, 0.1]), Tensor::from_slice(&[9f32, 0.0, 3.0])].map(|map| map.view([1, 1, 3]));
        let fused = upsample(&levels, None, Fusion::Levels).expect("heatmap");
        for (value, wanted) in values(&fused).iter().zip([1.0, 1.0, 0.5]) {
            assert!((value - wanted).abs() < 1e-5, "{value} {wanted}");
        }
    }

    #[test]
    fn the_largest_of_layers_is_that_of_torch_cam() {
        // An interpolated map has less than its layer's 1 at most, and stays so.
        let layers =
            [Tensor::from_slice(&[1f32, 0.0]).view([1, 1, 2]), Tensor::from_slice(&[0f32, 0.5, 1.0, 0.1]).view([1, 1, 4])];
        let tanh = |x: f32| (2.0 * x).tanh();
        let of = |fusion, size| values(&upsample(&layers, size, fusion).expect("heatmap"));
        let wanted = [1.0, 0.75, 1.0, 0.1];
        for (found, wanted) in of(Fusion::Max, None).iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
        let wanted = [tanh(1.0), (0.75 * tanh(1.0)).max(tanh(0.5)), tanh(1.0), tanh(0.1)];
        for (found, wanted) in of(Fusion::TanhMax, Some((1, 4))).iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
    }

    #[test]
    fn levels_are_fused_as_operator_by_operator() {
        tch::manual_seed(5);
        // The second map of a batch has no value above zero at one level, and no number at another.
        let mut levels = [[3, 80, 60], [3, 40, 30], [3, 97, 131]].map(|size| Tensor::rand(size, tch::kind::FLOAT_CPU));
        levels[0] = &levels[0] * Tensor::from_slice(&[1f32, 0.0, 1.0]).view([3, 1, 1]);
        let wanted = |levels: &[Tensor]| {
            let scaled = levels.iter().map(|level| scale(&resize(level, 97, 131)?));
            let scaled = scaled.collect::<Result<Vec<_>, TchError>>()?;
            scaled[0].f_maximum(&scaled[1])?.f_maximum(&scaled[2])
        };
        let found = upsample(&levels, Some((97, 131)), Fusion::Levels).expect("heatmap");
        assert!(found.equal(&wanted(&levels).expect("heatmap")));
        // Small maps are resized together; a level may be zero in all of them, and a heatmap at all levels.
        let small = |levels: &[Tensor]| levels.iter().map(|level| level.narrow(1, 0, 20).contiguous()).collect::<Vec<_>>();
        for zeros in [&[0usize, 2][..], &[1], &[0, 1, 2]] {
            let some = small(&levels);
            zeros.iter().for_each(|level| drop(some[*level].shallow_clone().zero_()));
            let found = upsample(&some, Some((97, 131)), Fusion::Levels).expect("heatmap");
            assert!(found.equal(&wanted(&some).expect("heatmap")), "{zeros:?}");
        }
        let _ = levels[1].get(1).get(3).get(4).fill_(f64::NAN);
        let found = upsample(&levels, Some((97, 131)), Fusion::Levels).expect("heatmap");
        let is_number: Vec<bool> = (0..3).map(|row| found.get(row).sum(Kind::Float).double_value(&[]).is_finite()).collect();
        assert_eq!(is_number, [true, false, true]);
    }

    #[test]
    fn levels_are_rounded_and_maps_of_other_sizes_stay_apart() {
        let first = Tensor::from_slice(&[0.0, 1.0, 0.5, 0.49 / 255.0, 0.5 / 255.0, 127.4f32 / 255.0]).view([1, 2, 3]);
        let second = Tensor::from_slice(&[0.25f32]).view([1, 1, 1]);
        let numbers = [Tensor::from_slice(&[2.5f64]), Tensor::from_slice(&[-1.0f64, 1e300])];
        for is_there in [true, false] {
            let on_host = ToHost::start(is_there, &[&first], &[&second], &numbers.each_ref()).and_then(ToHost::read);
            let on_host = on_host.expect("copied");
            assert_eq!(on_host.numbers, [2.5, -1.0, 1e300]);
            let ([(first, true)], [second]) = (&on_host.heatmaps[..], &on_host.of_layers[..]) else { panic!("two maps") };
            assert_eq!((first.height, first.width), (2, 3));
            assert_eq!(first.levels, [0, 255, 128, 0, 1, 127]);
            assert_eq!((&second.values[..], &second.levels[..]), (&[0.25f32][..], &[64u8][..]));
        }
    }

    #[test]
    fn what_is_stored_of_a_layer_gives_the_heatmap() {
        let region = FrameRegion { image_height: 301, image_width: 407, frame_height: 150, frame_width: 203, top: 11, left: 27 };
        for (seed, (layer, size)) in
            (0..).zip([((7, 7), (128, 140)), ((33, 41), (128, 140)), ((1, 5), (128, 140)), ((173, 130), (693, 520))])
        {
            tch::manual_seed(seed);
            let saliency = Tensor::randn([1, layer.0, layer.1], tch::kind::FLOAT_CPU);
            let map = values(&scale(&saliency.relu()).expect("scaled"));
            let drawn = heatmaps(&[saliency], Some(size)).expect("heatmap");
            let placed = place_in_frame(&drawn, &region).expect("placed");
            let of_image = resize_to_image(&placed, &region).expect("resized");
            for (region, is_image, wanted) in
                [(None, false, &drawn), (Some(region), false, &placed), (Some(region), true, &of_image)]
            {
                let upsampling = Upsampling { size, region, is_image };
                let found = upsampling.apply(&map, (layer.0 as usize, layer.1 as usize));
                assert_eq!(wanted.size()[1..], [upsampling.output().0 as i64, upsampling.output().1 as i64]);
                let apart = found.iter().zip(values(wanted)).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max);
                assert!(apart <= 1e-6, "{layer:?} {upsampling:?}: {apart}");
            }
        }
    }

    #[test]
    fn maps_that_are_not_finite_are_told_from_others() {
        let [finite, nan, infinite] =
            [0.5f32, f32::NAN, f32::INFINITY].map(|value| Tensor::from_slice(&[1f32, value]).view([1, 1, 2]));
        let narrow = Tensor::zeros([1, 1, 1], tch::kind::FLOAT_CPU);
        let is_finite = |is_there: bool, shown: &[&Tensor]| -> Vec<bool> {
            let on_host = ToHost::start(is_there, shown, &[&narrow], &[]).and_then(ToHost::read).expect("copied");
            assert_eq!((on_host.of_layers.len(), on_host.numbers.len()), (1, 0));
            on_host.heatmaps.into_iter().map(|(_, is_finite)| is_finite).collect()
        };
        for is_there in [true, false] {
            assert_eq!(is_finite(is_there, &[&finite, &nan, &narrow, &infinite]), [true, false, true, false]);
        }
    }

    #[test]
    fn a_crop_goes_back_to_its_place() {
        let map = Tensor::from_slice(&[1f32, 2.0]).view([1, 1, 2]);
        let region = FrameRegion { image_height: 4, image_width: 8, frame_height: 2, frame_width: 4, top: 1, left: 1 };
        assert_eq!(values(&place_in_frame(&map, &region).expect("placed")), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
        let padded = FrameRegion { frame_height: 1, frame_width: 1, top: 0, left: -1, ..region };
        assert_eq!(values(&place_in_frame(&map, &padded).expect("placed")), [2.0]);
    }
}
