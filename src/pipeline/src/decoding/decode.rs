//! Decode: image file to pixels, label to targets.

use std::{path::Path, sync::Arc};

use super::{
    class_map::class_map,
    decoder::{Decoder, Stop},
    find::{Found, Place, draw, find},
    inputs::InputFiles,
};
use crate::{
    fingerprint::{Fingerprint, Ingredient, SampleFingerprint},
    message::{
        ClassTarget, Decoded, DecodedSample, Envelope, SampleFailure, SampleUpdate, SkipReason, SlicedImage, SlicedPlace,
        SlicedTarget, StaleSample, Step, StoredHeatmap, StoredObject, StoredShape, StoredTarget, TargetDetection, TargetPixels,
    },
};
use camflow_media::{
    ClassMap, FrameRegion, InputPixels, MaskPart, MediaError, ModelInput, Outside, PackedMask, Slicing, SourceImage, box_around,
    check_box, keep_turn, with_large_pictures_in_turn,
};

/// The longer side of what is drawn for images in slices, to measure heatmaps with.
const MAX_MASK_SIDE: usize = 4096;

/// Decodes one sample; never panics on what files and labels contain.
pub(crate) fn decode(decoder: &Decoder, stale: StaleSample) -> Step<Decoded> {
    let StaleSample { envelope, target, attention, stamps, .. } = stale;
    let files = InputFiles::of(&stamps, &decoder.limits);
    let seen = with_large_pictures_in_turn(|| look(decoder, &envelope, &target, attention.as_ref(), &files));
    let moved = files.moved();
    match seen {
        Ok(Seen { input, targets, attention, slices, is_clipped, keeps }) => {
            let is_moved = !moved.is_empty();
            let has_moved = |fingerprint: Fingerprint| moved.iter().copied().fold(fingerprint, Fingerprint::unsettled);
            let predictions = envelope.predictions.map(has_moved);
            let fingerprint = moved.iter().copied().fold(envelope.fingerprint, SampleFingerprint::unsettled);
            let ModelInput { pixels, height, width, region } = input;
            let wanted = if keeps { Vec::new() } else { envelope.wanted };
            let envelope = Envelope { fingerprint, wanted, predictions, ..envelope };
            let decoded =
                DecodedSample { envelope, pixels, height, width, region, targets, attention, slices, is_clipped, is_moved };
            Step::Next(Decoded::Ready(Box::new(decoded)))
        }
        Err(Stop::Skip(reason)) => match withdrawal(decoder, &envelope, reason) {
            Some(update) => Step::Next(Decoded::Withdrawn(Box::new(update))),
            None => Stop::Skip(reason).of(envelope.sample),
        },
        Err(failed) => match failed.of(envelope.sample) {
            Step::Fail(failure) if !moved.is_empty() => {
                let error = format!("{} (somebody changed it while it was read; the next run tries again)", failure.error);
                Step::Fail(SampleFailure { error, ..failure })
            }
            step => step,
        },
    }
}

/// How many of the wanted classes (or objects of these) the sample's label has, without the image: a class may still lie outside the part of it that
/// the model sees, or not be predicted. None where the sample only loses heatmaps.
pub(crate) fn count_targets(decoder: &Decoder, stale: &StaleSample) -> Step<usize> {
    let StaleSample { envelope, target, stamps, .. } = stale;
    let files = InputFiles::of(stamps, &decoder.limits);
    if envelope.wanted.is_empty() {
        return Step::Next(0);
    }
    match find(decoder, target, &envelope.wanted, &files) {
        Ok(found) => Step::Next(found.len()),
        Err(Stop::Skip(_)) if envelope.predictions.is_some() => Step::Next(0),
        Err(Stop::Skip(_)) if decoder.withdrawn(&envelope.wanted, &envelope.existing).next().is_some() => Step::Next(0),
        Err(stop) => stop.of(envelope.sample.clone()),
    }
}

/// What a sample without targets loses, if it loses anything.
fn withdrawal(decoder: &Decoder, envelope: &Envelope, reason: SkipReason) -> Option<SampleUpdate> {
    let Envelope { sample, wanted, existing, .. } = envelope;
    if is_slip(reason) {
        return None;
    }
    let withdrawn: Vec<&StoredHeatmap> = decoder.withdrawn(wanted, existing).collect();
    (!withdrawn.is_empty()).then(|| SampleUpdate {
        sample: sample.clone(),
        heatmaps: Vec::new(),
        predictions: None,
        withdrawn: withdrawn.iter().map(|heatmap| heatmap.field.clone()).collect(),
        superseded: withdrawn.iter().flat_map(|heatmap| heatmap.files()).map(Path::to_owned).collect(),
        existing: existing.clone(),
    })
}

