//! The heatmaps of a check as files: arrays, and a contact sheet of each image and class.

use std::path::Path;

use crate::{
    diagnostic::Diagnostic,
    engine::CheckedModel,
    media::{
        Durability, InputPixels, RgbImage, Tile, contact_sheet, encode_rgb, overlay, with_suffix, write_atomically, write_f32,
    },
    pipeline::DecodedSample,
    study::sanity::ModelCheck,
};

/// How strong the colours of an overlay are.
const OPACITY: f32 = 0.5;

/// Pictures in a row of a sheet.
const ROW: usize = 6;

/// What the model is given, as a picture: its first three channels, or the first one in gray.
pub(super) fn picture(sample: &DecodedSample) -> RgbImage {
    let (height, width) = (sample.height, sample.width);
    let num_pixels = (height * width).max(1);
    let levels: Vec<u8> = match &sample.pixels {
        InputPixels::Levels(levels) => levels.clone(),
        InputPixels::Floats(floats) => {
            let (least, most) = floats
                .iter()
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)));
            let range = (most - least).max(f32::MIN_POSITIVE);
            let channels = floats.len() / num_pixels;
            let of = |place: usize, channel: usize| ((floats[channel * num_pixels + place] - least) / range * 255.0) as u8;
            (0..num_pixels).flat_map(|place| (0..channels).map(move |channel| of(place, channel))).collect()
        }
    };
    let channels = (levels.len() / num_pixels).max(1);
    let pixel = |pixel: &[u8]| if channels >= 3 { [pixel[0], pixel[1], pixel[2]] } else { [pixel[0]; 3] };
    RgbImage::new(height, width, levels.chunks_exact(channels).flat_map(pixel).collect())
}

/// Writes them; how many sheets there are.
pub(super) fn write(folder: &Path, checked: &CheckedModel, pictures: &[RgbImage]) -> Result<usize, Diagnostic> {
    let CheckedModel { found, maps, .. } = checked;
    for (case, kept) in found.cases.iter().zip(maps) {
        let picture = &pictures[kept.sample];
        let confidence = case.confidence.map_or_else(String::new, |confidence| format!(" {:.0} %", 100.0 * confidence));
        let stem = |rest: &str| folder.join(format!("{}.{}.{rest}", case.name, case.class).replace(['/', ' '], "_"));
        let mut rows: Vec<Vec<Tile>> = Vec::new();
        for (column, maps) in found.columns.iter().zip(&kept.columns) {
            let mut tiles = vec![Tile { caption: format!("{}{confidence}", case.class), image: picture.clone() }];
            for map in maps {
                let (height, width) = (picture.height, picture.width);
                let mut array = Vec::new();
                write_f32(&mut array, &[height, width], &map.values)
                    .map_err(|error| Diagnostic::aborted("the array cannot be encoded").because(&error))?;
                let name = format!("{}.layer_{}.{}", column.method, column.layer, map.name);
                write_bytes(&with_suffix(&stem(&name), ".npy"), &array)?;
                let caption = if map.name == "original" {
                    format!("{}, layer {}", column.method, column.layer)
                } else {
                    caption(found, &map.name)
                };
                tiles.push(Tile { caption, image: overlay(picture, height, width, &map.values, OPACITY)? });
            }
            rows.extend(tiles.chunks(ROW).map(<[Tile]>::to_vec));
        }
        write_bytes(&with_suffix(&stem("sheet"), ".png"), &encode_rgb(&contact_sheet(&rows)?)?)?;
    }
    Ok(maps.len())
}

/// What is shown, in few words.
fn caption(found: &ModelCheck, name: &str) -> String {
    let step = |prefix: &str| {
        let number = name.strip_prefix(prefix)?.parse::<usize>().ok()?;
        found.steps.get(number.checked_sub(1)?).map(|step| step.label())
    };
    if let Some(label) = step("randomised_") {
        format!("random down to {label}")
    } else if let Some(label) = step("alone_") {
        format!("random alone: {label}")
    } else if name == "noise" {
        "with noise".to_owned()
    } else {
        format!("{}, moved back", name.replace('_', " "))
    }
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Diagnostic> {
    Ok(write_atomically(path, Durability::Process, |writer| std::io::Write::write_all(writer, bytes))?)
}
