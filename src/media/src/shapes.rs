//! Boxes and polylines to pixels, as FiftyOne's `to_segmentation` draws them: coordinates are fractions of the image's sides,
//! boxes are cut down to whole pixels, points rounded to them, and polygons and lines follow OpenCV's `fillPoly` and `polylines`.

use super::{error::MediaError, geometry::BinaryMask, instance::InstanceMask};

/// No coordinate is beyond this many image sides: an object that the image cuts off goes on for a part of its own length, but what
/// was given in pixels is far beyond it. Read as fractions, pixels would mark the whole image or nothing.
const FAR: f64 = 2.0;

/// Neither is one before this. Pixels are not negative, so that on this side an object may go on.
const BEFORE: f64 = -100.0;

impl BinaryMask {
    /// Adds a box: `bounds` are left, top, width and height. What lies outside the image is cut off; a box of less than a
    /// pixel may add nothing. `mask` is stretched over the box, bilinearly and with the rounding that FiftyOne has from OpenCV, and
    /// what is not 0 then is added; without it all of the box is.
    ///
    /// # Errors
    /// A coordinate is no number or far outside the image, or a side is negative.
    pub fn add_box(&mut self, bounds: [f64; 4], mask: Option<&InstanceMask>) -> Result<(), MediaError> {
        check_box(bounds)?;
        let [left, top, width, height] = bounds;
        let Some(mask) = mask else {
            self.fill_box([left, top, left + width, top + height]);
            return Ok(());
        };
        // FiftyOne cuts the box off first, so that the mask is squeezed into what is left.
        let [x0, y0, x1, y1] = self.whole_pixels([left, top, left + width, top + height]);
        if x0 == x1 || y0 == y1 {
            return Ok(());
        }
        let columns: Vec<Blend> = (0..x1 - x0).map(|x| Blend::new(x, x1 - x0, mask.width)).collect();
        for y in y0..y1 {
            let rows = Blend::new(y - y0, y1 - y0, mask.height);
            let row = &mut self.pixels[y * self.width..][x0..x1];
            let (above, below) = (&mask.pixels[rows.first * mask.width..], &mask.pixels[rows.second * mask.width..]);
            for (pixel, columns) in row.iter_mut().zip(&columns) {
                let along = |row: &[u8]| {
                    u32::from(row[columns.first]) * columns.weights[0] + u32::from(row[columns.second]) * columns.weights[1]
                };
                // In quarters, each row's rounded down: OpenCV's arithmetic for bytes.
                let quarters = |sum: u32, weight: u32| ((sum >> 4) * weight) >> 16;
                let value = quarters(along(above), rows.weights[0]) + quarters(along(below), rows.weights[1]);
                *pixel |= u8::from(value >= 2);
            }
        }
        Ok(())
    }

    /// Adds what lies in a box with these left, top, right and bottom sides, in fractions of the mask's.
    pub fn fill_box(&mut self, sides: [f64; 4]) {
        let [x0, y0, x1, y1] = self.whole_pixels(sides);
        for y in y0..y1.max(y0) {
            self.pixels[y * self.width..][x0..x1.max(x0)].fill(1);
        }
    }

    /// The smallest box around the pixels that are set, as [`BinaryMask::fill_box`] takes it; `None` where none is.
    pub fn bounds(&self) -> Option<[f64; 4]> {
        let span = |row: &[u8]| Some((row.iter().position(|pixel| *pixel != 0)?, row.iter().rposition(|pixel| *pixel != 0)?));
        let spans = self.pixels.chunks(self.width.max(1)).enumerate().filter_map(|(y, row)| Some((y, span(row)?)));
        let [x0, y0, x1, y1] = spans.fold(None, |found: Option<[usize; 4]>, (y, (from, to))| {
            let [x0, y0, x1, _] = found.unwrap_or([from, y, to, y]);
            Some([x0.min(from), y0, x1.max(to), y])
        })?;
        let (height, width) = (self.height as f64, self.width as f64);
        Some([x0 as f64 / width, y0 as f64 / height, (x1 + 1) as f64 / width, (y1 + 1) as f64 / height])
    }

    fn whole_pixels(&self, [left, top, right, bottom]: [f64; 4]) -> [usize; 4] {
        let pixel = |fraction: f64, side: usize| (fraction.clamp(0.0, 1.0) * side as f64) as usize;
        [pixel(left, self.width), pixel(top, self.height), pixel(right, self.width), pixel(bottom, self.height)]
    }

