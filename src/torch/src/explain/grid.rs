//! Places in a batch, each of a type of its own, and what belongs to the classes of its samples.

use std::collections::{BTreeMap, BTreeSet};

macro_rules! indices {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(usize);

        impl From<usize> for $name {
            fn from(index: usize) -> Self {
                $name(index)
            }
        }

        impl From<$name> for usize {
            fn from(index: $name) -> usize {
                index.0
            }
        }
    )*};
}

indices! {
    /// A sample of a batch.
    SampleIndex;
    /// One of a sample's targets.
    TargetIndex;
    /// A method at a layer, or at several.
    ColumnIndex;
    /// One of the job's target layers.
    LayerIndex;
}

impl SampleIndex {
    /// Its place in the first dimension of a batch's tensors.
    pub fn row(self) -> i64 {
        self.0 as i64
    }
}

/// A target of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The sample.
    pub sample: SampleIndex,
    /// Which of its targets.
    pub target: TargetIndex,
}

/// What belongs to the targets of a batch's samples, sample by sample; nothing where the class is not there.
#[derive(Debug)]
pub struct Grid<T>(BTreeMap<Cell, T>);

impl<T> Default for Grid<T> {
    fn default() -> Self {
        Grid(BTreeMap::new())
    }
}

impl<T> Grid<T> {
    /// Puts it there.
    pub fn insert(&mut self, cell: Cell, value: T) {
        self.0.insert(cell, value);
    }

    /// What is there.
    pub fn get(&self, cell: Cell) -> Option<&T> {
        self.0.get(&cell)
    }

    /// What is there, to be changed.
    pub fn get_mut(&mut self, cell: Cell) -> Option<&mut T> {
        self.0.get_mut(&cell)
    }

    /// What is there, put there if need be.
    pub fn get_or_insert_with(&mut self, cell: Cell, make: impl FnOnce() -> T) -> &mut T {
        self.0.entry(cell).or_insert_with(make)
    }

    /// Takes it away.
    pub fn remove(&mut self, cell: Cell) -> Option<T> {
        self.0.remove(&cell)
    }

    /// Sample by sample.
    pub fn iter(&self) -> impl Iterator<Item = (Cell, &T)> {
        self.0.iter().map(|(cell, value)| (*cell, value))
    }

    /// Sample by sample.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Cell, &mut T)> {
        self.0.iter_mut().map(|(cell, value)| (*cell, value))
    }

    /// The targets that some sample has.
    pub fn targets(&self) -> impl Iterator<Item = TargetIndex> + use<T> {
        self.0.keys().map(|cell| cell.target).collect::<BTreeSet<_>>().into_iter()
    }

    /// Those of the samples that have this target.
    pub fn of_target(&self, target: TargetIndex) -> impl Iterator<Item = (SampleIndex, &T)> {
        let num_samples = self.0.last_key_value().map_or(0, |(cell, _)| cell.sample.0 + 1);
        let samples = (0..num_samples).map(SampleIndex);
        samples.filter_map(move |sample| Some((sample, self.get(Cell { sample, target })?)))
    }

    /// The samples that have targets, each with these.
    pub fn by_sample(&self) -> Vec<(SampleIndex, Vec<(TargetIndex, &T)>)> {
        let mut samples: Vec<(SampleIndex, Vec<(TargetIndex, &T)>)> = Vec::new();
        for (Cell { sample, target }, value) in self.iter() {
            match samples.last_mut() {
                Some((last, targets)) if *last == sample => targets.push((target, value)),
                _ => samples.push((sample, vec![(target, value)])),
            }
        }
        samples
    }

    /// The same cells with other content.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn try_map<U, E>(&self, mut change: impl FnMut(Cell, &T) -> Result<U, E>) -> Result<Grid<U>, E> {
        let changed = self.iter().map(|(cell, value)| Ok((cell, change(cell, value)?)));
        changed.collect::<Result<_, _>>().map(Grid)
    }
}

impl<T> IntoIterator for Grid<T> {
    type Item = (Cell, T);
    type IntoIter = std::collections::btree_map::IntoIter<Cell, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_has_the_samples_with_that_target_and_there_is_none_without_any() {
        let mut grid = Grid::default();
        for (sample, target) in [(2, 0), (0, 0), (0, 3)] {
            grid.insert(Cell { sample: sample.into(), target: target.into() }, (sample, target));
        }
        assert_eq!(grid.targets().map(usize::from).collect::<Vec<_>>(), [0, 3]);
        let samples = |target: usize| grid.of_target(target.into()).map(|(sample, _)| sample.row()).collect::<Vec<_>>();
        assert_eq!((samples(0), samples(3), samples(1)), (vec![0, 2], vec![0], vec![]));
        assert_eq!(grid.iter().map(|(_, found)| *found).collect::<Vec<_>>(), [(0, 0), (0, 3), (2, 0)], "sample by sample");
    }
}