/// A pixel beside the image is rather a slip than a reason to take away what another pixel gave.
fn is_slip(reason: SkipReason) -> bool {
    matches!(reason, SkipReason::PixelOutsideImage | SkipReason::PixelOutsideCrop)
}

/// What the model is to see of a sample, and what is to be explained of that.
struct Seen {
    input: ModelInput,
    targets: Vec<ClassTarget>,
    attention: Option<ClassMap>,
    slices: Option<Arc<SlicedImage>>,
    is_clipped: bool,
    /// Whether heatmaps of classes that are not there stay.
    keeps: bool,
}

fn look(
    decoder: &Decoder,
    envelope: &Envelope,
    target: &StoredTarget,
    attention: Option<&StoredTarget>,
    files: &InputFiles<'_>,
) -> Result<Seen, Stop> {
    // What has nothing to explain goes through the model all the same where its predictions are wanted.
    let predicts = envelope.predictions.is_some();
    let found = match envelope.wanted.is_empty() {
        true => Ok(Vec::new()),
        false => find(decoder, target, &envelope.wanted, files),
    };
    let found = match found {
        Err(Stop::Skip(_)) if predicts => Vec::new(),
        found => found?,
    };
    let path = &envelope.sample.media_path;
    let image = decoder.preprocess.parse(path, &files.read(Ingredient::Image, path)?, &decoder.limits, decoder.exif)?;
    let image_size = image.size();
    let mask = found.iter().find_map(|found| match &found.place {
        Place::Mask(mask) => Some((mask.height, mask.width)),
        Place::Packed(mask) => Some((mask.height, mask.width)),
        _ => None,
    });
    if let Some(mask) = mask {
        decoder.masks.note_size(&envelope.sample, mask, image_size);
    }
    if let Some(slicing) = decoder.slicing.filter(|slicing| slicing.cuts(image_size.0, image_size.1)) {
        let seen = look_in_slices(decoder, found, image, slicing, files)?;
        let size = (image_size.0.min(MAX_MASK_SIDE), image_size.1.min(MAX_MASK_SIDE));
        return Ok(Seen { attention: class_map(decoder, attention, envelope, size, files)?, ..seen });
    }
    let input = decoder.preprocess.apply_to(&image)?;
    let mut targets = Vec::with_capacity(found.len());
    let mut keeps = false;
    for Found { class, channel, place, object } in found {
        let detection = object.map(|object| detection(object, target, &input, files)).transpose()?.map(Arc::new);
        let pixels = match place {
            Place::Shapes(shapes) if decoder.is_detector => TargetPixels::Boxes(boxes(&shapes, &input)?),
            place => match pixels(place, &input, files) {
                Err(Stop::Skip(reason)) if predicts => {
                    keeps |= is_slip(reason);
                    continue;
                }
                pixels => pixels?,
            },
        };
        // A class may lie wholly outside the crop, or its box be smaller than a pixel.
        let is_nowhere = match &pixels {
            TargetPixels::Mask(mask) => mask.count() == 0,
            TargetPixels::Boxes(boxes) => boxes.is_empty(),
            TargetPixels::Predicted | TargetPixels::Labelled | TargetPixels::Wrong(_) | TargetPixels::Point { .. } => false,
        };
        if !is_nowhere {
            targets.push(ClassTarget { class, channel, pixels, detection });
        }
    }
    if targets.is_empty() && !predicts {
        return Err(SkipReason::ClassUnseen.into());
    }
    let attention = class_map(decoder, attention, envelope, image_size, files)?;
    Ok(Seen { input, targets, attention, slices: None, is_clipped: image.is_clipped(), keeps })
}

