//! Checksums of written files, and what is wrong with a file that does not fit its own.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
    str::FromStr,
};

use super::{
    array::{MAX_START_BYTES, npy_file_size, parse_array},
    content::FileContent,
    error::MediaError,
    file::{open_regular, other_kind},
    image::{ImageLimits, parse_image},
    orientation::ExifPolicy,
    write::{Durability, write_atomically},
};

/// Digest (BLAKE3) and size of a file's content. As text: `blake3:<64 hexadecimal digits>:<bytes>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    digest: blake3::Hash,
    size: u64,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}:{}", self.digest.to_hex(), self.size)
    }
}

/// Not the text of a checksum that this camflow knows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not `blake3:<64 hexadecimal digits>:<bytes>`")]
pub struct UnknownChecksum;

impl FromStr for Checksum {
    type Err = UnknownChecksum;

    fn from_str(text: &str) -> Result<Self, UnknownChecksum> {
        let (digest, size) = text.strip_prefix("blake3:").and_then(|rest| rest.split_once(':')).ok_or(UnknownChecksum)?;
        let digest = blake3::Hash::from_hex(digest).map_err(|_| UnknownChecksum)?;
        Ok(Checksum { digest, size: size.parse().map_err(|_| UnknownChecksum)? })
    }
}

impl Checksum {
    /// Bytes of the content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum { digest: blake3::hash(bytes), size: bytes.len() as u64 }
    }
}

/// What a label says of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedChecksum {
    /// Of the file as it was written; `None` where the label does not say.
    pub checksum: Option<Checksum>,
    /// Whether somebody who read all of the file found it damaged: it is to be made again.
    pub is_damaged: bool,
}

/// What stands before the checksum of a file that was found damaged, or in its place.
const DAMAGED: &str = "damaged";

impl RecordedChecksum {
    /// From a label's text; `None` if it is none that this camflow knows.
    pub fn parse(text: &str) -> Option<RecordedChecksum> {
        let checksum = |text: &str| text.parse().ok();
        match text.strip_prefix(DAMAGED) {
            Some(rest) => Some(RecordedChecksum { checksum: rest.strip_prefix(':').and_then(checksum), is_damaged: true }),
            None => Some(RecordedChecksum { checksum: Some(checksum(text)?), is_damaged: false }),
        }
    }
}

impl fmt::Display for RecordedChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let damaged = self.is_damaged.then(|| DAMAGED.to_owned());
        let parts = damaged.into_iter().chain(self.checksum.map(|checksum| checksum.to_string()));
        f.write_str(&parts.collect::<Vec<_>>().join(":"))
    }
}

/// Writes a file as [`write_atomically`] does, with the checksum of what `fill` wrote.
///
/// # Errors
/// As for [`write_atomically`].
pub fn write_with_checksum(
    path: &Path,
    durability: Durability,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Checksum, MediaError> {
    let mut checksum = Checksum::of(&[]);
    write_atomically(path, durability, |file| {
        let mut digesting = Digesting { file, hasher: blake3::Hasher::new(), size: 0 };
        fill(&mut digesting)?;
        checksum = Checksum { digest: digesting.hasher.finalize(), size: digesting.size };
        Ok(())
    })?;
    Ok(checksum)
}

/// Looks at everything that goes to a file.
struct Digesting<'a, 'f> {
    file: &'a mut BufWriter<&'f File>,
    hasher: blake3::Hasher,
    size: u64,
}

impl Write for Digesting<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Why a file is not the one that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// There is none of that name.
    Missing,
    /// It is something else: its kind, with its article.
    NotAFile(&'static str),
    /// It has another size.
    Size {
        /// Its bytes.
        found: u64,
        /// As it was written.
        wanted: u64,
    },
    /// It is empty, which no heatmap ever is.
    Empty,
    /// It has another digest.
    Content,
    /// It has no checksum, and is not complete by itself; the text says why.
    Form(String),
    /// Somebody who read it found it damaged.
    Noted,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Missing => f.write_str("it is not there"),
            Damage::NotAFile(what) => write!(f, "it is {what}, not a file"),
            Damage::Size { found, wanted } => write!(f, "it has {found} bytes, {wanted} were written"),
            Damage::Empty => f.write_str("it is empty"),
            Damage::Content => f.write_str("its content is not what was written (digests differ)"),
            Damage::Form(reason) => f.write_str(reason),
            Damage::Noted => f.write_str("an earlier check found its content damaged"),
        }
    }
}

impl Damage {
    /// Whether every run notices it by looking at the file's metadata, as [`Damage::at_a_glance`] does.
    pub fn shows_at_a_glance(&self) -> bool {
        !matches!(self, Damage::Content | Damage::Form(_))
    }

