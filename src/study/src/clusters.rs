//! Groups of vectors: k-means, in time and memory that grow with their number alone, and the same groups whenever it is asked.

/// Groups at most.
const MOST_GROUPS: usize = 12;
/// Times that centres move; they rest long before.
const ROUNDS: usize = 50;
/// Times that centres are laid anew, of which the nearest to their vectors count.
const STARTS: u64 = 4;

/// Vectors in groups.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clusters {
    /// The group of each vector.
    pub(crate) of: Vec<usize>,
    /// The middle of each group.
    pub(crate) centres: Vec<Vec<f64>>,
}

/// Groups of vectors of one length, in which each number is brought to mean 0 and its weight for a deviation first; the vectors so, and the
/// groups. There are [`MOST_GROUPS`], or as many as have so many vectors in the mean: rather two groups of what looks alike than one of
/// what does not, as who looks at them sees the first and not the second.
pub(crate) fn clusters(vectors: &[Vec<f64>], weights: &[f64], least: usize) -> (Vec<Vec<f64>>, Clusters) {
    let vectors = standardised(vectors, weights);
    let most = MOST_GROUPS.min(vectors.len() / least.max(1)).max(1);
    let all = || Clusters { of: vec![0; vectors.len()], centres: centres(&vectors, &vec![0; vectors.len()], 1) };
    // There may be fewer different ones.
    let found = (2..=most).rev().find_map(|num| grouped(&vectors, num)).unwrap_or_else(all);
    (vectors, found)
}

/// Square of the distance.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn standardised(vectors: &[Vec<f64>], weights: &[f64]) -> Vec<Vec<f64>> {
    let count = vectors.len().max(1) as f64;
    let mut found = vectors.to_vec();
    for (place, weight) in weights.iter().enumerate() {
        let mean = vectors.iter().map(|vector| vector[place]).sum::<f64>() / count;
        let variance = vectors.iter().map(|vector| (vector[place] - mean).powi(2)).sum::<f64>() / count;
        // What is the same in all tells nothing apart.
        let scale = if variance > 1e-12 { weight / variance.sqrt() } else { 0.0 };
        found.iter_mut().for_each(|vector| vector[place] = (vector[place] - mean) * scale);
    }
    found
}

/// So many groups, by the best of a few starts; `None` where there are fewer different vectors.
fn grouped(vectors: &[Vec<f64>], num: usize) -> Option<Clusters> {
    let spread = |found: &Clusters| -> f64 {
        vectors.iter().zip(&found.of).map(|(vector, group)| distance(vector, &found.centres[*group])).sum()
    };
    let starts = (0..STARTS).filter_map(|start| started(vectors, num, start));
    starts.map(|found| (spread(&found), found)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, found)| found)
}

/// Lloyd's algorithm from the centres of k-means++ (Arthur and Vassilvitskii, 2007), drawn from a sequence that is always the same.
fn started(vectors: &[Vec<f64>], num: usize, start: u64) -> Option<Clusters> {
    let mut drawn = Drawn(start + 1);
    let first = (drawn.next() * vectors.len() as f64) as usize;
    let mut middles = vec![vectors.get(first)?.clone()];
    let mut left_over: Vec<f64> = vectors.iter().map(|vector| distance(vector, &middles[0])).collect();
    while middles.len() < num {
        let sum: f64 = left_over.iter().sum();
        if sum <= 0.0 {
            return None;
        }
        let mut left = drawn.next() * sum;
        let place = left_over.iter().position(|square| {
            left -= square;
            left < 0.0
        });
        let chosen = vectors[place.unwrap_or(vectors.len() - 1)].clone();
        left_over.iter_mut().zip(vectors).for_each(|(square, vector)| *square = square.min(distance(vector, &chosen)));
        middles.push(chosen);
    }
    let mut of = vec![usize::MAX; vectors.len()];
    for _ in 0..ROUNDS {
        let next: Vec<usize> = vectors.iter().map(|vector| nearest(vector, &middles)).collect();
        if next == of {
            break;
        }
        of = next;
        let moved = centres(vectors, &of, num);
        // A centre that has lost all its vectors stays where it was.
        middles.iter_mut().zip(moved).filter(|(_, moved)| !moved.is_empty()).for_each(|(middle, moved)| *middle = moved);
    }
    Some(Clusters { of, centres: middles })
}

/// The mean of each group; empty where it has none.
fn centres(vectors: &[Vec<f64>], of: &[usize], num: usize) -> Vec<Vec<f64>> {
    let mut sums = vec![(0.0, Vec::new()); num];
    for (vector, group) in vectors.iter().zip(of) {
        let (count, sum) = &mut sums[*group];
        *count += 1.0;
        sum.resize(vector.len(), 0.0);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
    }
    sums.into_iter().map(|(count, sum)| sum.into_iter().map(|sum: f64| sum / count).collect()).collect()
}

/// The place of the nearest centre.
fn nearest(vector: &[f64], centres: &[Vec<f64>]) -> usize {
    let squares = centres.iter().map(|centre| distance(vector, centre)).enumerate();
    squares.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(place, _)| place)
}

/// Numbers in `[0, 1)` that look drawn: SplitMix64.
struct Drawn(u64);

impl Drawn {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many heaps of 30 around points that are far from each other.
    fn heaps(num: usize) -> Vec<Vec<f64>> {
        let mut drawn = Drawn(7);
        let mut point = |heap: usize| vec![heap as f64 + 0.1 * drawn.next(), (heap * heap % 5) as f64 + 0.1 * drawn.next(), 3.0];
        (0..30 * num).map(|place| point(place % num)).collect()
    }

    #[test]
    fn heaps_are_found() {
        for num in [2, 3, 7] {
            let (_, found) = clusters(&heaps(num), &[1.0; 3], 30);
            assert_eq!(found.centres.len(), num);
            let alike = found.of.iter().enumerate().all(|(place, group)| *group == found.of[place % num]);
            let groups: std::collections::BTreeSet<usize> = found.of[..num].iter().copied().collect();
            assert!(alike && groups.len() == num, "{found:?}");
        }
    }

    #[test]
    fn there_are_no_more_groups_than_vectors_allow() {
        assert_eq!(clusters(&heaps(5), &[1.0; 3], 5).1.centres.len(), MOST_GROUPS);
        assert_eq!(clusters(&vec![vec![1.0, 2.0]; 40], &[1.0; 2], 5).1.centres.len(), 1, "all are the same");
        assert_eq!(clusters(&[vec![vec![1.0]; 20], vec![vec![2.0]; 20]].concat(), &[1.0], 5).1.centres.len(), 2);
        assert_eq!(clusters(&heaps(3)[..6], &[1.0; 3], 5).1.centres.len(), 1, "six are too few for two groups of five");
        assert!(clusters(&[], &[1.0; 3], 5).1.of.is_empty());
    }

    #[test]
    fn the_groups_are_the_same_when_asked_again() {
        assert_eq!(clusters(&heaps(5), &[1.0; 3], 5), clusters(&heaps(5), &[1.0; 3], 5));
    }
}
