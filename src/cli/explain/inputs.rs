//! From files to a batch for the device.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    diagnostic::Diagnostic,
    engine::SliceSpec,
    media::{
        Array, ArrayValues, BinaryMask, ExifPolicy, FileContent, FrameRegion, ImageLimits, InputPixels, LabelMask, MaskValue,
        Outside, PackedMask, Preprocess, Slicing, SourceImage, is_turned, read_array_file, shown,
    },
    pipeline::{
        Channel, ClassIndex, ClassTarget, DecodedSample, Envelope, Fingerprint, InputBatch, SampleRef, SlicedImage, SlicedPlace,
        SlicedTarget, TargetPixels,
    },
};

/// The longer side of a picture to look at, of an image in slices.
const PICTURE_SIDE: usize = 2048;

/// One class to explain in every image.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Asked {
    /// The class, as file names have it before anything is replaced in them.
    pub name: String,
    /// Channel of the output.
    pub channel: Channel,
    /// Which pixels count.
    pub pixels: AskedPixels,
}

/// Which pixels count.
#[derive(Clone, Debug)]
pub(in crate::cli) enum AskedPixels {
    /// Where the model itself puts the class first.
    Predicted,
    /// Where a mask has this value.
    Mask {
        /// An image or a `.npy` file.
        file: PathBuf,
        /// The class's value.
        value: MaskValue,
    },
    /// One pixel of the image.
    Pixel {
        /// Column.
        x: usize,
        /// Row.
        y: usize,
    },
}

/// A batch of one image, which is called `name`, and the image.
pub(super) fn image_batch(
    path: &Path,
    name: &str,
    asked: &[Asked],
    preprocess: &Preprocess,
    slices: &SliceSpec,
) -> Result<(InputBatch, SourceImage), Diagnostic> {
    let limits = slices.limits();
    let content = FileContent::read(path, limits.max_bytes)?;
    let image = preprocess.parse(path, &content.bytes, &limits, ExifPolicy::Ignore)?;
    drop(content);
    let (height, width) = image.size();
    if let Some(slicing) = slices.slicing().filter(|slicing| slicing.cuts(height, width)) {
        return sliced_batch(path, name, asked, preprocess, image, slicing, &limits);
    }
    let input = preprocess.apply_to(&image)?;
    let (height, width, region) = (input.height, input.width, input.region);
    let mut targets = Vec::new();
    for (class, asked) in asked.iter().enumerate() {
        let pixels = match &asked.pixels {
            AskedPixels::Predicted => TargetPixels::Predicted,
            AskedPixels::Pixel { x, y } => pixel(*x, *y, &region, (height, width))?,
            AskedPixels::Mask { file, value } => {
                let mask = read_mask(file, &limits)?.select(value)?;
                TargetPixels::Mask(mask.on_input(&region, height, width))
            }
        };
        targets.push(ClassTarget { class: ClassIndex(class), channel: asked.channel, pixels, detection: None });
    }
    let sample = sample((0, name.to_owned()), path, input.pixels, (height, width), region, targets);
    Ok((InputBatch { samples: vec![sample], height, width }, image))
}

/// The same of an image that is larger than a slice. The image that is given back is one to look at, of bounded size.
fn sliced_batch(
    path: &Path,
    name: &str,
    asked: &[Asked],
    preprocess: &Preprocess,
    image: SourceImage,
    slicing: Slicing,
    limits: &ImageLimits,
) -> Result<(InputBatch, SourceImage), Diagnostic> {
    let (height, width) = image.size();
    let region = FrameRegion::whole(height, width);
    let mut targets = Vec::new();
    for (class, asked) in asked.iter().enumerate() {
        let place = match &asked.pixels {
            AskedPixels::Predicted => SlicedPlace::Predicted,
            AskedPixels::Pixel { x, y } => {
                pixel(*x, *y, &region, (height, width))?;
                SlicedPlace::Pixel { x: *x, y: *y }
            }
            AskedPixels::Mask { file, value } => SlicedPlace::Mask(PackedMask::of(&read_mask(file, limits)?.select(value)?)),
        };
        targets.push(SlicedTarget { class: ClassIndex(class), channel: asked.channel, place });
    }
    let picture = image.thumbnail(PICTURE_SIDE)?;
    let slices = SlicedImage::new(image, slicing, preprocess, targets, None)?;
    let (height, width) = slices.input;
    let sample = sample((0, name.to_owned()), path, InputPixels::Levels(Vec::new()), (height, width), region, Vec::new());
    let sample = DecodedSample { slices: Some(Arc::new(slices)), ..sample };
    Ok((InputBatch { samples: vec![sample], height, width }, picture))
}

/// What is hardly meant so about the mask of an image, lowercase, without a period.
pub(super) fn mask_notices(
    path: &Path,
    batch: &InputBatch,
    asked: &[Asked],
    limits: &ImageLimits,
) -> Result<Vec<String>, Diagnostic> {
    let file = asked.iter().find_map(|asked| if let AskedPixels::Mask { file, .. } = &asked.pixels { Some(file) } else { None });
    let (Some(file), Some(sample)) = (file, batch.samples.first()) else { return Ok(Vec::new()) };
    let mask = read_mask(file, limits)?;
    let (named, FrameRegion { image_height, image_width, .. }) = (shown(file), sample.region);
    let lossy = mask.is_lossy.then(|| {
        format!("`{named}` is a JPEG file, whose compression changes the numbers of classes near edges: store masks as PNG")
    });
    let turned = is_turned((mask.height, mask.width), (image_height, image_width)).then(|| {
        format!(
            "the mask `{named}` of {} x {} pixels lies across `{}` of {image_width} x {image_height}, and is stretched over it",
            mask.width,
            mask.height,
            shown(path)
        )
    });
    Ok(lossy.into_iter().chain(turned).collect())
}

