//! Which of the wanted classes a sample's label has, and where it says that they are.

use super::{
    decoder::{Decoder, Stop, Targets},
    inputs::InputFiles,
};
use crate::{
    grid::ClassIndex,
    message::{Channel, Misclassified, SkipReason, StoredObject, StoredShape, StoredTarget, TargetClass},
};
use camflow_media::{BinaryMask, FrameRegion, MediaError, PackedMask};

/// A class that a sample has, before its image is read.
pub(super) struct Found<'a> {
    pub(super) class: ClassIndex,
    pub(super) channel: Channel,
    pub(super) place: Place<'a>,
    /// The object that it is about alone.
    pub(super) object: Option<&'a StoredObject>,
}

impl<'a> Found<'a> {
    /// All of a class.
    fn new(class: ClassIndex, channel: Channel, place: Place<'a>) -> Self {
        Found { class, channel, place, object: None }
    }
}

/// Where a class is, before the image's size is known.
pub(super) enum Place<'a> {
    /// In a mask over the whole image.
    Mask(BinaryMask),
    /// The same, where images may be so large that such a mask is better packed while the image is read.
    Packed(PackedMask),
    /// Where these shapes are.
    Shapes(Vec<&'a StoredShape>),
    /// At this pixel.
    Pixel { x: u32, y: u32 },
    /// Where the model says.
    Predicted,
    /// Where the model says, because the label says only that it is there.
    Labelled,
    /// Nowhere: the whole image counts, if the model misclassifies it.
    Wrong(Misclassified),
}

/// The wanted classes that the sample has, with where they are: some, or the reason why none is there.
pub(super) fn find<'a>(
    decoder: &Decoder,
    target: &'a StoredTarget,
    wanted: &[ClassIndex],
    files: &InputFiles<'_>,
) -> Result<Vec<Found<'a>>, Stop> {
    if *target == StoredTarget::Missing {
        return Err(SkipReason::NoLabel.into());
    }
    let classes = match &decoder.targets {
        Targets::Top => return Ok(vec![Found::new(ClassIndex(0), Channel::Top, Place::Predicted)]),
        Targets::OwnClass => {
            let StoredTarget::Names(names) = target else { return Err(SkipReason::NoLabel.into()) };
            let own = decoder.labels.own(names).map_err(MediaError::shape)?;
            let (_, channel) = own.ok_or(SkipReason::UnknownClass)?;
            return Ok(vec![Found::new(ClassIndex(0), Channel::Index(channel), Place::Labelled)]);
        }
        Targets::Wrong => {
            let StoredTarget::Names(names) = target else { return Err(SkipReason::NoLabel.into()) };
            let own = decoder.labels.own_channels(names).map_err(MediaError::shape)?.ok_or(SkipReason::UnknownClass)?;
            let first = own.first().copied().ok_or(SkipReason::UnknownClass)?;
            let of = |class: &ClassIndex| {
                let (channel, less) = match class.0 {
                    0 => (Channel::Top, None),
                    1 => (Channel::Index(first), None),
                    _ => (Channel::Top, Some(first)),
                };
                Found::new(*class, channel, Place::Wrong(Misclassified { own: own.clone(), less }))
            };
            return Ok(wanted.iter().map(of).collect());
        }
        Targets::Classes(classes) | Targets::Pixel { classes, .. } => classes,
    };
    let mask = match target {
        StoredTarget::Mask(mask) => Some(files.mask(mask)?),
        _ => None,
    };
    let named: Vec<_> = target.names().map(|name| (name, decoder.labels.meaning(name))).collect();
    let mut found = Vec::new();
    for &class in wanted {
        let asked @ TargetClass { index, mask_value, .. } = &classes[class.0];
        if let Some(doubt) = named.iter().find_map(|(name, meaning)| decoder.labels.doubt(name, meaning, asked)) {
            return Err(MediaError::shape(doubt).into());
        }
        let place = match (&decoder.targets, target) {
            (Targets::Pixel { x, y, .. }, _) => Place::Pixel { x: *x, y: *y },
            (_, StoredTarget::Unlabelled) => Place::Predicted,
            (_, StoredTarget::Names(names)) if decoder.labels.have(names, asked) => Place::Labelled,
            (_, StoredTarget::Objects(objects)) => {
                let labelled = objects.iter().filter(|object| object.label.is_some()).zip(&named);
                let of_class = labelled.filter(|(_, (name, meaning))| decoder.labels.is_of(name, meaning, asked));
                let of_class = of_class.map(|(object, _)| object);
                if decoder.per_detection {
                    found.extend(of_class.map(|object| Found {
                        object: Some(object),
                        ..Found::new(class, Channel::Index(*index), Place::Shapes(vec![&object.shape]))
                    }));
                    continue;
                }
                Place::Shapes(of_class.map(|object| &object.shape).collect())
            }
            (_, StoredTarget::Mask(_)) => match (&mask, mask_value) {
                (Some(mask), Some(value)) => match decoder.slicing {
                    None => Place::Mask(mask.select(value)?),
                    Some(_) => Place::Packed(PackedMask::of(&mask.select(value)?)),
                },
                _ => continue,
            },
            _ => continue,
        };
        let is_nowhere = match &place {
            Place::Mask(mask) => mask.count() == 0,
            Place::Packed(mask) => mask.count() == 0,
            Place::Shapes(shapes) => shapes.is_empty(),
            Place::Pixel { .. } | Place::Predicted | Place::Labelled | Place::Wrong(_) => false,
        };
        if !is_nowhere {
            found.push(Found::new(class, Channel::Index(*index), place));
        }
    }
    if let Some(mask) = &mask {
        decoder.masks.note(mask, !found.is_empty());
    }
    match found.is_empty() {
        true => Err(absence(decoder, wanted).into()),
        false => Ok(found),
    }
}

/// Why a sample has no target when none of the wanted classes is there.
fn absence(decoder: &Decoder, wanted: &[ClassIndex]) -> SkipReason {
    if wanted.len() < decoder.targets.num_classes() { SkipReason::UpToDate } else { SkipReason::ClassAbsent }
}

/// The pixels of the image that the shapes cover together.
pub(super) fn draw(shapes: &[&StoredShape], region: &FrameRegion, files: &InputFiles<'_>) -> Result<BinaryMask, MediaError> {
    let mut drawn = BinaryMask::empty(region.image_height, region.image_width);
    for shape in shapes {
        match shape {
            StoredShape::Box { bounds, mask: None } => drawn.add_box(*bounds, None)?,
            StoredShape::Box { bounds, mask: Some(mask) } => {
                drawn.add_box(*bounds, Some(&files.instance_mask(mask)?))?;
            }
            StoredShape::Lines { lines, filled: true, .. } => drawn.add_polygon(lines)?,
            StoredShape::Lines { lines, closed, filled: false } => drawn.add_lines(lines, *closed)?,
            StoredShape::Malformed(reason) => return Err(MediaError::shape(reason.clone())),
        }
    }
    Ok(drawn)
}
