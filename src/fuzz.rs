//! Entry points for fuzzing: the readers of everything that comes from outside, on bytes alone. The targets in `fuzz/` call them
//! under libFuzzer, `tests/fuzz_corpus.rs` with a bounded number of mutations in every test run.
//!
//! Any bytes may be refused. What must not happen is a panic, or more memory than [`LIMITS`] allow.

use std::path::Path;

use crate::{
    media::{ExifPolicy, ImageLimits, LabelMask, Preprocess, PreprocessStep, SampleRange, SourceImage, parse_array, parse_image},
    program::{read_archive, read_graph},
};

/// Small, so that whatever escapes them stands out.
pub const LIMITS: ImageLimits = ImageLimits { max_pixels: 1 << 18, max_bytes: 4 << 20 };

/// A reader by the name of its target; `true`: it accepted the bytes.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("archive", archive),
    ("graph", graph),
    ("npy", npy),
    ("mask_document", mask_document),
    ("mask_file", mask_file),
    ("image", image),
];

/// A model file.
pub fn archive(bytes: &[u8]) -> bool {
    read_archive(bytes).is_ok()
}

/// The graph of a model, in JSON.
pub fn graph(bytes: &[u8]) -> bool {
    read_graph(bytes).is_ok()
}

/// A `.npy` file.
pub fn npy(bytes: &[u8]) -> bool {
    let Ok(array) = parse_array(bytes, "the array") else { return false };
    assert_eq!(array.values.to_f32().len(), array.shape.iter().product::<usize>());
    LabelMask::from_array(array).is_ok_and(check_mask)
}

/// A mask in a document: a zlib stream of a `.npy` file.
pub fn mask_document(bytes: &[u8]) -> bool {
    LabelMask::inflate(bytes, &LIMITS).is_ok_and(check_mask)
}

/// A mask file.
pub fn mask_file(bytes: &[u8]) -> bool {
    LabelMask::parse(Path::new("mask"), bytes, &LIMITS).is_ok_and(check_mask)
}

/// An image file.
pub fn image(bytes: &[u8]) -> bool {
    let path = Path::new("image");
    for channels in [1, 3, 4] {
        let steps = vec![
            PreprocessStep::Read { channels, samples: SampleRange::AsIs },
            PreprocessStep::Normalize { mean: vec![0.0; channels], std: vec![1.0; channels], divide_by: Some(1.0) },
        ];
        let preprocess = Preprocess { steps };
        if let Ok(SourceImage::Bands(image)) = preprocess.parse(path, bytes, &LIMITS, ExifPolicy::Apply) {
            assert_eq!((image.channels, image.samples.len()), (channels, image.height * image.width * channels));
            assert_eq!(image.picture().pixels.len(), image.height * image.width * 3);
        }
    }
    let read = |exif| parse_image(path, bytes, &LIMITS, exif);
    let (Ok(stored), Ok(upright)) = (read(ExifPolicy::Ignore), read(ExifPolicy::Apply)) else { return false };
    for image in [&stored, &upright] {
        assert_eq!(image.pixels.len(), image.height * image.width * 3);
        assert!((image.height * image.width) as u64 <= LIMITS.max_pixels);
    }
    true
}

fn check_mask(mask: LabelMask) -> bool {
    let pixels = mask.height * mask.width;
    assert_eq!(mask.nonzero().pixels.len(), pixels);
    if let Some((value, count)) = mask.values().first() {
        assert_eq!(mask.select(value).map(|selected| selected.count()).ok(), Some(*count));
    }
    true
}