    /// Adds what the lines enclose, and their outlines. Where several lines overlap, the even-odd rule holds: a line inside
    /// another one makes a hole.
    ///
    /// # Errors
    /// A coordinate is no number or far outside the image.
    pub fn add_polygon(&mut self, lines: &[Vec<[f64; 2]>]) -> Result<(), MediaError> {
        let (height, width) = (self.height, self.width);
        // 1 where a row's inside begins or ends; one column more, for what ends at the right edge. Its size does not depend
        // on the number of points, as lists of crossings would.
        let mut borders = vec![0u8; height * (width + 1)];
        for line in lines {
            let points = self.points(line)?;
            for (from, to) in edges(&points, true) {
                self.draw(from, to);
                let (upper, lower) = if from.1 <= to.1 { (from, to) } else { (to, from) };
                let slope = (lower.0 - upper.0) as f64 / (lower.1 - upper.1) as f64;
                // The lower end belongs to the next edge. Of a horizontal edge nothing is left.
                for y in upper.1.max(0)..lower.1.min(height as i64) {
                    let x = upper.0 as f64 + (y - upper.1) as f64 * slope;
                    let column = (x.ceil().max(0.0) as usize).min(width);
                    borders[y as usize * (width + 1) + column] ^= 1;
                }
            }
        }
        for (row, borders) in self.pixels.chunks_exact_mut(width.max(1)).zip(borders.chunks_exact(width + 1)) {
            let mut inside = 0;
            for (pixel, border) in row.iter_mut().zip(borders) {
                inside ^= border;
                *pixel |= inside;
            }
        }
        Ok(())
    }

    /// Adds lines, one pixel wide; if `closed`, also from each last point to its first.
    ///
    /// # Errors
    /// A coordinate is no number or far outside the image.
    pub fn add_lines(&mut self, lines: &[Vec<[f64; 2]>], closed: bool) -> Result<(), MediaError> {
        for line in lines {
            let points = self.points(line)?;
            edges(&points, closed).for_each(|(from, to)| self.draw(from, to));
        }
        Ok(())
    }

    /// To whole pixels (x, y), halves to even as Python rounds; they may lie outside.
    fn points(&self, line: &[[f64; 2]]) -> Result<Vec<Point>, MediaError> {
        let pixel = |[x, y]: &[f64; 2]| {
            check(*x)?;
            check(*y)?;
            let whole = |fraction: f64, side: usize| (fraction * side as f64).round_ties_even() as i64;
            Ok((whole(*x, self.width), whole(*y, self.height)))
        };
        line.iter().map(pixel).collect()
    }

    /// One straight line with both its ends, Bresenham's way, stepping as OpenCV's `LineIterator` does from left to right.
    fn draw(&mut self, from: Point, to: Point) {
        let Some((from, to)) = clip(from, to, self.width as i64 - 1, self.height as i64 - 1) else { return };
        let (from, to) = if from.0 <= to.0 { (from, to) } else { (to, from) };
        let (dx, dy) = (to.0 - from.0, (to.1 - from.1).abs());
        let down = (to.1 - from.1).signum();
        let (long, short) = (dx.max(dy), dx.min(dy));
        let (mut x, mut y) = from;
        let mut error = long - 2 * short;
        for _ in 0..=long {
            if let (Ok(column), Ok(row)) = (usize::try_from(x), usize::try_from(y))
                && column < self.width
                && row < self.height
            {
                self.pixels[row * self.width + column] = 1;
            }
            let both = error < 0;
            error += if both { 2 * long - 2 * short } else { -2 * short };
            if dy > dx {
                y += down;
                x += i64::from(both);
            } else {
                x += 1;
                y += if both { down } else { 0 };
            }
        }
    }
}

/// The box around a list of points, or of several: left, top, width and height; `None` without any point.
///
/// # Errors
/// A coordinate is no number or far outside the image.
pub fn box_around(lines: &[Vec<[f64; 2]>]) -> Result<Option<[f64; 4]>, MediaError> {
    let mut around: Option<[f64; 4]> = None;
    for &[x, y] in lines.iter().flatten() {
        check(x)?;
        check(y)?;
        let [left, top, right, bottom] = around.unwrap_or([x, y, x, y]);
        around = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
    }
    Ok(around.map(|[left, top, right, bottom]| [left, top, right - left, bottom - top]))
}

/// Makes sure that a box `[left, top, width, height]` lies at a place in the image.
///
/// # Errors
/// A coordinate is no number or far outside the image, or a side is negative.
pub fn check_box([left, top, width, height]: [f64; 4]) -> Result<(), MediaError> {
    [left, top, width, height, left + width, top + height].into_iter().try_for_each(check)?;
    match width < 0.0 || height < 0.0 {
        true => Err(MediaError::shape(format!("a box of width {width} and height {height}; sides are not negative"))),
        false => Ok(()),
    }
}

