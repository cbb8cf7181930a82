//! Grids of classes and columns, and the indices into them: a class cannot be taken for a column, nor either for a count.

use std::{fmt, marker::PhantomData, ops::Index};

/// A place along one side of a [`Grid`], from 0.
pub(crate) trait GridIndex: Copy + From<usize> + Into<usize> {}

impl<I: Copy + From<usize> + Into<usize>> GridIndex for I {}

/// Makes an index of its own kind, a [`GridIndex`].
macro_rules! grid_index {
    ($(#[$attributes:meta])* $visibility:vis struct $name:ident;) => {
        $(#[$attributes])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $visibility struct $name(pub usize);

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
    };
}

grid_index! {
    /// Which of the job's classes.
    pub struct ClassIndex;
}

grid_index! {
    /// Which of the job's columns: method by method, layer by layer.
    pub struct ColumnIndex;
}

/// One value for each row and column, row by row.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Grid<R, C, T> {
    cells: Vec<T>,
    num_rows: usize,
    num_columns: usize,
    indices: PhantomData<fn(R, C)>,
}

impl<R: GridIndex, C: GridIndex, T> Grid<R, C, T> {
    /// Of rows that are all of this length; `None` if one is not.
    pub(crate) fn from_rows(num_columns: usize, rows: Vec<Vec<T>>) -> Option<Self> {
        let num_rows = rows.len();
        let is_even = rows.iter().all(|row| row.len() == num_columns);
        is_even.then(|| Grid { cells: rows.into_iter().flatten().collect(), num_rows, num_columns, indices: PhantomData })
    }

    /// How many rows and columns it has.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.num_rows, self.num_columns)
    }

    fn rows(&self) -> impl Iterator<Item = &[T]> {
        (0..self.num_rows).map(|row| &self.cells[row * self.num_columns..(row + 1) * self.num_columns])
    }

    /// Every cell with its place, row by row.
    pub(crate) fn cells(&self) -> impl Iterator<Item = ((R, C), &T)> {
        let place = |cell: usize| (R::from(cell / self.num_columns), C::from(cell % self.num_columns));
        self.cells.iter().enumerate().map(move |(cell, value)| (place(cell), value))
    }

    fn cell(&self, (row, column): (R, C)) -> usize {
        let (row, column) = (row.into(), column.into());
        // The next row begins behind the end of this one.
        assert!(column < self.num_columns, "column {column} of a grid of {}", self.num_columns);
        row * self.num_columns + column
    }
}

impl<R: GridIndex, C: GridIndex, T> Index<(R, C)> for Grid<R, C, T> {
    type Output = T;

    /// # Panics
    /// There is no such row or column.
    fn index(&self, place: (R, C)) -> &T {
        &self.cells[self.cell(place)]
    }
}

impl<R: GridIndex, C: GridIndex, T: fmt::Debug> fmt::Debug for Grid<R, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rows()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(rows: Vec<Vec<u8>>) -> Option<Grid<ClassIndex, ColumnIndex, u8>> {
        Grid::from_rows(3, rows)
    }

    #[test]
    fn cells_are_found_by_row_and_column() {
        let grid = grid(vec![vec![1, 2, 3], vec![4, 5, 6]]).expect("equally long rows");
        assert_eq!(grid.size(), (2, 3));
        assert_eq!(grid[(ClassIndex(1), ColumnIndex(0))], 4);
        assert!(grid.cells().all(|(place, value)| grid[place] == *value));
        assert_eq!(format!("{grid:?}"), "[[1, 2, 3], [4, 5, 6]]");
    }

    #[test]
    fn rows_have_one_length() {
        assert!(grid(vec![vec![1, 2, 3], vec![4, 5]]).is_none());
        assert_eq!(grid(Vec::new()).map(|grid| (grid.size(), grid.cells().count())), Some(((0, 3), 0)));
    }

    #[test]
    #[should_panic(expected = "column 3 of a grid of 3")]
    fn the_next_row_is_no_part_of_this_one() {
        let grid = grid(vec![vec![1, 2, 3], vec![4, 5, 6]]).expect("equally long rows");
        let _ = grid[(ClassIndex(0), ColumnIndex(3))];
    }
}