    /// What one look at the file's metadata shows.
    ///
    /// # Errors
    /// The file cannot be seen, which says nothing about it. (That there is no such file is no error.)
    pub fn at_a_glance(path: &Path, recorded: Option<&RecordedChecksum>) -> io::Result<Option<Damage>> {
        let damage = Self::of_metadata(path, recorded.and_then(|recorded| recorded.checksum))?;
        Ok(damage.or_else(|| recorded.is_some_and(|recorded| recorded.is_damaged).then_some(Damage::Noted)))
    }

    fn of_metadata(path: &Path, checksum: Option<Checksum>) -> io::Result<Option<Damage>> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Damage::Missing)),
            metadata => metadata?,
        };
        if let Some(what) = other_kind(&metadata) {
            return Ok(Some(Damage::NotAFile(what)));
        }
        let found = metadata.len();
        Ok(match checksum {
            Some(Checksum { size: wanted, .. }) if wanted != found => Some(Damage::Size { found, wanted }),
            None if found == 0 => Some(Damage::Empty),
            _ => None,
        })
    }

    /// What reading the whole file shows. One without a checksum is decoded.
    ///
    /// # Errors
    /// The file cannot be read, or changed while it was.
    pub fn by_reading(path: &Path, form: FileForm, checksum: Option<Checksum>) -> io::Result<Option<Damage>> {
        if let Some(damage) = Self::of_metadata(path, checksum)? {
            return Ok(Some(damage));
        }
        match checksum {
            Some(checksum) => Self::of_content(path, checksum),
            None => decoded(path, form),
        }
    }

    fn of_content(path: &Path, checksum: Checksum) -> io::Result<Option<Damage>> {
        let mut file = match open_regular(path)? {
            Ok((file, _)) => file,
            Err(what) => return Ok(Some(Damage::NotAFile(what))),
        };
        let mut hasher = blake3::Hasher::new();
        let found = hasher.update_reader(&mut file)?.count();
        Ok(if found != checksum.size {
            Some(Damage::Size { found, wanted: checksum.size })
        } else {
            (hasher.finalize() != checksum.digest).then_some(Damage::Content)
        })
    }

    /// What the beginning and the end of a file without a checksum show.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of_ends(path: &Path, form: FileForm) -> io::Result<Option<Damage>> {
        if let Some(damage) = Self::of_metadata(path, None)? {
            return Ok(Some(damage));
        }
        let (mut file, size) = match open_regular(path)? {
            Ok(opened) => opened,
            Err(what) => return Ok(Some(Damage::NotAFile(what))),
        };
        let reason = match form {
            FileForm::Npy => {
                let mut start = Vec::new();
                file.take(MAX_START_BYTES).read_to_end(&mut start)?;
                match npy_file_size(&start) {
                    Err(error) => Some(error.to_string()),
                    Ok(wanted) if wanted != size => return Ok(Some(Damage::Size { found: size, wanted })),
                    Ok(_) => None,
                }
            }
            FileForm::Png => {
                let mut start = [0; 8];
                let mut end = [0; 12];
                let is_whole = size >= 20 && {
                    file.read_exact(&mut start)?;
                    file.seek(SeekFrom::End(-12))?;
                    file.read_exact(&mut end)?;
                    start == *b"\x89PNG\r\n\x1a\n" && end == *b"\0\0\0\0IEND\xae\x42\x60\x82"
                };
                (!is_whole).then(|| "it does not begin and end as a PNG file does".to_owned())
            }
        };
        Ok(reason.map(Damage::Form))
    }
}

/// What a written file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileForm {
    /// An array.
    Npy,
    /// A picture.
    Png,
}

