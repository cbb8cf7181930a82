//! How heatmap files are named, and how such a name is known again.
//!
//! ```text
//! FOLDER/person_grad_layer_4/56/6b03690476852489c1dd7256.287a0350.npy
//!        field               |  sample id                tag of the fingerprint
//!                            last two digits of the id
//! ```

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

/// How a file begins and ends that was never finished.
const UNFINISHED: (&str, &str) = (".camflow-", ".tmp");

/// 8 hexadecimal digits that stand for a fingerprint in the name of a file.
pub fn file_tag(fingerprint: &str) -> String {
    blake3::hash(fingerprint.as_bytes()).to_hex()[..8].to_owned()
}

/// The files of one heatmap, without their suffixes. The last digits of an id are a counter, so that a million samples spread
/// evenly over 256 folders.
pub fn stem(folder: &Path, field: &str, id: &str, fingerprint: &str) -> PathBuf {
    folder.join(field).join(bucket(id)).join(format!("{id}.{}", file_tag(fingerprint)))
}

fn bucket(id: &str) -> &str {
    &id[id.len().saturating_sub(2)..]
}

/// The name of a file that camflow wrote, in its output folder: of a heatmap, or of a file that was never finished.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    field: String,
    bucket: String,
    file: String,
}

impl FileName {
    /// `None` if it is not a name that camflow gives.
    pub fn new(field: &str, bucket: &str, file: &str) -> Option<FileName> {
        let is_plain = |part: &str| {
            let mut parts = Path::new(part).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == part)
        };
        let name = FileName { field: field.to_owned(), bucket: bucket.to_owned(), file: file.to_owned() };
        let in_its_bucket = match name.sample() {
            Some(sample) => self::bucket(sample) == bucket,
            None => is_unfinished(file) && is_plain(bucket),
        };
        (is_plain(field) && is_plain(file) && in_its_bucket).then_some(name)
    }

    /// The last three parts of a path: whatever way leads to the folder, this is the name in it.
    pub fn of_path(path: &Path) -> Option<FileName> {
        let part = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let bucket = path.parent()?;
        FileName::new(&part(bucket.parent()?)?, &part(bucket)?, &part(path)?)
    }

    /// The field that it is or was for.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The sample whose heatmap it is; `None` for a file that was never finished.
    pub fn sample(&self) -> Option<&str> {
        sample_of(&self.file)
    }

    /// What identifies a heatmap file among all, whatever folder it is in: sample, fingerprint and kind. `None` for a file that was
    /// never finished, to which nothing can refer.
    pub fn key(&self) -> Option<&str> {
        self.sample().map(|_| self.file.as_str())
    }

    /// The path from the output folder.
    pub fn relative(&self) -> PathBuf {
        [&self.field, &self.bucket, &self.file].iter().collect()
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileName { field, bucket, file } = self;
        write!(f, "{field}/{bucket}/{file}")
    }
}

/// Every [`FileName::key`] that stands anywhere in these bytes, such as those of a document: what makes it refer to a file.
pub fn keys_in(bytes: &[u8]) -> impl Iterator<Item = &str> {
    /// Digits of id and tag, with the dot between.
    const STEM: usize = 24 + 1 + 8;
    let ends =
        [".npy", ".png"].into_iter().flat_map(|suffix| memchr::memmem::find_iter(bytes, suffix).map(move |at| at + suffix.len()));
    ends.filter_map(|end| {
        let name = str::from_utf8(&bytes[end.checked_sub(STEM + 4)?..end]).ok()?;
        sample_of(name).map(|_| name)
    })
}

/// Whether it is the name of a file that was never finished.
pub(super) fn is_unfinished(file: &str) -> bool {
    let (begin, end) = UNFINISHED;
    file.starts_with(begin) && file.ends_with(end)
}

/// The sample's id, if it is the name of a heatmap file.
fn sample_of(file: &str) -> Option<&str> {
    let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut parts = file.split('.');
    let (id, tag, suffix) = (parts.next()?, parts.next()?, parts.next()?);
    let is_ours = is_hex(id, 24) && is_hex(tag, 8) && matches!(suffix, "npy" | "png") && parts.next().is_none();
    is_ours.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6b03690476852489c1dd7256";

    #[test]
    fn names_that_camflow_gives_are_known_again() {
        let path = camflow_media::with_suffix(&stem(Path::new("/out"), "person 1.x", ID, "fingerprint"), ".npy");
        let name = FileName::of_path(&path).unwrap();
        assert_eq!((name.field(), name.sample()), ("person 1.x", Some(ID)));
        assert_eq!(Path::new("/out").join(name.relative()), path);
        assert_eq!(name.key(), keys_in(path.to_str().unwrap().as_bytes()).next());
        let unfinished = FileName::new("f", "56", ".camflow-x.tmp").unwrap();
        assert_eq!((unfinished.sample(), unfinished.key()), (None, None));
    }

    #[test]
    fn other_names_are_not() {
        let file = format!("{ID}.287a0350.png");
        assert!(FileName::new("f", "56", &file).is_some());
        for (field, bucket) in
            [("", "56"), ("..", "56"), (".", "56"), ("a/b", "56"), ("/f", "56"), ("f", "57"), ("f", ""), ("f", "..")]
        {
            assert_eq!(FileName::new(field, bucket, &file), None, "{field} {bucket}");
        }
        for file in [
            "notes.txt",
            "6b03690476852489c1dd7256.287a0350.png.bak",
            "6b03690476852489c1dd725x.287a0350.png",
            "",
            "corrected.png",
        ] {
            assert_eq!(FileName::new("f", "56", file), None, "{file}");
        }
        assert_eq!(FileName::new("f", "..", ".camflow-x.tmp"), None);
        assert_eq!(FileName::of_path(Path::new("x.png")), None);
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let of = |suffix: &str| format!("{ID}.287a0350.{suffix}");
        let text =
            format!(r#"\0{{"a": ["/x/{}?v=1", "{}"], "{}": 1}} .png 7256.287a0350.png\xff"#, of("png"), of("npy"), of("png"));
        assert_eq!(keys_in(text.as_bytes()).collect::<Vec<_>>(), [of("npy"), of("png"), of("png")]);
        assert_eq!(keys_in(b".png").count(), 0);
        assert_eq!(keys_in(of("jpg").as_bytes()).count(), 0);
    }
}
