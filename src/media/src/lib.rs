//! Pictures, masks and arrays: files and bytes to numbers and back. Knows no database and no tensor library.
//!
//! The way in: [`read_image`] and [`Preprocess`] make the model's input, [`LabelMask`] finds the pixels of a class. The way
//! out: [`encode_gray`] and [`write_f32`] make the bytes, [`write_atomically`] puts them on disk.

mod array;
mod bands;
mod bitmap;
mod checksum;
mod content;
mod elsewhere;
mod error;
mod file;
mod format;
mod geometry;
mod gif;
mod image;
mod instance;
mod jpeg;
mod marks;
mod mask;
mod named;
mod orientation;
mod overlay;
mod picture;
mod pixels;
mod png;
mod png_repair;
mod portable;
mod preprocess;
mod reread;
mod resample;
mod shapes;
mod sheet;
mod stamp;
mod step;
mod text;
mod tiff;
mod turns;
mod upsampling;
mod webp;
mod write;

pub use array::{Array, ArrayValues, deflate_f32, inflate_array, parse_array, read_array_file, write_f16, write_f32};
pub use bands::{BandImage, Depth, read_picture};
pub use checksum::{Checksum, Damage, FileForm, RecordedChecksum, UnknownChecksum, write_with_checksum};
pub use content::{FileContent, read_text};
pub use error::MediaError;
pub use file::{open_regular, shown};
pub use geometry::{BinaryMask, FrameRegion, MaskValue, Outside, resize_nearest};
pub use image::{ImageLimits, RgbImage, parse_image, read_image};
pub use instance::InstanceMask;
pub use jpeg::encode_jpeg;
pub use marks::{hatch, outline};
pub use mask::LabelMask;
pub use named::{check_named, named_file, write_named};
pub use orientation::{ExifPolicy, Orientation};
pub use overlay::{jet, overlay};
pub use png::{encode_gray, encode_rgb};
pub use preprocess::{ModelInput, Preprocess, SourceImage};
pub use reread::was_read_otherwise;
pub use resample::{Interpolation, resize_rgb};
pub use sheet::{Tile, contact_sheet};
pub use stamp::{Stamp, WatchedFile};
pub use step::{Fill, FillWord, PreprocessStep, SampleRange};
pub use turns::with_large_pictures_in_turn;
pub use upsampling::Upsampling;
pub use write::{Durability, create_folders, sync_names, with_suffix, write_atomically};