fn decoded(path: &Path, form: FileForm) -> io::Result<Option<Damage>> {
    let limits = ImageLimits::default();
    let parsed = FileContent::read(path, limits.max_bytes).and_then(|content| {
        let bytes = content.steady(path)?;
        match form {
            FileForm::Npy => parse_array(&bytes, "it").map(drop),
            FileForm::Png => parse_image(path, &bytes, &limits, ExifPolicy::Ignore).map(drop),
        }
    });
    match parsed {
        Ok(()) => Damage::of_ends(path, form),
        Err(MediaError::Unreadable { cause, .. }) => Err(cause),
        Err(error @ MediaError::Changed { .. }) => Err(io::Error::other(error)),
        Err(error) => Ok(Some(Damage::Form(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{encode_gray, write_f16, write_f32};

    /// The two files of a heatmap, with their checksums.
    fn heatmap(folder: &Path) -> [(PathBuf, FileForm, Checksum); 2] {
        let values: Vec<f32> = (0..35).map(|n| n as f32 / 34.0).collect();
        let levels: Vec<u8> = (0..35).map(|n| n * 7).collect();
        let png = encode_gray(5, 7, &levels).unwrap();
        let (npy, map) = (folder.join("a.npy"), folder.join("a.png"));
        let of_npy = write_with_checksum(&npy, Durability::Process, |mut file| write_f32(&mut file, &[5, 7], &values)).unwrap();
        let of_map = write_with_checksum(&map, Durability::Process, |file| file.write_all(&png)).unwrap();
        [(npy, FileForm::Npy, of_npy), (map, FileForm::Png, of_map)]
    }

    fn glance(path: &Path, checksum: Checksum) -> Option<Damage> {
        Damage::at_a_glance(path, Some(&RecordedChecksum { checksum: Some(checksum), is_damaged: false })).unwrap()
    }

    #[test]
    fn a_checksum_is_that_of_the_bytes_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        for (path, form, checksum) in heatmap(folder.path()) {
            assert_eq!(checksum, Checksum::of(&fs::read(&path).unwrap()));
            assert_eq!((glance(&path, checksum), Damage::by_reading(&path, form, Some(checksum)).unwrap()), (None, None));
            assert_eq!(Damage::of_ends(&path, form).unwrap(), None);
            assert_eq!(Damage::by_reading(&path, form, None).unwrap(), None);
        }
        let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262:0";
        assert_eq!(Checksum::of(&[]).to_string(), empty);
    }

    #[test]
    fn every_flipped_byte_is_found_by_reading_and_none_at_a_glance() {
        let folder = tempfile::tempdir().unwrap();
        for (path, form, checksum) in heatmap(folder.path()) {
            let whole = fs::read(&path).unwrap();
            for position in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[position] ^= 1 << (position % 8);
                fs::write(&path, &damaged).unwrap();
                assert_eq!(Damage::by_reading(&path, form, Some(checksum)).unwrap(), Some(Damage::Content), "byte {position}");
                assert_eq!(glance(&path, checksum), None);
            }
        }
    }

    #[test]
    fn every_other_size_is_found_at_a_glance() {
        let folder = tempfile::tempdir().unwrap();
        for (path, form, checksum) in heatmap(folder.path()) {
            let mut whole = fs::read(&path).unwrap();
            let wanted = whole.len() as u64;
            whole.push(0);
            for found in (0..=wanted + 1).filter(|found| *found != wanted) {
                fs::write(&path, &whole[..found as usize]).unwrap();
                let expected = Some(Damage::Size { found, wanted });
                assert_eq!(glance(&path, checksum), expected);
                assert_eq!(Damage::by_reading(&path, form, Some(checksum)).unwrap(), expected);
                // Without a checksum its own form tells.
                assert!(Damage::of_ends(&path, form).unwrap().is_some(), "{found} of {wanted}");
                // Each waits until the file is old enough.
                if found % 25 == 0 {
                    assert!(Damage::by_reading(&path, form, None).unwrap().is_some(), "{found} of {wanted}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_seen_is_not_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(Damage::at_a_glance(&at("none"), None).unwrap(), Some(Damage::Missing));
        assert_eq!(Damage::at_a_glance(folder.path(), None).unwrap(), Some(Damage::NotAFile("a folder")));
        fs::write(at("file"), "").unwrap();
        assert_eq!(Damage::at_a_glance(&at("file"), None).unwrap(), Some(Damage::Empty));
        let noted = RecordedChecksum { checksum: Some(Checksum::of(&[])), is_damaged: true };
        assert_eq!(Damage::at_a_glance(&at("file"), Some(&noted)).unwrap(), Some(Damage::Noted));
        // Where a folder should be there is a file, or a circle of links: nobody knows what became of the file.
        assert!(Damage::at_a_glance(&at("file/a.npy"), None).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
            assert!(Damage::at_a_glance(&at("loop"), None).is_err() && Damage::of_ends(&at("loop/a"), FileForm::Npy).is_err());
        }
    }

    #[test]
    fn texts_are_read_back() {
        let checksum = Checksum::of(b"four");
        let text = checksum.to_string();
        assert_eq!(text.parse(), Ok(checksum));
        let parse = RecordedChecksum::parse;
        for (recorded, wanted) in [
            (RecordedChecksum { checksum: Some(checksum), is_damaged: false }, text.clone()),
            (RecordedChecksum { checksum: Some(checksum), is_damaged: true }, format!("damaged:{text}")),
            (RecordedChecksum { checksum: None, is_damaged: true }, "damaged".to_owned()),
        ] {
            assert_eq!((recorded.to_string(), parse(&wanted)), (wanted.clone(), Some(recorded)));
        }
        for wrong in ["", "blake3", "sha256:00:4", &text[..text.len() - 1], &text[1..], &format!("{text}x")] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn half_floats_are_arrays_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        write_with_checksum(&path, Durability::Process, |mut file| write_f16(&mut file, &[2, 2], &[0.0, 0.5, 0.25, 1.0]))
            .unwrap();
        assert_eq!(Damage::of_ends(&path, FileForm::Npy).unwrap(), None);
    }
}
