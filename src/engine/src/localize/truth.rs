//! Where the object of a class is, by a label, at the size of a heatmap.

use camflow_measure::localization::{Pixel, whole_box};
use camflow_media::FileContent;
use camflow_media::{BinaryMask, ImageLimits, InstanceMask, LabelMask, MaskValue, MediaError, box_around};
use camflow_names::ClassNames;
use camflow_pipeline::{StoredMask, StoredObject, StoredShape, StoredTarget};

/// How labels of the field that says what is true are read.
#[derive(Debug)]
pub(super) struct TruthReader {
    /// The classes that are explained; their numbers are places in a list of them.
    pub(super) names: ClassNames,
    /// Classes of a segmentation by their values in masks.
    pub(super) values: Vec<(String, MaskValue)>,
    /// Labels whose pixels count nowhere.
    pub(super) ignored: Vec<String>,
    /// What files may take.
    pub(super) limits: ImageLimits,
}

/// Where a class is in an image.
#[derive(Debug)]
pub(super) struct Truth {
    /// Pixel by pixel, as far as the label says so.
    pub(super) pixels: Vec<Pixel>,
    /// Boxes in whole pixels: first and last column and row.
    pub(super) boxes: Vec<[i64; 4]>,
    /// The pixels that the boxes cover: not 0.
    pub(super) covered: Vec<u8>,
    /// Whether all of it is known by its pixels, and not by a box alone.
    pub(super) is_masked: bool,
}

impl TruthReader {
    /// The object of a class in an image, at a size of rows and columns; `None` where the label has none. What is not `seen` counts
    /// nowhere.
    ///
    /// # Errors
    /// The label or a file of it cannot be read, or the label may be of several classes.
    pub(super) fn read(
        &self,
        label: &StoredTarget,
        (name, number): (&str, i64),
        size: (usize, usize),
        seen: Option<&BinaryMask>,
    ) -> Result<Option<Truth>, MediaError> {
        let is_of = |label: &str| {
            let meaning = self.names.meaning(label);
            match self.names.doubt(label, &meaning, number) {
                Some(doubt) => Err(MediaError::shape(doubt)),
                None => Ok(meaning.is(label, (name, number))),
            }
        };
        let is_ignored = |label: &str| self.ignored.iter().any(|ignored| ignored == label);
        let (height, width) = size;
        let (mut object, mut ignored) = (BinaryMask::empty(height, width), BinaryMask::empty(height, width));
        let (mut boxes, mut covered, mut is_masked) = (Vec::new(), BinaryMask::empty(height, width), true);
        match label {
            StoredTarget::Mask(mask) => {
                let name = |value: &MaskValue| self.values.iter().find(|(_, other)| other == value).map(|(name, _)| name.clone());
                let map = self.mask(mask)?.class_map(name)?;
                // By the kind of a pixel.
                let classes = |test: &dyn Fn(&str) -> Result<bool, MediaError>| {
                    let of_class = map.classes().iter().map(|class| test(class)).collect::<Result<Vec<bool>, _>>()?;
                    let of_kind = |kind: &Vec<usize>| kind.iter().any(|class| of_class[*class]);
                    Ok::<Vec<bool>, MediaError>(map.kinds().iter().map(of_kind).collect())
                };
                let objects = classes(&|class| Ok(!is_ignored(class) && is_of(class)?))?;
                let ignoring = classes(&|class| Ok(is_ignored(class)))?;
                for (pixel, kind) in map.pixels(height, width).into_iter().enumerate() {
                    object.pixels[pixel] = u8::from(objects[usize::from(kind)]);
                    ignored.pixels[pixel] = u8::from(ignoring[usize::from(kind)]);
                }
            }
            StoredTarget::Objects(objects) => {
                for StoredObject { label, shape, .. } in objects {
                    let Some(label) = label else { continue };
                    if is_ignored(label) {
                        self.draw(shape, &mut ignored)?;
                        continue;
                    }
                    if !is_of(label)? {
                        continue;
                    }
                    is_masked &= self.draw(shape, &mut object)?;
                    let around = match shape {
                        StoredShape::Box { bounds, .. } => Some(*bounds),
                        StoredShape::Lines { lines, .. } => box_around(lines)?,
                        StoredShape::Malformed(_) => None,
                    };
                    if let Some(bounds) = around {
                        boxes.push(whole_box(bounds, size));
                        covered.add_box(bounds, None)?;
                    }
                }
            }
            StoredTarget::Malformed(reason) => return Err(MediaError::shape(reason.clone())),
            StoredTarget::Names(_) | StoredTarget::Unlabelled | StoredTarget::Missing => return Ok(None),
        }
        let is_known = |pixel: usize| seen.is_none_or(|seen| seen.pixels[pixel] != 0);
        let pixel = |(pixel, (object, ignored)): (usize, (&u8, &u8))| match () {
            () if !is_known(pixel) => Pixel::Ignored,
            () if *object != 0 => Pixel::Object,
            () if *ignored != 0 => Pixel::Ignored,
            () => Pixel::Other,
        };
        let pixels: Vec<Pixel> = object.pixels.iter().zip(&ignored.pixels).enumerate().map(pixel).collect();
        // What has fewer than a pixel, or lies where the model saw nothing, cannot be found.
        let is_there = pixels.contains(&Pixel::Object);
        Ok(is_there.then_some(Truth { pixels, boxes, covered: covered.pixels, is_masked }))
    }

    /// Adds a shape; whether its pixels are known.
    fn draw(&self, shape: &StoredShape, mask: &mut BinaryMask) -> Result<bool, MediaError> {
        match shape {
            StoredShape::Box { bounds, mask: None } => mask.add_box(*bounds, None).map(|()| false),
            StoredShape::Box { bounds, mask: Some(stored) } => {
                let instance = match stored {
                    StoredMask::Inline(bytes) => InstanceMask::inflate(bytes, &self.limits)?,
                    StoredMask::File(path) => InstanceMask::read(path, &self.limits)?,
                };
                mask.add_box(*bounds, Some(&instance)).map(|()| true)
            }
            StoredShape::Lines { lines, filled: true, .. } => mask.add_polygon(lines).map(|()| true),
            StoredShape::Lines { lines, closed, filled: false } => mask.add_lines(lines, *closed).map(|()| false),
            StoredShape::Malformed(reason) => Err(MediaError::shape(reason.clone())),
        }
    }

    fn mask(&self, mask: &StoredMask) -> Result<LabelMask, MediaError> {
        match mask {
            StoredMask::Inline(bytes) => LabelMask::inflate(bytes, &self.limits),
            StoredMask::File(path) => {
                LabelMask::parse(path, &FileContent::read(path, self.limits.max_bytes)?.steady(path)?, &self.limits)
            }
        }
    }
}