/// The same of an image that is larger than a slice: it stays as it is until the device asks for slice after slice.
fn look_in_slices(
    decoder: &Decoder,
    found: Vec<Found<'_>>,
    image: SourceImage,
    slicing: Slicing,
    files: &InputFiles<'_>,
) -> Result<Seen, Stop> {
    let (height, width) = image.size();
    let whole = FrameRegion::whole(height, width);
    let mut targets = Vec::with_capacity(found.len());
    for Found { class, channel, place, .. } in found {
        let place = match place {
            Place::Predicted => SlicedPlace::Predicted,
            Place::Labelled => SlicedPlace::Labelled,
            // Slices have predictions of their own; a job that asks for both is refused.
            Place::Wrong(_) => return Err(SkipReason::NotPredicted.into()),
            Place::Pixel { x, y } if (x as usize) < width && (y as usize) < height => {
                SlicedPlace::Pixel { x: x as usize, y: y as usize }
            }
            Place::Pixel { .. } => return Err(SkipReason::PixelOutsideImage.into()),
            Place::Mask(mask) => SlicedPlace::Mask(PackedMask::of(&mask)),
            Place::Packed(mask) => SlicedPlace::Mask(mask),
            Place::Shapes(shapes) if decoder.is_detector => SlicedPlace::Boxes(bounds_of(&shapes)?),
            Place::Shapes(shapes) => SlicedPlace::Mask(PackedMask::of(&draw(&shapes, &whole, files)?)),
        };
        let is_nowhere = match &place {
            SlicedPlace::Mask(mask) => mask.count() == 0,
            SlicedPlace::Boxes(boxes) => boxes.is_empty(),
            SlicedPlace::Predicted | SlicedPlace::Labelled | SlicedPlace::Pixel { .. } => false,
        };
        if !is_nowhere {
            targets.push(SlicedTarget { class, channel, place });
        }
    }
    if targets.is_empty() {
        return Err(SkipReason::ClassUnseen.into());
    }
    let is_clipped = image.is_clipped();
    let slices = SlicedImage::new(image, slicing, &decoder.preprocess, targets, keep_turn())?;
    let (height, width) = slices.input;
    let input = ModelInput { pixels: InputPixels::Levels(Vec::new()), height, width, region: whole };
    Ok(Seen { input, targets: Vec::new(), attention: None, slices: Some(Arc::new(slices)), is_clipped, keeps: false })
}

/// What an object with heatmaps of its own is known by. The heatmaps of one without an id could be joined to nothing.
fn detection(
    object: &StoredObject,
    target: &StoredTarget,
    input: &ModelInput,
    files: &InputFiles<'_>,
) -> Result<TargetDetection, Stop> {
    let StoredObject { id, label, evaluated, shape, .. } = object;
    let label = label.clone().unwrap_or_default();
    let Some(id) = id.clone() else {
        return Err(
            MediaError::shape(format!("an object `{label}` has no `_id`; load the sample in FiftyOne and save it")).into()
        );
    };
    let (bounds, has_mask) = match shape {
        StoredShape::Box { bounds, mask } => (*bounds, mask.is_some()),
        StoredShape::Lines { lines, .. } => (box_around(lines)?.unwrap_or_default(), true),
        StoredShape::Malformed(reason) => return Err(MediaError::shape(reason.clone()).into()),
    };
    let mask = match has_mask {
        true => MaskPart::of(&draw(&[shape], &input.region, files)?.on_input(&input.region, input.height, input.width)),
        false => None,
    };
    Ok(TargetDetection { id, label, bounds, mask, rank: target.rank(object), evaluated: evaluated.clone() })
}

/// Which pixels of the model's input a class is at.
fn pixels(place: Place<'_>, input: &ModelInput, files: &InputFiles<'_>) -> Result<TargetPixels, Stop> {
    let ModelInput { height, width, region, .. } = input;
    Ok(match place {
        Place::Predicted => TargetPixels::Predicted,
        Place::Labelled => TargetPixels::Labelled,
        Place::Wrong(wrong) => TargetPixels::Wrong(wrong),
        Place::Pixel { x, y } => match region.place(y as usize, x as usize, *height, *width) {
            Ok((y, x)) => TargetPixels::Point { y, x },
            Err(Outside::Image) => return Err(SkipReason::PixelOutsideImage.into()),
            Err(Outside::Crop) => return Err(SkipReason::PixelOutsideCrop.into()),
        },
        Place::Mask(mask) => TargetPixels::Mask(mask.on_input(region, *height, *width)),
        Place::Packed(mask) => TargetPixels::Mask(mask.unpacked().on_input(region, *height, *width)),
        Place::Shapes(shapes) => TargetPixels::Mask(draw(&shapes, region, files)?.on_input(region, *height, *width)),
    })
}

/// The boxes of shapes, or around them, over the model's input.
fn boxes(shapes: &[&StoredShape], input: &ModelInput) -> Result<Vec<[f64; 4]>, Stop> {
    let placed = bounds_of(shapes)?.into_iter().filter_map(|bounds| input.region.place_box(bounds, (input.height, input.width)));
    Ok(placed.collect())
}

/// The boxes of shapes, or around them, over the image.
fn bounds_of(shapes: &[&StoredShape]) -> Result<Vec<[f64; 4]>, Stop> {
    let mut boxes = Vec::with_capacity(shapes.len());
    for shape in shapes {
        let bounds = match shape {
            StoredShape::Box { bounds, .. } => Some(*bounds),
            StoredShape::Lines { lines, .. } => box_around(lines)?,
            StoredShape::Malformed(reason) => return Err(MediaError::shape(reason.clone()).into()),
        };
        let Some(bounds) = bounds else { continue };
        check_box(bounds)?;
        boxes.push(bounds);
    }
    Ok(boxes)
}
