//! Decode: image file to pixels, label to masks. Also where an unchanged sample drops out, before its image is read.

use std::path::Path;

use crate::{
    media::{BinaryMask, ExifPolicy, ImageLimits, LabelMask, MediaError, Preprocess, inflate_array, read_image},
    pipeline::{
        Channel, ClassTarget, DecodedSample, Fingerprint, HeatmapFields, SampleFailure, SelectedSample, Skip, SkipReason, Stage,
        StoredHeatmap, StoredMask, StoredTarget, TargetClass, TargetPixels,
    },
};

/// Turns a selected sample into the model's input.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The model's own preprocessing.
    pub preprocess: Preprocess,
    /// The job's classes.
    pub classes: Vec<TargetClass>,
    /// The fields that the job writes.
    pub fields: HeatmapFields,
    /// How large a file may be.
    pub limits: ImageLimits,
    /// Whether images are turned as their EXIF data say.
    pub exif: ExifPolicy,
    /// Of the job's settings.
    pub fingerprint: Fingerprint,
    /// Compute again what is up to date.
    pub overwrite: bool,
}

/// How decoding a sample ended.
#[derive(Debug)]
pub enum Decoded {
    /// Ready for the device.
    Ready(Box<DecodedSample>),
    /// Nothing to do.
    Skipped(Skip),
    /// A fault of this sample.
    Failed(SampleFailure),
}

impl Decoder {
    /// Decodes one sample; never panics on what files contain.
    pub fn decode(&self, selected: SelectedSample) -> Decoded {
        let sample = selected.sample.clone();
        match self.try_decode(selected) {
            Ok(Ok(decoded)) => Decoded::Ready(Box::new(decoded)),
            Ok(Err(reason)) => Decoded::Skipped(Skip { sample, reason }),
            Err(error) => Decoded::Failed(SampleFailure { sample, stage: Stage::Decode, error: error.to_string() }),
        }
    }

    fn try_decode(&self, selected: SelectedSample) -> Result<Result<DecodedSample, SkipReason>, MediaError> {
        let SelectedSample { sample, target, existing } = selected;
        if target == StoredTarget::Missing {
            return Ok(Err(SkipReason::NoLabel));
        }
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |cause| MediaError::Unreadable { path, cause }
        };
        let image = &sample.media_path;
        let mut fingerprint = self.fingerprint.and_file("image", image).map_err(unreadable(image))?;
        match &target {
            StoredTarget::Mask(StoredMask::Inline(bytes)) => fingerprint = fingerprint.and("mask", bytes),
            StoredTarget::Mask(StoredMask::File(path)) => {
                fingerprint = fingerprint.and_file("mask file", path).map_err(unreadable(path))?;
            }
            StoredTarget::Predicted | StoredTarget::Missing => {}
        }

        let up_to_date = |class: usize| !self.overwrite && self.is_up_to_date(class, fingerprint, &existing);
        let wanted: Vec<usize> = (0..self.classes.len()).filter(|class| !up_to_date(*class)).collect();
        if wanted.is_empty() {
            return Ok(Err(SkipReason::UpToDate));
        }
        let targets = self.targets(&target, &wanted)?;
        if targets.is_empty() {
            let some_are_there = wanted.len() < self.classes.len();
            return Ok(Err(if some_are_there { SkipReason::UpToDate } else { SkipReason::ClassAbsent }));
        }

        let image = read_image(image, &self.limits, self.exif)?;
        let input = self.preprocess.apply(&image)?;
        let region = input.region;
        let is_cropped = (region.frame_height, region.frame_width) != (input.height, input.width);
        let targets = targets.into_iter().map(|(class, mask)| {
            let mask = match mask {
                Some(mask) if is_cropped => Some(mask.crop_to(&region, input.height, input.width)),
                mask => mask,
            };
            // A class may lie wholly outside the crop.
            let pixels = match mask {
                Some(mask) if mask.count() == 0 => return None,
                Some(mask) => TargetPixels::Mask(mask),
                None => TargetPixels::Predicted,
            };
            Some(ClassTarget { class, channel: Channel::Index(self.classes[class].index), pixels })
        });
        let targets: Vec<ClassTarget> = targets.flatten().collect();
        if targets.is_empty() {
            return Ok(Err(SkipReason::ClassAbsent));
        }
        Ok(Ok(DecodedSample {
            sample,
            pixels: input.pixels,
            height: input.height,
            width: input.width,
            region,
            targets,
            fingerprint,
            existing,
        }))
    }

    /// The wanted classes that the label has, with their pixels.
    fn targets(&self, target: &StoredTarget, wanted: &[usize]) -> Result<Vec<(usize, Option<BinaryMask>)>, MediaError> {
        let mask = match target {
            StoredTarget::Predicted => return Ok(wanted.iter().map(|class| (*class, None)).collect()),
            StoredTarget::Missing => return Ok(Vec::new()),
            StoredTarget::Mask(StoredMask::Inline(bytes)) => LabelMask::from_array(inflate_array(bytes, self.limits.max_bytes)?)?,
            StoredTarget::Mask(StoredMask::File(path)) => LabelMask::read(path, &self.limits)?,
        };
        let mut targets = Vec::new();
        for &class in wanted {
            let Some(value) = &self.classes[class].mask_value else { continue };
            let pixels = mask.select(value)?;
            if pixels.count() > 0 {
                targets.push((class, Some(pixels)));
            }
        }
        Ok(targets)
    }

    /// Whether every heatmap of the class is there, made from the same things.
    fn is_up_to_date(&self, class: usize, fingerprint: Fingerprint, existing: &[StoredHeatmap]) -> bool {
        (0..self.fields.num_columns()).all(|column| {
            let wanted = self.fields.fingerprint(fingerprint, class, column);
            let stored = existing.iter().find(|stored| stored.field == self.fields.name(class, column));
            stored.is_some_and(|stored| {
                stored.fingerprint.as_deref() == Some(&wanted)
                    // Someone may have tidied the folder up.
                    && [&stored.map_path, &stored.npy_path].into_iter().flatten().all(|path| path.exists())
            })
        })
    }
}
