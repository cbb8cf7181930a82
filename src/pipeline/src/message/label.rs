//! What a sample's label says about where the classes are, as the dataset stores it: nothing of it is decoded or checked.

use std::path::PathBuf;

/// A segmentation mask as the dataset stores it, not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredMask {
    /// A zlib stream of a complete `.npy` file, as FiftyOne keeps arrays in documents.
    Inline(Vec<u8>),
    /// An image file on disk.
    File(PathBuf),
}

/// What a sample's label says about where the classes are.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredTarget {
    /// A segmentation mask; each requested class is looked up in it by its [`MaskValue`](camflow_media::MaskValue).
    Mask(StoredMask),
    /// Objects; a class's pixels are those of all its objects.
    Objects(Vec<StoredObject>),
    /// Names of the classes that the whole image is labelled with, without saying where.
    Names(Vec<String>),
    /// No label is needed: the model's prediction or the job itself says where.
    Unlabelled,
    /// The sample has no label in the field.
    Missing,
    /// The label is not as FiftyOne writes it; the text says what is wrong.
    Malformed(String),
}

impl StoredTarget {
    /// The place of one of its objects among all of them, that with the highest confidence first, from 1; `None` where it has no confidence.
    /// Of equal ones the first comes first.
    pub(crate) fn rank(&self, object: &StoredObject) -> Option<usize> {
        let (StoredTarget::Objects(objects), Some(confidence)) = (self, object.confidence) else { return None };
        let at = objects.iter().position(|other| std::ptr::eq(other, object))?;
        let comes_before = |(place, other): &(usize, &StoredObject)| {
            other.confidence.is_some_and(|other| other > confidence || other == confidence && *place < at)
        };
        Some(1 + objects.iter().enumerate().filter(comes_before).count())
    }

    /// What the label calls the classes that it has; masks call them by numbers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (objects, names) = match self {
            StoredTarget::Objects(objects) => (&objects[..], &[][..]),
            StoredTarget::Names(names) => (&[][..], &names[..]),
            _ => (&[][..], &[][..]),
        };
        objects.iter().filter_map(|object| object.label.as_deref()).chain(names.iter().map(String::as_str))
    }
}

/// One object of a sample's label.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredObject {
    /// Its own id (24 hexadecimal digits in FiftyOne); `None` where it has none.
    pub id: Option<String>,
    /// Its class by name; `None` where it has none, so that it belongs to no class.
    pub label: Option<String>,
    /// How sure its maker was of it; `None` where nobody said, as of what people drew.
    pub confidence: Option<f64>,
    /// What an evaluation found of it; `None` where nobody asked, or it was not evaluated.
    pub evaluated: Option<Evaluated>,
    /// Where it is.
    pub shape: StoredShape,
}

/// What an evaluation found of a detection.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// FiftyOne's word for it: `tp`, `fp` or `fn`.
    pub outcome: String,
    /// The overlap (intersection over union) with the object of the other field that it was matched with; `None` where there is none.
    pub iou: Option<f64>,
}

/// Where an object is, in fractions of the image's width (x) and height (y). Nothing is checked yet: the numbers may be
/// anything, NaN too.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredShape {
    /// A detection.
    Box {
        /// Left, top, width, height.
        bounds: [f64; 4],
        /// Its pixels inside the box, over which the mask is stretched; all of the box without one.
        mask: Option<StoredMask>,
    },
    /// A polyline: one or several lists of points (x, y).
    Lines {
        /// The points of each line.
        lines: Vec<Vec<[f64; 2]>>,
        /// Whether each line's last point is joined to its first.
        closed: bool,
        /// Whether what the lines enclose belongs to the object.
        filled: bool,
    },
    /// It is not as FiftyOne writes it; the text says what is wrong.
    Malformed(String),
}