/// Whether an array file holds a tensor that is prepared already: for models that read arrays as images, one of four sides does.
pub(super) fn is_prepared(path: &Path, preprocess: &Preprocess) -> Result<bool, Diagnostic> {
    Ok(preprocess.reads().is_none() || read_array_file(path, ImageLimits::default().max_bytes)?.shape.len() == 4)
}

/// A batch of the images `[N, C, H, W]` in an array file.
pub(super) fn tensor_batch(path: &Path, name: &str, asked: &[Asked], channels: Option<i64>) -> Result<InputBatch, Diagnostic> {
    let limits = ImageLimits::default();
    let array = read_array_file(path, limits.max_bytes)?;
    let channels = channels.and_then(|channels| usize::try_from(channels).ok()).unwrap_or(3);
    let [num_samples, found, height, width] = array.shape[..] else {
        return Err(Diagnostic::invalid(format!("it holds shape {:?}; a tensor [N, {channels}, H, W] is wanted", array.shape)));
    };
    if found != channels {
        return Err(Diagnostic::invalid(format!("it holds shape {:?}; a tensor [N, {channels}, H, W] is wanted", array.shape)));
    }
    let floats = array.values.to_f32();
    let mut floats = floats.chunks_exact((channels * height * width).max(1));
    let region = FrameRegion::whole(height, width);
    let mut samples = Vec::new();
    for number in 0..num_samples {
        let mut targets = Vec::new();
        for (class, asked) in asked.iter().enumerate() {
            let pixels = match &asked.pixels {
                AskedPixels::Predicted => TargetPixels::Predicted,
                AskedPixels::Pixel { x, y } => pixel(*x, *y, &region, (height, width))?,
                AskedPixels::Mask { file, value } => TargetPixels::Mask(mask_of(file, *value, number, num_samples, &limits)?),
            };
            targets.push(ClassTarget { class: ClassIndex(class), channel: asked.channel, pixels, detection: None });
        }
        let pixels = InputPixels::Floats(floats.next().unwrap_or_default().to_vec());
        samples.push(sample((number as u64, format!("{name}.{number}")), path, pixels, (height, width), region, targets));
    }
    Ok(InputBatch { samples, height, width })
}

fn pixel(x: usize, y: usize, region: &FrameRegion, (height, width): (usize, usize)) -> Result<TargetPixels, Diagnostic> {
    match region.place(y, x, height, width) {
        Ok((y, x)) => Ok(TargetPixels::Point { y, x }),
        Err(Outside::Image) => Err(Diagnostic::invalid(format!(
            "pixel {x},{y} is outside the image of {} x {} pixels",
            region.image_width, region.image_height
        ))),
        Err(Outside::Crop) => {
            Err(Diagnostic::invalid(format!("pixel {x},{y} is outside the part of the image that the model sees")))
        }
    }
}

fn read_mask(path: &Path, limits: &ImageLimits) -> Result<LabelMask, Diagnostic> {
    if path.extension().is_some_and(|extension| extension == "npy") {
        return Ok(LabelMask::from_array(read_array_file(path, limits.max_bytes)?)?);
    }
    Ok(LabelMask::read(path, limits)?)
}

/// The values in a mask file, of all masks in it.
pub(super) fn values_in(path: &Path, limits: &ImageLimits) -> Result<Vec<MaskValue>, Diagnostic> {
    let mask = match path.extension().is_some_and(|extension| extension == "npy") {
        false => LabelMask::read(path, limits)?,
        true => {
            let Array { shape, values } = read_array_file(path, limits.max_bytes)?;
            let shape = if let [count, height, width] = shape[..] { vec![count * height, width] } else { shape };
            LabelMask::from_array(Array { shape, values })?
        }
    };
    Ok(mask.values().into_iter().map(|(value, _)| value).collect())
}

/// One of several masks `[N, H, W]`, or the one `[H, W]` for all.
fn mask_of(path: &Path, value: MaskValue, number: usize, count: usize, limits: &ImageLimits) -> Result<BinaryMask, Diagnostic> {
    let masks = read_array_file(path, limits.max_bytes)?;
    let (height, width, offset) = match masks.shape[..] {
        [h, w] => (h, w, 0),
        [n, h, w] if n == count => (h, w, number * h * w),
        _ => {
            return Err(Diagnostic::invalid(format!(
                "the mask holds shape {:?}; [H, W] or [{count}, H, W] is wanted",
                masks.shape
            )));
        }
    };
    let values = masks.values.to_f32();
    let values = values.get(offset..offset + height * width).ok_or_else(|| Diagnostic::invalid("the mask is too short"))?;
    let array = Array { shape: vec![height, width], values: ArrayValues::F32(values.to_vec()) };
    Ok(LabelMask::from_array(array)?.select(&value)?)
}

fn sample(
    (seq, id): (u64, String),
    path: &Path,
    pixels: InputPixels,
    (height, width): (usize, usize),
    region: FrameRegion,
    targets: Vec<ClassTarget>,
) -> DecodedSample {
    let sample = SampleRef { seq, id, media_path: path.to_owned() };
    let envelope = Envelope::without_fields(sample, Fingerprint::of_job("", "explain"));
    DecodedSample {
        envelope,
        pixels,
        height,
        width,
        region,
        targets,
        attention: None,
        slices: None,
        is_clipped: false,
        is_moved: false,
    }
}
