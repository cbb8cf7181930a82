//! Contact sheets: a page of small pictures with captions, to look at in one glance.

use super::{
    error::MediaError,
    image::RgbImage,
    marks::color_bar,
    resample::{Interpolation, resize_rgb},
    text::{LINE, Pen},
};

/// The longer side of a picture on the sheet, in pixels.
const SIDE: usize = 480;
/// Between pictures, and around all.
const GAP: usize = 12;
const CAPTION: usize = LINE + 4;
const PAPER: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [235, 235, 235];
/// The scale at the sheet's foot, and the space for the numbers at its ends.
const BAR: usize = 200;
const BAR_ENDS: usize = 16;
const SCALE_TEXT: &str = "attention, relative to the map's largest";

/// One picture of a sheet.
#[derive(Clone, Debug)]
pub struct Tile {
    /// One line above it; what does not fit is cut off.
    pub caption: String,
    /// The picture, of any size.
    pub image: RgbImage,
}

/// A sheet of rows of tiles, each scaled to the same cell (its longer side 480 pixels); rows may differ in length.
///
/// # Errors
/// A picture cannot be resized.
pub fn contact_sheet(rows: &[Vec<Tile>]) -> Result<RgbImage, MediaError> {
    let pen = Pen::new(INK)?;
    let mut cells = Vec::new();
    for row in rows {
        cells.push(
            row.iter()
                .map(|tile| Ok((tile.caption.as_str(), fitted(&tile.image, SIDE)?)))
                .collect::<Result<Vec<_>, MediaError>>()?,
        );
    }
    let pictures = || cells.iter().flatten().map(|(_, image)| image);
    let cell_width = pictures().map(|image| image.width).max().unwrap_or(1);
    let cell_height = pictures().map(|image| image.height).max().unwrap_or(1);
    let num_columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let (row_height, column_width) = (CAPTION + cell_height + GAP, cell_width + GAP);
    let (height, width) = (GAP + cells.len() * row_height + CAPTION, GAP + num_columns * column_width);
    let mut sheet = RgbImage::new(height, width, PAPER.repeat(height * width));
    for (row, cells) in cells.iter().enumerate() {
        for (column, (caption, image)) in cells.iter().enumerate() {
            let (top, left) = (GAP + row * row_height, GAP + column * column_width);
            pen.write(&mut sheet, caption, (top, left), cell_width);
            paste(&mut sheet, image, (top + CAPTION, left));
        }
    }
    if width >= BAR + 2 * (BAR_ENDS + GAP) {
        let (top, mut left) = (height - CAPTION - GAP / 2, GAP);
        pen.write(&mut sheet, "0", (top, left), BAR_ENDS);
        left += BAR_ENDS;
        paste(&mut sheet, &color_bar(LINE - 4, BAR), (top + 2, left));
        left += BAR + BAR_ENDS / 2;
        pen.write(&mut sheet, &format!("1   {SCALE_TEXT}"), (top, left), width - left);
    }
    Ok(sheet)
}

/// A tile alone, its longer side `side` pixels, under its caption.
pub(super) fn captioned(tile: &Tile, side: usize) -> Result<RgbImage, MediaError> {
    let image = fitted(&tile.image, side)?;
    let (height, width) = (CAPTION + image.height, image.width);
    let mut captioned = RgbImage::new(height, width, PAPER.repeat(height * width));
    Pen::new(INK)?.write(&mut captioned, &tile.caption, (0, 2), width.saturating_sub(2));
    paste(&mut captioned, &image, (CAPTION, 0));
    Ok(captioned)
}

fn fitted(image: &RgbImage, longest: usize) -> Result<RgbImage, MediaError> {
    let longer = image.height.max(image.width).max(1);
    let scaled = |side: usize| (side * longest / longer).max(1);
    // Small maps are enlarged without smoothing, so that their own pixels can be seen.
    let interpolation = if longer < longest { Interpolation::Nearest } else { Interpolation::Bilinear };
    resize_rgb(image, scaled(image.height), scaled(image.width), interpolation, true)
}

fn paste(sheet: &mut RgbImage, image: &RgbImage, (top, left): (usize, usize)) {
    for (row, pixels) in image.pixels.chunks_exact(image.width * 3).enumerate() {
        let start = ((top + row) * sheet.width + left) * 3;
        sheet.pixels[start..start + pixels.len()].copy_from_slice(pixels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(height: usize, width: usize, color: u8) -> Tile {
        Tile { caption: "l4".into(), image: RgbImage::new(height, width, vec![color; height * width * 3]) }
    }

    #[test]
    fn pictures_lie_in_rows_and_columns_under_their_captions() {
        let sheet = contact_sheet(&[vec![tile(480, 480, 200), tile(100, 50, 100)], vec![tile(240, 240, 50)]]).expect("sheet");
        assert_eq!((sheet.height, sheet.width), (12 + 2 * (24 + 480 + 12) + 24, 12 + 2 * 492));
        let pixel = |row: usize, column: usize| sheet.pixels[(row * sheet.width + column) * 3];
        assert_eq!((pixel(50, 20), pixel(50, 12 + 492), pixel(50 + 516, 20)), (200, 100, 50));
        assert_eq!((pixel(0, 0), pixel(50 + 516, 600)), (PAPER[0], PAPER[0]));
        let is_written = |top: usize, left: usize| (top..top + LINE).any(|row| (left..left + 16).any(|at| pixel(row, at) > 150));
        assert!(is_written(12, 12), "no caption");
        // The scale: blue at its beginning, red at its end.
        let (bar, [begin, end]) = (sheet.height - 20, [29, 12 + 16 + BAR - 2]);
        let color = |column: usize| &sheet.pixels[(bar * sheet.width + column) * 3..][..3];
        assert!(color(begin)[2] > color(begin)[0] && color(end)[0] > color(end)[2], "{:?} {:?}", color(begin), color(end));
    }

    #[test]
    fn nothing_is_an_empty_sheet_not_a_panic() {
        assert_eq!(contact_sheet(&[]).expect("sheet").height, 12 + 24);
        let long = Tile { caption: "x".repeat(500), ..tile(1, 1, 9) };
        assert!(contact_sheet(&[vec![long]]).is_ok());
    }
}
