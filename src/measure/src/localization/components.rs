//! Connected components at all thresholds of a map, in one sweep from the highest level down: each pixel joins its neighbours once.

/// Which pixels are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// Above, below, left and right.
    Four,
    /// The diagonal ones, too.
    Eight,
}

/// A box of whole pixels, with its last column and row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Last column.
    pub right: u32,
    /// Last row.
    pub bottom: u32,
}

/// Pixels that are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// The smallest box around them.
    pub bounds: PixelBox,
    /// How many they are.
    pub area: u32,
    /// One of them, by its place in the map: of a component that grows always the same one, until it joins a larger one.
    pub root: u32,
}

impl PixelBox {
    fn join(self, other: PixelBox) -> PixelBox {
        PixelBox {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    /// Whether it reaches a side of a map of this size.
    pub fn is_at_side(self, (height, width): (usize, usize)) -> bool {
        self.left == 0 || self.top == 0 || self.right as usize + 1 == width || self.bottom as usize + 1 == height
    }
}

/// A pixel that belongs to no component yet.
const ABSENT: u32 = u32::MAX;

struct Forest {
    parents: Vec<u32>,
    components: Vec<Component>,
}

impl Forest {
    fn find(&mut self, mut pixel: u32) -> u32 {
        while self.parents[pixel as usize] != pixel {
            // Half of the way is saved next time.
            let above = self.parents[self.parents[pixel as usize] as usize];
            self.parents[pixel as usize] = above;
            pixel = above;
        }
        pixel
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.find(one), self.find(other));
        if one == other {
            return;
        }
        let [first, second] = [one, other].map(|root| self.components[root as usize]);
        // Of two of a size the one that comes first stays, so that all is the same next time.
        let (large, small) = if (first.area, other) >= (second.area, one) { (one, other) } else { (other, one) };
        self.parents[small as usize] = large;
        let component = &mut self.components[large as usize];
        component.area = first.area + second.area;
        component.bounds = first.bounds.join(second.bounds);
    }
}

/// Tells, for each level that occurs from the highest down to `lowest`, of the components of all pixels at or above it.
///
/// # Panics
/// `levels` are not `height * width` many, or more than 2^32 - 2.
pub fn sweep(
    levels: &[u8],
    (height, width): (usize, usize),
    neighbours: Neighbours,
    lowest: u8,
    mut visit: impl FnMut(u8, &[Component], &mut dyn FnMut(u32) -> u32),
) {
    assert_eq!(levels.len(), height * width, "levels of another shape");
    assert!(levels.len() < ABSENT as usize, "more pixels than there are numbers for");
    let mut by_level: Vec<Vec<u32>> = vec![Vec::new(); 256];
    for (pixel, level) in levels.iter().enumerate().filter(|(_, level)| **level >= lowest) {
        by_level[usize::from(*level)].push(pixel as u32);
    }
    let num_pixels: usize = by_level.iter().map(Vec::len).sum();
    if num_pixels == 0 {
        return;
    }
    let none = Component { bounds: PixelBox { left: 0, top: 0, right: 0, bottom: 0 }, area: 0, root: 0 };
    let mut forest = Forest { parents: vec![ABSENT; levels.len()], components: vec![none; levels.len()] };
    let mut roots: Vec<u32> = Vec::new();
    let mut present: Vec<Component> = Vec::new();
    for (level, pixels) in by_level.iter().enumerate().rev().filter(|(_, pixels)| !pixels.is_empty()) {
        for &pixel in pixels {
            let (row, column) = (pixel as usize / width, pixel as usize % width);
            let (x, y) = (column as u32, row as u32);
            forest.parents[pixel as usize] = pixel;
            let bounds = PixelBox { left: x, top: y, right: x, bottom: y };
            forest.components[pixel as usize] = Component { bounds, area: 1, root: pixel };
            roots.push(pixel);
            for other_row in row.saturating_sub(1)..=(row + 1).min(height - 1) {
                for other_column in column.saturating_sub(1)..=(column + 1).min(width - 1) {
                    let is_beside = other_row == row || other_column == column || neighbours == Neighbours::Eight;
                    let other = (other_row * width + other_column) as u32;
                    if is_beside && other != pixel && forest.parents[other as usize] != ABSENT {
                        forest.join(pixel, other);
                    }
                }
            }
        }
        roots.retain(|root| forest.parents[*root as usize] == *root);
        present.clear();
        present.extend(roots.iter().map(|root| forest.components[*root as usize]));
        visit(level as u8, &present, &mut |pixel| forest.find(pixel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By level, area and box of each component.
    type Told = Vec<(u8, Vec<(u32, [u32; 4])>)>;

    fn told(levels: &[u8], size: (usize, usize), neighbours: Neighbours) -> Told {
        let mut told = Vec::new();
        sweep(levels, size, neighbours, 1, |level, components, _| {
            let mut found: Vec<_> = components
                .iter()
                .map(|Component { bounds: PixelBox { left, top, right, bottom }, area, .. }| {
                    (*area, [*left, *top, *right, *bottom])
                })
                .collect();
            found.sort_unstable();
            told.push((level, found));
        });
        told
    }

    #[test]
    fn components_grow_and_meet_on_the_way_down() {
        let levels = [9, 0, 0, 0, 5, 0, 0, 0, 7];
        let eight = told(&levels, (3, 3), Neighbours::Eight);
        let expected =
            vec![(9, vec![(1, [0, 0, 0, 0])]), (7, vec![(1, [0, 0, 0, 0]), (1, [2, 2, 2, 2])]), (5, vec![(3, [0, 0, 2, 2])])];
        assert_eq!(eight, expected);
        let four = told(&levels, (3, 3), Neighbours::Four);
        assert_eq!(four[2].1.len(), 3, "corners touch only diagonally");
        assert_eq!(told(&[0; 9], (3, 3), Neighbours::Eight), []);
    }

    #[test]
    fn pixels_know_their_component() {
        sweep(&[1, 0, 1, 1], (1, 4), Neighbours::Eight, 1, |_, components, find| {
            assert_eq!(components.len(), 2);
            assert!(components.iter().any(|component| component.root == find(0)));
            assert!(find(2) == find(3) && find(0) != find(2));
        });
    }
}
