//! The sizes of the frames in a WebP, which need not be that of the picture.

/// Height and width of every frame, also of those that are cut off.
pub(super) fn frame_sizes(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let mut at: usize = 12;
    std::iter::from_fn(move || {
        loop {
            let header = bytes.get(at..at.checked_add(8)?)?;
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let content = &bytes[at + 8..];
            let number = |start: usize| content.get(start..start + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
            let size = match &header[..4] {
                // The frame of an animation: its own chunks follow 16 bytes.
                b"ANMF" => {
                    at += 24;
                    continue;
                }
                b"VP8 " => number(8).zip(number(6)).map(|(height, width)| (height & 0x3fff, width & 0x3fff)),
                b"VP8L" => content.get(1..5).map(|b| {
                    let sides = u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
                    ((sides >> 14 & 0x3fff) + 1, (sides & 0x3fff) + 1)
                }),
                _ => None,
            };
            at = at.checked_add(8)?.checked_add(length)?.checked_add(length & 1)?;
            if size.is_some() {
                return size;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found() {
        let sizes = |bytes: &[u8]| frame_sizes(bytes).collect::<Vec<_>>();
        assert_eq!(sizes(include_bytes!("../testdata/color_lossy.webp")), [(37, 53)]);
        assert_eq!(sizes(include_bytes!("../testdata/color_turned.webp")), [(10, 16)]);
        assert_eq!(sizes(include_bytes!("../testdata/mask_rgb.webp")).len(), 1);
        assert!(sizes(b"RIFF\xff\xff\xff\xffWEBPVP8 ").is_empty());
        assert!(sizes(b"RIFF\xff\xff\xff\xffWEBPJUNK\xff\xff\xff\xff12").is_empty());
    }
}
