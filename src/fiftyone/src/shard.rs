//! `--shard I/N`: which samples are whose, without anybody who hands them out.

use std::{fmt, str::FromStr};

use bson::oid::ObjectId;

/// One of `count` parts that together make any selection, without overlap.
///
/// Which part a sample belongs to follows from its id alone: it stays there whatever is added, deleted or changed. The parts are
/// about equal in size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// All samples.
    pub const WHOLE: Shard = Shard { index: 1, count: 1 };

    /// More would only be more to keep account of: of a million samples each would have a hundred.
    pub const MAX_COUNT: u32 = 10_000;

    /// Which part it is, from 1 to [`Shard::count`].
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many parts there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether it is all there is.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Whether the sample of this id belongs to it.
    pub(super) fn contains(self, id: ObjectId) -> bool {
        self.is_whole() || hash(&[&id.bytes()]) % u64::from(self.count) == u64::from(self.index - 1)
    }

    /// The numbers that divide its count, from 1. A shard of another count has no sample in common with this one where one of them
    /// divides both counts but not the difference of the indices: all samples of a shard have the same hash modulo it.
    pub(super) fn divisors(self) -> Vec<u32> {
        (1..=self.count).filter(|number| self.count.is_multiple_of(*number)).collect()
    }
}

/// The first 64 bits of the BLAKE3 of these bytes. Runs of next year have to find the same.
pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        let Some((index, count)) = numbers else { return Err("write `I/N`, as in `3/10`".to_owned()) };
        if !(1..=Self::MAX_COUNT).contains(&count) {
            return Err(format!("there are 1 to {} shards", Self::MAX_COUNT));
        }
        if !(1..=count).contains(&index) {
            return Err(format!("the shards are 1/{count} to {count}/{count}"));
        }
        Ok(Shard { index, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(text: &str) -> Shard {
        text.parse().expect("a shard")
    }

    fn id(n: u64) -> ObjectId {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&n.to_be_bytes());
        ObjectId::from_bytes(bytes)
    }

    fn place(id: ObjectId, count: u32) -> u32 {
        let all = (1..=count).map(|index| Shard { index, count });
        let holders: Vec<u32> = all.filter(|shard| shard.contains(id)).map(Shard::index).collect();
        assert_eq!(holders.len(), 1, "{id} belongs to one of {count}");
        holders[0]
    }

    #[test]
    fn samples_never_move() {
        // If one of these changes, shards of running jobs overlap with those of the next version.
        let ids = ["5f452489ef00e6374aac384a", "000000000000000000000000", "ffffffffffffffffffffffff"];
        let ids = ids.map(|id| ObjectId::parse_str(id).expect("an id"));
        assert_eq!(
            ids.map(|id| hash(&[&id.bytes()])),
            [18_066_786_300_948_258_497, 5_781_040_787_835_797_118, 16_296_319_211_582_511_682]
        );
        assert_eq!(ids.map(|id| place(id, 3)), [3, 1, 2]);
        assert_eq!(ids.map(|id| place(id, 100)), [98, 19, 83]);
    }

    #[test]
    fn shards_are_balanced_whatever_ids_look_like() {
        // As one process makes them (a counter at the end), and as one a second (a time at the start).
        let counted = (0..20_000).map(id);
        let timed = (0..20_000u32).map(|n| {
            let mut bytes = [7; 12];
            bytes[..4].copy_from_slice(&(1_700_000_000 + n).to_be_bytes());
            ObjectId::from_bytes(bytes)
        });
        for ids in [counted.collect::<Vec<_>>(), timed.collect()] {
            for count in [2, 3, 10, 16] {
                let mut sizes = vec![0u32; count as usize];
                ids.iter().for_each(|id| sizes[place(*id, count) as usize - 1] += 1);
                let mean = f64::from(20_000 / count);
                // Five standard deviations.
                assert!(sizes.iter().all(|size| (f64::from(*size) - mean).abs() < 5.0 * mean.sqrt()), "{sizes:?}");
            }
        }
    }

    #[test]
    fn divisors_tell_shards_apart_that_share_no_sample() {
        let ids: Vec<ObjectId> = (0..5000).map(id).collect();
        for (n, m) in [(1, 5), (2, 3), (2, 4), (4, 6), (6, 9), (5, 5), (8, 12)] {
            for i in 1..=n {
                for j in 1..=m {
                    let (one, other) = (Shard { index: i, count: n }, Shard { index: j, count: m });
                    let meet = ids.iter().any(|id| one.contains(*id) && other.contains(*id));
                    let divisors = one.divisors();
                    let apart = divisors.iter().any(|d| m.is_multiple_of(*d) && !i.abs_diff(j).is_multiple_of(*d));
                    assert_eq!(meet, !apart, "{one} and {other}");
                }
            }
        }
    }

    #[test]
    fn shards_are_written_from_1() {
        for text in ["1/1", "3/10", "10/10", "10000/10000"] {
            assert_eq!(shard(text).to_string(), text);
        }
        assert!(shard("1/1").is_whole() && !shard("1/2").is_whole());
        for (text, words) in [
            ("", "`I/N`"),
            ("3", "`I/N`"),
            ("a/b", "`I/N`"),
            ("-1/2", "`I/N`"),
            ("0/10", "1/10 to 10/10"),
            ("11/10", "1/10 to 10/10"),
            ("0/0", "1 to 10000"),
            ("1/10001", "1 to 10000"),
        ] {
            let refused = text.parse::<Shard>().expect_err(text);
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }
}
