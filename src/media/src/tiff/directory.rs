//! The tags of a TIFF's first image, of both the classic and the large form (BigTIFF).

/// Numbers of a file, in its byte order.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) is_big_endian: bool,
}

impl<'a> Source<'a> {
    /// The part of the file, if it has it.
    pub(super) fn get(&self, start: u64, length: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(start).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }

    fn number(&self, start: u64, length: u64) -> Option<u64> {
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        let bytes = self.get(start, length)?;
        Some(if self.is_big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) })
    }
}

/// No image within the limits has more strips.
const MAX_NUMBERS: u64 = 1 << 24;

/// The tags of an image, as far as they are whole numbers or bytes.
pub(super) struct Directory<'a> {
    source: Source<'a>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    /// Bytes of each value.
    size: u64,
    count: u64,
    start: u64,
}

/// Whether the bytes begin as a TIFF does.
pub(crate) fn is_tiff(bytes: &[u8]) -> bool {
    matches!(bytes.first_chunk(), Some(b"II\x2a\0" | b"MM\0\x2a" | b"II\x2b\0" | b"MM\0\x2b"))
}

impl<'a> Directory<'a> {
    /// The tags of the first image.
    pub(super) fn first(bytes: &'a [u8]) -> Option<Directory<'a>> {
        let source = Source { bytes, is_big_endian: bytes.starts_with(b"MM") };
        let is_large = source.number(2, 2)? == 43;
        let (start, width) = if is_large { (source.number(8, 8)?, 8) } else { (source.number(4, 4)?, 4) };
        if start > bytes.len() as u64 {
            return None;
        }
        let num_entries = source.number(start, if is_large { 8 } else { 2 })?;
        let first = start.checked_add(if is_large { 8 } else { 2 })?;
        let step = 4 + 2 * width;
        let mut entries = Vec::new();
        // Each takes some bytes of the file, so that no number of them takes more memory than it.
        for index in 0..num_entries {
            let at = first.checked_add(index.checked_mul(step)?)?;
            let size = match source.number(at + 2, 2)? {
                1 | 2 | 6 | 7 => 1,
                3 | 8 => 2,
                4 | 9 | 11 | 13 => 4,
                5 | 10 | 12 | 16..=18 => 8,
                _ => continue,
            };
            let count = source.number(at + 4, width)?;
            let inside = at + 4 + width;
            let length = count.checked_mul(size)?;
            let start = if length <= width { inside } else { source.number(inside, width)? };
            // Pillow reads no tag beyond one whose values are cut off.
            if source.get(start, length).is_none() {
                break;
            }
            entries.push(Entry { tag: source.number(at, 2)? as u16, size, count, start });
        }
        Some(Directory { source, entries })
    }

    pub(super) fn source(&self) -> Source<'a> {
        self.source
    }

    fn entry(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    /// The numbers of a tag; none if it is not there, or says that it has more than the file.
    pub(super) fn numbers(&self, tag: u16) -> Vec<u64> {
        let Some(&Entry { size, count, start, .. }) = self.entry(tag).filter(|entry| entry.count <= MAX_NUMBERS) else {
            return Vec::new();
        };
        let whole = count.checked_mul(size).and_then(|length| self.source.get(start, length));
        whole.map_or(Vec::new(), |_| (0..count).filter_map(|index| self.source.number(start + index * size, size)).collect())
    }

    /// The first number of a tag.
    pub(super) fn number(&self, tag: u16) -> Option<u64> {
        let Entry { size, start, .. } = self.entry(tag).filter(|entry| entry.count > 0)?;
        self.source.number(*start, *size)
    }

    /// The bytes of a tag.
    pub(super) fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        let &Entry { size, count, start, .. } = self.entry(tag)?;
        self.source.get(start, count.checked_mul(size)?)
    }
}