/// Column and row.
type Point = (i64, i64);

fn check(coordinate: f64) -> Result<(), MediaError> {
    match (BEFORE..=FAR).contains(&coordinate) {
        true => Ok(()),
        false => Err(MediaError::shape(format!(
            "the coordinate {coordinate} is not a place in the image: FiftyOne's coordinates are fractions of its width and height, so divide pixels by these"
        ))),
    }
}

/// From each point to the next.
fn edges(points: &[Point], closed: bool) -> impl Iterator<Item = (Point, Point)> + '_ {
    let last = points.len().saturating_sub(1);
    let back = points.first().zip(points.last()).filter(|_| closed).map(|(first, last)| (*last, *first));
    (0..last).map(|index| (points[index], points[index + 1])).chain(back)
}

/// The part of a line that lies in `0..=right`, `0..=bottom`, with ends rounded to pixels (OpenCV's `clipLine`), so that drawing
/// takes no longer than the image is large.
fn clip(mut from: Point, mut to: Point, right: i64, bottom: i64) -> Option<(Point, Point)> {
    if right < 0 || bottom < 0 {
        return None;
    }
    // Cohen and Sutherland: first the rows, then the columns.
    let outside = |p: Point| (p.1 < 0, p.1 > bottom, p.0 < 0, p.0 > right);
    let beside = |from: Point, to: Point| {
        let (a, b) = (outside(from), outside(to));
        (a.0 && b.0) || (a.1 && b.1) || (a.2 && b.2) || (a.3 && b.3)
    };
    if beside(from, to) {
        return None;
    }
    // Rounded towards the end that moves, as OpenCV does.
    let to_row = |end: Point, other: Point, y: i64| {
        let moved = (y - end.1) as f64 * (other.0 - end.0) as f64 / (other.1 - end.1) as f64;
        (end.0 + moved as i64, y)
    };
    let to_column = |end: Point, other: Point, x: i64| {
        let moved = (x - end.0) as f64 * (other.1 - end.1) as f64 / (other.0 - end.0) as f64;
        (x, end.1 + moved as i64)
    };
    // An end that is outside is not beside the other one's side, so that no division is by zero.
    if outside(from).0 || outside(from).1 {
        from = to_row(from, to, if from.1 < 0 { 0 } else { bottom });
    }
    if outside(to).0 || outside(to).1 {
        to = to_row(to, from, if to.1 < 0 { 0 } else { bottom });
    }
    if beside(from, to) {
        return None;
    }
    if outside(from).2 || outside(from).3 {
        from = to_column(from, to, if from.0 < 0 { 0 } else { right });
    }
    if outside(to).2 || outside(to).3 {
        to = to_column(to, from, if to.0 < 0 { 0 } else { right });
    }
    (!beside(from, to)).then_some((from, to))
}

/// The two source pixels between which a pixel of a resized picture lies, their centres being aligned.
struct Blend {
    first: usize,
    second: usize,
    /// Their shares of 2048, as OpenCV rounds them.
    weights: [u32; 2],
}

