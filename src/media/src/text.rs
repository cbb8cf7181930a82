//! Lines of text in pictures: Noto Sans for the scripts that it has (Latin with its accents, Greek, Cyrillic), and the bitmap glyphs
//! of GNU Unifont for all others, Chinese, Japanese and Korean among them.

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};

use super::{error::MediaError, image::RgbImage};

/// Height of a line in pixels, that of Unifont's glyphs with a little room.
pub(super) const LINE: usize = 20;
const UNIFONT_HEIGHT: usize = 16;
/// At which Noto Sans is as high as Unifont.
const SCALE: f32 = 18.0;

/// Draws text.
pub(super) struct Pen {
    font: FontRef<'static>,
    ink: [u8; 3],
}

/// A letter with the width that it takes.
enum Letter {
    Outline(Glyph, f32),
    Bitmap(&'static unifont::Glyph),
}

impl Letter {
    fn width(&self) -> f32 {
        match self {
            Letter::Outline(_, width) => *width,
            Letter::Bitmap(glyph) => glyph.get_width() as f32,
        }
    }
}

impl Pen {
    /// # Errors
    /// The font cannot be read.
    pub(super) fn new(ink: [u8; 3]) -> Result<Pen, MediaError> {
        let font = FontRef::try_from_slice(notosans::REGULAR_TTF)
            .map_err(|error| MediaError::encode(format!("the font of captions cannot be read: {error}")))?;
        Ok(Pen { font, ink })
    }

    /// Writes one line with its upper left corner at `top` and `left`, at most `width` pixels wide: what does not fit becomes `…`.
    pub(super) fn write(&self, image: &mut RgbImage, text: &str, (top, left): (usize, usize), width: usize) {
        let mut letters: Vec<Letter> = text.chars().filter_map(|letter| self.letter(letter)).collect();
        let length = |letters: &[Letter]| letters.iter().map(Letter::width).sum::<f32>();
        if length(&letters) > width as f32 {
            let dots = self.letter('…');
            let room = width as f32 - dots.as_ref().map_or(0.0, Letter::width);
            while length(&letters) > room && letters.pop().is_some() {}
            letters.extend(dots);
        }
        let mut x = left as f32;
        for letter in letters {
            let width = letter.width();
            self.draw(image, letter, (top, x));
            x += width;
        }
    }

    /// `None` for what is not to be seen.
    fn letter(&self, letter: char) -> Option<Letter> {
        if letter.is_control() {
            return None;
        }
        let id = self.font.glyph_id(letter);
        match unifont::get_glyph(letter) {
            Some(glyph) if id.0 == 0 => Some(Letter::Bitmap(glyph)),
            _ => {
                let width = self.font.as_scaled(PxScale::from(SCALE)).h_advance(id);
                Some(Letter::Outline(id.with_scale(SCALE), width))
            }
        }
    }

    fn draw(&self, image: &mut RgbImage, letter: Letter, (top, left): (usize, f32)) {
        match letter {
            Letter::Outline(mut glyph, _) => {
                let base = top as f32 + (LINE as f32 - SCALE) / 2.0 + self.font.as_scaled(PxScale::from(SCALE)).ascent();
                glyph.position = point(left, base);
                let Some(outline) = self.font.outline_glyph(glyph) else { return };
                let corner = outline.px_bounds().min;
                outline.draw(|x, y, coverage| {
                    self.mix(image, corner.y + y as f32, corner.x + x as f32, coverage);
                });
            }
            Letter::Bitmap(glyph) => {
                for y in 0..UNIFONT_HEIGHT {
                    for x in (0..glyph.get_width()).filter(|x| glyph.get_pixel(*x, y)) {
                        self.mix(image, (top + (LINE - UNIFONT_HEIGHT) / 2 + y) as f32, left.round() + x as f32, 1.0);
                    }
                }
            }
        }
    }

    /// Ink over a pixel; none beside the image.
    fn mix(&self, image: &mut RgbImage, row: f32, column: f32, coverage: f32) {
        if row < 0.0 || column < 0.0 || row as usize >= image.height || column as usize >= image.width {
            return;
        }
        let at = (row as usize * image.width + column as usize) * 3;
        for (pixel, ink) in image.pixels[at..at + 3].iter_mut().zip(self.ink) {
            *pixel = (f32::from(*pixel) + (f32::from(ink) - f32::from(*pixel)) * coverage.clamp(0.0, 1.0)).round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns that have ink, of a line on black.
    fn written(text: &str, width: usize) -> Vec<usize> {
        let mut image = RgbImage::new(LINE, 200, vec![0; LINE * 200 * 3]);
        Pen::new([255; 3]).expect("the font").write(&mut image, text, (0, 0), width);
        let has_ink = |column: &usize| (0..LINE).any(|row| image.pixels[(row * 200 + column) * 3] > 0);
        (0..200).filter(has_ink).collect()
    }

    #[test]
    fn accents_and_other_scripts_have_letters_of_their_own() {
        let same = |one: &str, other: &str| {
            let draw = |text: &str| {
                let mut image = RgbImage::new(LINE, 60, vec![0; LINE * 60 * 3]);
                Pen::new([255; 3]).expect("the font").write(&mut image, text, (0, 0), 60);
                image.pixels
            };
            draw(one) == draw(other)
        };
        for (one, other) in [("é", "e"), ("ş", "s"), ("собака", "cобaкa!"), ("犬", "猫"), ("개", "강"), ("犬", "\u{fffd}")]
        {
            assert!(!same(one, other), "{one} {other}");
        }
        // Full width.
        assert!(written("犬", 60).last() > written("l", 60).last());
    }

    #[test]
    fn what_does_not_fit_is_cut_off_visibly() {
        let whole = written("x", 200);
        assert!(!whole.is_empty() && written("\u{1b}\n", 200).is_empty());
        let cut = written(&"x".repeat(500), 100);
        assert!(*cut.last().expect("ink") < 100);
        assert_ne!(cut, written(&"x".repeat(500), 200)[..cut.len()], "dots at its end");
        assert!(written("xx", 0).iter().all(|column| *column < 20));
    }
}
