//! Masks of small objects, of which an image may have many: only what is around them is kept.

use super::geometry::BinaryMask;

/// A mask without the empty rows and columns around what it marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskPart {
    /// Rows and columns of the whole mask.
    whole: (usize, usize),
    /// The first row and the first column of the part.
    first: (usize, usize),
    part: BinaryMask,
}

impl MaskPart {
    /// Of a mask; `None` where it marks nothing.
    pub fn of(mask: &BinaryMask) -> Option<Self> {
        let BinaryMask { height, width, pixels } = mask;
        let rows: Vec<&[u8]> = pixels.chunks_exact((*width).max(1)).collect();
        let marked = |row: &&[u8]| row.iter().any(|pixel| *pixel != 0);
        let (top, bottom) = (rows.iter().position(marked)?, rows.iter().rposition(marked)? + 1);
        let of_each = |end: fn(&[u8]) -> Option<usize>| rows[top..bottom].iter().filter_map(move |row| end(row));
        let left = of_each(|row| row.iter().position(|pixel| *pixel != 0)).min()?;
        let right = of_each(|row| row.iter().rposition(|pixel| *pixel != 0)).max()? + 1;
        let pixels = rows[top..bottom].iter().flat_map(|row| &row[left..right]).copied().collect();
        let part = BinaryMask { height: bottom - top, width: right - left, pixels };
        Some(MaskPart { whole: (*height, *width), first: (top, left), part })
    }

    /// The mask that it was made of.
    pub fn whole(&self) -> BinaryMask {
        let MaskPart { whole: (height, width), first: (top, left), part } = self;
        let mut mask = BinaryMask::empty(*height, *width);
        for (row, pixels) in part.pixels.chunks_exact(part.width).enumerate() {
            let at = (top + row) * width + left;
            mask.pixels[at..at + part.width].copy_from_slice(pixels);
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_around_it_comes_back() {
        let mask = BinaryMask { height: 4, width: 5, pixels: vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0] };
        let part = MaskPart::of(&mask).expect("something is marked");
        assert_eq!((part.part.height, part.part.width, &part.part.pixels[..]), (2, 2, &[0, 1, 1, 0][..]));
        assert_eq!(part.whole(), mask);
        assert_eq!(MaskPart::of(&BinaryMask::empty(3, 2)), None);
        assert_eq!(MaskPart::of(&BinaryMask::empty(0, 0)), None);
        let full = BinaryMask::full(2, 3);
        assert_eq!(MaskPart::of(&full).map(|part| part.whole()), Some(full));
    }
}