impl Blend {
    /// For position `index` of `new`, in a source of `old` pixels.
    fn new(index: usize, new: usize, old: usize) -> Blend {
        let position = ((index as f64 + 0.5) * (old as f64 / new as f64) - 0.5) as f32;
        let before = position.floor();
        let fraction = position - before;
        let weight = |share: f32| (share * 2048.0).round_ties_even() as u32;
        // Beyond the first and the last pixel's centres that pixel stands for both; a cast of -1 gives 0.
        let (first, second) = (before as usize, (before + 1.0) as usize);
        Blend { first: first.min(old - 1), second: second.min(old - 1), weights: [weight(1.0 - fraction), weight(fraction)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(mask: &BinaryMask) -> Vec<String> {
        let pixel = |pixel: &u8| if *pixel == 0 { '.' } else { '#' };
        mask.pixels.chunks(mask.width).map(|row| row.iter().map(pixel).collect()).collect()
    }

    #[test]
    fn bounds_are_those_of_a_box() {
        let mut mask = BinaryMask::empty(4, 8);
        assert_eq!(mask.bounds(), None);
        mask.fill_box([0.25, 0.25, 0.75, 0.5]);
        assert_eq!(mask.bounds(), Some([0.25, 0.25, 0.75, 0.5]));
        mask.fill_box([0.0, 0.75, 0.125, 1.0]);
        assert_eq!(mask.bounds(), Some([0.0, 0.25, 0.75, 1.0]));
        assert_eq!(BinaryMask::full(3, 5).bounds(), Some([0.0, 0.0, 1.0, 1.0]));
    }

    fn drawn(height: usize, width: usize, draw: impl FnOnce(&mut BinaryMask) -> Result<(), MediaError>) -> Vec<String> {
        let mut mask = BinaryMask::empty(height, width);
        draw(&mut mask).unwrap();
        rows(&mask)
    }

    // What fiftyone 1.22.1's `to_segmentation(frame_size=(24, 14))` gave.

    #[test]
    fn polygons_are_those_of_fiftyone() {
        let triangle = [vec![[0.1, 0.1], [0.9, 0.3], [0.3, 0.95]]];
        let expected = [
            "........................",
            "..####..................",
            "..###########...........",
            "...################.....",
            "...####################.",
            "....##################..",
            "....################....",
            "....##############......",
            ".....############.......",
            ".....##########.........",
            "......#######...........",
            "......######............",
            ".......###..............",
            ".......#................",
        ];
        assert_eq!(drawn(14, 24, |mask| mask.add_polygon(&triangle)), expected);
        let hole =
            [vec![[0.05, 0.05], [0.95, 0.05], [0.95, 0.95], [0.05, 0.95]], vec![[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]]];
        let expected = [
            "........................",
            ".#######################",
            ".#######################",
            ".#######################",
            ".#######################",
            ".#######.........#######",
            ".#######.........#######",
            ".#######.........#######",
            ".#######.........#######",
            ".#######.........#######",
            ".#######################",
            ".#######################",
            ".#######################",
            ".#######################",
        ];
        assert_eq!(drawn(14, 24, |mask| mask.add_polygon(&hole)), expected);
        let outside = [vec![[-0.4, 0.5], [0.5, -0.6], [1.7, 0.4], [0.5, 1.5]]];
        let mut expected = vec!["########################"; 14];
        expected[0] = ".#######################";
        assert_eq!(drawn(14, 24, |mask| mask.add_polygon(&outside)), expected);
    }

    #[test]
    fn lines_are_those_of_fiftyone() {
        let bent = vec![[0.05, 0.9], [0.3, 0.1], [0.95, 0.6]];
        let across = vec![[-0.5, 0.2], [1.5, 1.1]];
        let expected = [
            "........................",
            ".......##...............",
            "......#..##.............",
            "......#....##...........",
            ".....#.......###........",
            ".....#..........##......",
            "##..#.............##....",
            "..####..............##..",
            "...#..####............##",
            "...#......####..........",
            "..#...........####......",
            "..#...............####..",
            ".#....................##",
            ".#......................",
        ];
        assert_eq!(drawn(14, 24, |mask| mask.add_lines(&[bent.clone(), across.clone()], false)), expected);
        let expected = [
            "........................",
            ".......##...............",
            "......#..##.............",
            "......#....##...........",
            ".....#.......###........",
            ".....#..........##......",
            "....#.............##....",
            "....#...............##..",
            "...#.................###",
            "...#.............####...",
            "..#..........####.......",
            "..#.....#####...........",
            ".#..####................",
            ".###....................",
        ];
        assert_eq!(drawn(14, 24, |mask| mask.add_lines(std::slice::from_ref(&bent), true)), expected);
    }

    #[test]
    fn instance_masks_are_stretched_over_their_boxes_as_in_fiftyone() {
        let mask = InstanceMask { height: 3, width: 4, pixels: vec![0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1] };
        let inside = [
            "........................",
            "........................",
            "......######............",
            "......######............",
            ".....########...........",
            "..##############........",
            "..##############........",
            "..####......####........",
            "..###........###........",
            "..###........###........",
            "........................",
            "........................",
            "........................",
            "........................",
        ];
        assert_eq!(drawn(14, 24, |all| all.add_box([0.1, 0.2, 0.6, 0.55], Some(&mask))), inside);
        let over_the_edge = [
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
            "...#####................",
            "...#####................",
            "###########.............",
            "###########.............",
            "###########.............",
            "###.....###.............",
            "##.......##.............",
        ];
        assert_eq!(drawn(14, 24, |all| all.add_box([-0.2, 0.5, 0.7, 0.9], Some(&mask))), over_the_edge);
        let smaller = [
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
            ".............#..........",
            "............#.#.........",
            "........................",
            "........................",
            "........................",
            "........................",
            "........................",
        ];
        assert_eq!(drawn(14, 24, |all| all.add_box([0.5, 0.5, 0.13, 0.15], Some(&mask))), smaller);
    }

    #[test]
    fn masks_of_bytes_reach_as_far_as_in_fiftyone() {
        let draw = |pixels: Vec<u8>| {
            let mask = InstanceMask { height: 3, width: 4, pixels };
            drawn(14, 24, |all| all.add_box([0.1, 0.2, 0.6, 0.55], Some(&mask)))[2..10].to_vec()
        };
        let black_and_white = [
            "....##########..........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..#####....#####........",
        ];
        assert_eq!(draw(vec![0, 255, 255, 0, 255, 255, 255, 255, 255, 0, 0, 255]), black_and_white);
        let soft = [
            "......########..........",
            "..############..........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..##############........",
            "..#####.....####........",
        ];
        assert_eq!(draw(vec![0, 1, 255, 0, 40, 1, 255, 3, 40, 0, 0, 3]), soft);
    }

    #[test]
    fn boxes_are_cut_down_to_whole_pixels_and_add_up() {
        let boxes = |mask: &mut BinaryMask| {
            mask.add_box([0.0, 0.0, 0.3, 0.5], None)?;
            mask.add_box([0.75, 0.5, 1.0, 1.0], None)?;
            mask.add_box([0.6, 0.1, 0.05, 0.9], None)?;
            mask.add_box([1.5, 1.5, 0.2, 0.2], None)
        };
        assert_eq!(drawn(4, 8, boxes), ["##..#...", "##..#...", "....#.##", "....#.##"]);
        assert_eq!(drawn(2, 2, |mask| mask.add_box([0.0, 0.0, 1.0, 1.0], None)), ["##", "##"]);
    }

    #[test]
    fn nonsense_is_an_error_and_costs_no_time() {
        let mut mask = BinaryMask::empty(8, 8);
        for bounds in [
            [f64::NAN, 0.0, 1.0, 1.0],
            [0.0, 0.0, f64::INFINITY, 1.0],
            [120.0, 80.0, 30.0, 40.0],
            [10.0, 5.0, 20.0, 15.0],
            [0.0, 0.0, 20.0, 15.0],
            [1.5, 0.5, 1.0, 0.1],
            [0.5, 0.5, -0.1, 0.1],
        ] {
            assert!(mask.add_box(bounds, None).is_err(), "{bounds:?}");
        }
        for point in [[f64::NAN, 0.0], [0.0, f64::NEG_INFINITY], [1e300, 0.0], [345.0, 20.0], [3.0, 0.5]] {
            assert!(mask.add_polygon(&[vec![[0.0, 0.0], point]]).is_err(), "{point:?}");
            assert!(mask.add_lines(&[vec![[0.0, 0.0], point]], false).is_err(), "{point:?}");
        }
        assert_eq!(mask.count(), 0);
        for lines in [vec![], vec![vec![]], vec![vec![[0.5, -3.0]]]] {
            mask.add_polygon(&lines).unwrap();
            mask.add_lines(&lines, false).unwrap();
        }
        assert_eq!(mask.count(), 0);
        mask.add_lines(&[vec![[0.5, 0.5]]], true).unwrap();
        assert_eq!(mask.count(), 1, "a closed line of one point is that point");
        // Its rows and columns are counted, not the pixels on the way: a zigzag far beyond the image.
        let zigzag: Vec<[f64; 2]> = (0..100_000).map(|n| if n % 2 == 0 { [-99.0, 0.4] } else { [2.0, 0.6] }).collect();
        mask.add_lines(&[zigzag], false).unwrap();
        assert!(mask.count() >= 8);
    }

    #[test]
    fn any_coordinates_stay_inside_the_mask() {
        // A generator of its own, so that a failure can be repeated.
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as f64 / f64::from(1 << 30) - 1.0) * 2.0
        };
        let inner = InstanceMask { height: 2, width: 3, pixels: vec![1, 0, 1, 0, 1, 0] };
        for n in 0..2000 {
            let mut mask = BinaryMask::empty(1 + n % 7, 1 + n % 5);
            let line: Vec<[f64; 2]> = (0..4).map(|_| [next(), next()]).collect();
            mask.add_lines(std::slice::from_ref(&line), n % 2 == 0).unwrap();
            mask.add_polygon(&[line]).unwrap();
            mask.add_box([next() / 2.0, next() / 2.0, next().abs() / 2.0, next().abs() / 2.0], Some(&inner)).unwrap();
            assert!(mask.pixels.iter().all(|pixel| *pixel <= 1));
        }
    }
}
