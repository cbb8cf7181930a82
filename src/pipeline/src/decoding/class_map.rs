//! Where all classes are of the label that heatmaps are measured on.

use std::collections::BTreeMap;

use super::{decoder::Decoder, find::draw, inputs::InputFiles};
use crate::message::{Envelope, StoredShape, StoredTarget};
use camflow_media::{ClassMap, FrameRegion, MaskValue, MediaError};

/// The classes of a sample's label over its image, drawn at a size of rows and columns where it is no mask. `None` where nobody asked
/// for it, or the sample has none.
pub(super) fn class_map(
    decoder: &Decoder,
    label: Option<&StoredTarget>,
    envelope: &Envelope,
    size: (usize, usize),
    files: &InputFiles<'_>,
) -> Result<Option<ClassMap>, MediaError> {
    let (Some(on), Some(label)) = (&decoder.attention, label) else { return Ok(None) };
    let map = match label {
        StoredTarget::Mask(mask) => files.mask(mask).and_then(|mask| {
            decoder.masks.note_kind(&mask);
            decoder.masks.note_size(&envelope.sample, (mask.height, mask.width), size);
            let name = |value: &MaskValue| on.names.iter().find(|(_, other)| other == value).map(|(name, _)| name.clone());
            mask.class_map(name).map(Some)
        }),
        StoredTarget::Objects(objects) => {
            let mut of_classes: BTreeMap<&str, Vec<&StoredShape>> = BTreeMap::new();
            for object in objects {
                if let Some(class) = &object.label {
                    of_classes.entry(class).or_default().push(&object.shape);
                }
            }
            let region = FrameRegion::whole(size.0, size.1);
            let parts = of_classes.iter().map(|(class, shapes)| ((*class).to_owned(), draw(shapes, &region, files)));
            ClassMap::of_parts(size, parts).map(Some)
        }
        StoredTarget::Malformed(reason) => Err(MediaError::shape(reason.clone())),
        StoredTarget::Names(_) | StoredTarget::Unlabelled | StoredTarget::Missing => Ok(None),
    };
    let map = map.map_err(|error| on.fault(&error))?;
    on.note(label, map.as_ref());
    Ok(map)
}
