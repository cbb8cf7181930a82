//! What is drawn over a heatmap's picture: the outline of what was explained, hatching where the model did not look, the scale of the
//! colours.

use super::{geometry::BinaryMask, image::RgbImage, overlay::jet};

/// Lines are seen on light and on dark.
const LIGHT: [u8; 3] = [255, 255, 255];
const DARK: [u8; 3] = [0, 0, 0];

/// A line is this part of the picture's longer side.
const LINE_PART: usize = 300;
/// Distance of the lines of a hatching, in widths of a line.
const HATCHING: usize = 6;

/// Draws the edge of an object, at any resolution, around it: a light line with a dark one outside.
pub fn outline(image: &mut RgbImage, object: &BinaryMask) {
    let (height, width) = (image.height, image.width);
    let object = object.resize_nearest(height, width);
    let reach = line_width(image);
    let near = |distance: usize| -> Vec<u8> {
        // A square that moves along rows and then along columns.
        let along = |pixels: &[u8], count: usize, length: usize, at: &dyn Fn(usize, usize) -> usize| {
            let mut wide = vec![0; pixels.len()];
            for line in 0..count {
                for place in (0..length).filter(|place| pixels[at(line, *place)] != 0) {
                    for reached in place.saturating_sub(distance)..(place + distance + 1).min(length) {
                        wide[at(line, reached)] = 1;
                    }
                }
            }
            wide
        };
        let rows = along(&object.pixels, height, width, &|row, column| row * width + column);
        along(&rows, width, height, &|column, row| row * width + column)
    };
    let (inner, outer) = (near(reach), near(2 * reach));
    for (pixel, at) in image.pixels.chunks_exact_mut(3).zip(0..) {
        let inside = object.pixels[at] != 0;
        let color = if inside || outer[at] == 0 { continue } else { if inner[at] != 0 { LIGHT } else { DARK } };
        pixel.copy_from_slice(&color);
    }
}

/// Hatches what is 0 in `seen`, at any resolution.
pub fn hatch(image: &mut RgbImage, seen: &BinaryMask) {
    let seen = seen.resize_nearest(image.height, image.width);
    let (width, line) = (image.width, line_width(image));
    for (pixel, at) in image.pixels.chunks_exact_mut(3).zip(0..).filter(|(_, at)| seen.pixels[*at] == 0) {
        let is_line = (at / width + at % width) / line % HATCHING == 0;
        let color = if is_line { LIGHT } else { DARK };
        for (pixel, color) in pixel.iter_mut().zip(color) {
            *pixel = ((u16::from(*pixel) + u16::from(color)) / 2) as u8;
        }
    }
}

/// The colours from 0 at the left to 1 at the right.
pub(super) fn color_bar(height: usize, width: usize) -> RgbImage {
    let row: Vec<u8> = (0..width).flat_map(|column| jet(column as f32 / (width.max(2) - 1) as f32)).collect();
    RgbImage::new(height, width, row.repeat(height))
}

fn line_width(image: &RgbImage) -> usize {
    (image.height.max(image.width) / LINE_PART).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(height: usize, width: usize) -> RgbImage {
        RgbImage::new(height, width, vec![128; height * width * 3])
    }

    #[test]
    fn an_outline_lies_around_its_object() {
        let mut image = gray(9, 9);
        let mut object = BinaryMask { height: 9, width: 9, pixels: vec![0; 81] };
        object.pixels[4 * 9 + 4] = 1;
        outline(&mut image, &object);
        let row: Vec<u8> = image.pixels[4 * 27..5 * 27].chunks_exact(3).map(|pixel| pixel[0]).collect();
        assert_eq!(row, [128, 128, 0, 255, 128, 255, 0, 128, 128]);
        // An object that is all of the image has no edge.
        let mut image = gray(2, 2);
        outline(&mut image, &BinaryMask::full(2, 2));
        assert_eq!(image, gray(2, 2));
    }

    #[test]
    fn only_what_was_not_seen_is_hatched() {
        let mut image = gray(1, 14);
        hatch(&mut image, &BinaryMask { height: 1, width: 2, pixels: vec![0, 1] });
        let row: Vec<u8> = image.pixels.chunks_exact(3).map(|pixel| pixel[0]).collect();
        assert_eq!(row, [191, 64, 64, 64, 64, 64, 191, 128, 128, 128, 128, 128, 128, 128]);
    }
}
