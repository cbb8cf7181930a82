//! Contact sheets: a page of small pictures with captions, to look at in one glance.

use font8x8::UnicodeFonts;

use super::{
    error::MediaError,
    image::RgbImage,
    resample::{Interpolation, resize_rgb},
};

/// The longer side of a picture on the sheet, in pixels.
const SIDE: usize = 240;
/// Between pictures, and around all.
const GAP: usize = 8;
/// A letter is 8x8 pixels, with two above and below.
const LETTER: usize = 8;
const CAPTION: usize = LETTER + 4;
const PAPER: [u8; 3] = [24, 24, 24];
const INK: [u8; 3] = [235, 235, 235];

/// One picture of a sheet.
#[derive(Clone, Debug)]
pub struct Tile {
    /// One line above it; what does not fit is cut off.
    pub caption: String,
    /// The picture, of any size.
    pub image: RgbImage,
}

/// A sheet of rows of tiles, each scaled to the same cell (its longer side 240 pixels); rows may differ in length.
///
/// # Errors
/// A picture cannot be resized.
pub fn contact_sheet(rows: &[Vec<Tile>]) -> Result<RgbImage, MediaError> {
    let mut cells = Vec::new();
    for row in rows {
        cells.push(
            row.iter().map(|tile| Ok((tile.caption.as_str(), fitted(&tile.image)?))).collect::<Result<Vec<_>, MediaError>>()?,
        );
    }
    let pictures = || cells.iter().flatten().map(|(_, image)| image);
    let cell_width = pictures().map(|image| image.width).max().unwrap_or(1);
    let cell_height = pictures().map(|image| image.height).max().unwrap_or(1);
    let num_columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let (row_height, column_width) = (CAPTION + cell_height + GAP, cell_width + GAP);
    let (height, width) = (GAP + cells.len() * row_height, GAP + num_columns * column_width);
    let mut sheet = RgbImage::new(height, width, PAPER.repeat(height * width));
    for (row, cells) in cells.iter().enumerate() {
        for (column, (caption, image)) in cells.iter().enumerate() {
            let (top, left) = (GAP + row * row_height, GAP + column * column_width);
            write_line(&mut sheet, caption, (top + 2, left), cell_width);
            paste(&mut sheet, image, (top + CAPTION, left));
        }
    }
    Ok(sheet)
}

fn fitted(image: &RgbImage) -> Result<RgbImage, MediaError> {
    let longer = image.height.max(image.width).max(1);
    let scaled = |side: usize| (side * SIDE / longer).max(1);
    // Small maps are enlarged without smoothing, so that their own pixels can be seen.
    let interpolation = if longer < SIDE { Interpolation::Nearest } else { Interpolation::Bilinear };
    resize_rgb(image, scaled(image.height), scaled(image.width), interpolation, true)
}

fn paste(sheet: &mut RgbImage, image: &RgbImage, (top, left): (usize, usize)) {
    for (row, pixels) in image.pixels.chunks_exact(image.width * 3).enumerate() {
        let start = ((top + row) * sheet.width + left) * 3;
        sheet.pixels[start..start + pixels.len()].copy_from_slice(pixels);
    }
}

fn write_line(sheet: &mut RgbImage, text: &str, (top, left): (usize, usize), width: usize) {
    for (place, letter) in text.chars().take(width / LETTER).enumerate() {
        let rows = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter)).unwrap_or([0x7E; 8]);
        for (row, bits) in rows.into_iter().enumerate() {
            for column in (0..LETTER).filter(|column| bits & (1 << column) != 0) {
                let at = ((top + row) * sheet.width + left + place * LETTER + column) * 3;
                sheet.pixels[at..at + 3].copy_from_slice(&INK);
            }
        }
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
        assert_eq!((sheet.height, sheet.width), (8 + 2 * (12 + 240 + 8), 8 + 2 * 248));
        let pixel = |row: usize, column: usize| sheet.pixels[(row * sheet.width + column) * 3];
        assert_eq!((pixel(30, 20), pixel(30, 8 + 248), pixel(30 + 260, 20)), (200, 100, 50));
        assert_eq!((pixel(0, 0), pixel(30 + 260, 300)), (PAPER[0], PAPER[0]));
        let ink = (10..18).any(|row| (8..24).any(|column| pixel(row, column) == INK[0]));
        assert!(ink, "no caption");
    }

    #[test]
    fn nothing_is_an_empty_sheet_not_a_panic() {
        assert_eq!(contact_sheet(&[]).expect("sheet").height, 8);
        let long = Tile { caption: "x".repeat(500), ..tile(1, 1, 9) };
        assert!(contact_sheet(&[vec![long]]).is_ok());
    }
}
