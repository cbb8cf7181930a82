//! Which labelled classes each pixel of an image has, all classes of a label together. A pixel has several where objects overlap.

use std::collections::HashMap;

use super::{
    error::MediaError,
    geometry::{BinaryMask, FrameRegion},
};

/// Classes that a label may have: what has more holds other numbers than those of classes.
const MAX_CLASSES: usize = 1000;

/// The labelled classes of every pixel, by rows: much the same from pixel to pixel, so that runs take little memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    classes: Vec<String>,
    /// The classes of a pixel of each kind, by their numbers in `classes`; a pixel of the first kind has none.
    kinds: Vec<Vec<usize>>,
    /// The column after the last pixel of each run, and the kind of its pixels.
    runs: Vec<(u32, u16)>,
    /// Where the runs of each row end.
    rows: Vec<usize>,
}

impl ClassMap {
    /// Of pixels that have one value each, row by row; `class` names that of a value, and `None` is none. Values of the same name are
    /// one class.
    ///
    /// # Errors
    /// There are more than a thousand classes.
    pub(super) fn of_values<T: Copy + Eq + std::hash::Hash>(
        (height, width): (usize, usize),
        values: impl Iterator<Item = T>,
        class: impl Fn(T) -> Option<String>,
    ) -> Result<Self, MediaError> {
        let mut map = ClassMap::empty(height, width);
        let mut known: HashMap<T, u16> = HashMap::new();
        let mut row = vec![0; width];
        let mut last: Option<(T, u16)> = None;
        let mut values = values;
        for _ in 0..height {
            for (pixel, value) in row.iter_mut().zip(&mut values) {
                let kind = match (last, known.get(&value)) {
                    (Some((before, kind)), _) if before == value => kind,
                    (_, Some(kind)) => *kind,
                    (_, None) => {
                        let kind = class(value).map_or(Ok(0), |name| map.kind_of(name))?;
                        known.insert(value, kind);
                        kind
                    }
                };
                last = Some((value, kind));
                *pixel = kind;
            }
            map.push(&row);
        }
        Ok(map)
    }

    /// Of the pixels of each class, all of one size. Those of different classes may overlap.
    ///
    /// # Errors
    /// One of the parts is an error, or there are more classes or ways to overlap than a label has.
    pub fn of_parts(
        (height, width): (usize, usize),
        parts: impl IntoIterator<Item = (String, Result<BinaryMask, MediaError>)>,
    ) -> Result<Self, MediaError> {
        let mut map = ClassMap::empty(height, width);
        let mut pixels = vec![0_u16; height * width];
        for (name, part) in parts {
            let part = part?;
            let class = map.class(name)?;
            // What pixels of each kind become with this class.
            let mut with: HashMap<u16, u16> = HashMap::new();
            for (pixel, _) in pixels.iter_mut().zip(&part.pixels).filter(|(_, marked)| **marked != 0) {
                *pixel = match with.get(pixel) {
                    Some(kind) => *kind,
                    None => {
                        let kind = map.kind([&map.kinds[usize::from(*pixel)][..], &[class]].concat())?;
                        with.insert(*pixel, kind);
                        kind
                    }
                };
            }
        }
        pixels.chunks_exact(width.max(1)).for_each(|row| map.push(row));
        Ok(map)
    }

    fn empty(height: usize, width: usize) -> Self {
        ClassMap { height, width, classes: Vec::new(), kinds: vec![Vec::new()], runs: Vec::new(), rows: Vec::new() }
    }

    fn class(&mut self, name: String) -> Result<usize, MediaError> {
        if let Some(known) = self.classes.iter().position(|known| *known == name) {
            return Ok(known);
        }
        if self.classes.len() == MAX_CLASSES {
            return Err(MediaError::shape(format!("it has more than {MAX_CLASSES} classes, which no label of classes has")));
        }
        self.classes.push(name);
        Ok(self.classes.len() - 1)
    }

    fn kind_of(&mut self, name: String) -> Result<u16, MediaError> {
        let class = self.class(name)?;
        match self.kinds.iter().position(|classes| classes[..] == [class]) {
            Some(known) => Ok(known as u16),
            None => self.kind(vec![class]),
        }
    }

    /// A new kind of pixel.
    fn kind(&mut self, classes: Vec<usize>) -> Result<u16, MediaError> {
        let kind = u16::try_from(self.kinds.len())
            .map_err(|_| MediaError::shape(format!("its objects overlap in more than {} ways", u16::MAX)))?;
        self.kinds.push(classes);
        Ok(kind)
    }

    /// Adds a row below.
    fn push(&mut self, kinds: &[u16]) {
        for (column, kind) in kinds.iter().enumerate() {
            if kinds.get(column + 1) != Some(kind) {
                self.runs.push((column as u32 + 1, *kind));
            }
        }
        self.rows.push(self.runs.len());
    }

    /// The names of its classes. A pixel may have none of some of them, where the map is a part of another one.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The classes of a pixel of each kind, by their numbers in [`ClassMap::classes`].
    pub fn kinds(&self) -> &[Vec<usize>] {
        &self.kinds
    }

    /// The kind of each pixel, row by row, of the map resized as by [`BinaryMask::resize_nearest`].
    pub fn pixels(&self, height: usize, width: usize) -> Vec<u16> {
        let mut pixels = Vec::with_capacity(height * width);
        let columns: Vec<Option<usize>> = (0..width).map(|x| Some(x * self.width / width)).collect();
        self.sample(&columns, (0..height).map(|y| Some(y * self.height / height)), |row| pixels.extend_from_slice(row));
        pixels
    }

    /// The map, of whatever resolution over the whole image, as one over the frame that it is resized to.
    pub fn onto_frame(&self, region: &FrameRegion) -> ClassMap {
        let (height, width) = (region.frame_height, region.frame_width);
        let columns: Vec<Option<usize>> = (0..width).map(|x| Some(x * self.width / width)).collect();
        self.sampled((height, width), &columns, (0..height).map(|y| Some(y * self.height / height)))
    }

    /// As [`BinaryMask::on_input`]: over a model's input of `height` x `width` pixels. Padding around the image has no class.
    pub fn on_input(self, region: &FrameRegion, height: usize, width: usize) -> ClassMap {
        if !region.is_cropped(height, width) {
            return self;
        }
        let source = |position: usize, offset: i64, frame: usize, side: usize| {
            let in_frame = usize::try_from(position as i64 + offset).ok()?;
            (in_frame < frame).then(|| in_frame * side / frame)
        };
        let columns: Vec<_> = (0..width).map(|x| source(x, region.left, region.frame_width, self.width)).collect();
        let rows = (0..height).map(|y| source(y, region.top, region.frame_height, self.height));
        self.sampled((height, width), &columns, rows)
    }

    fn sampled(
        &self,
        (height, width): (usize, usize),
        columns: &[Option<usize>],
        rows: impl Iterator<Item = Option<usize>>,
    ) -> ClassMap {
        let mut map = ClassMap { classes: self.classes.clone(), kinds: self.kinds.clone(), ..ClassMap::empty(height, width) };
        self.sample(columns, rows, |row| map.push(row));
        map
    }

    /// Gives the rows, one by one, with these columns of each; `None` is beside the map.
    fn sample(&self, columns: &[Option<usize>], rows: impl Iterator<Item = Option<usize>>, mut take: impl FnMut(&[u16])) {
        let mut whole = vec![0; self.width];
        let (mut sampled, mut current) = (vec![0; columns.len()], None);
        for row in rows {
            match row {
                Some(row) if current != Some(row) => {
                    let first = row.checked_sub(1).map_or(0, |above| self.rows[above]);
                    let mut from = 0;
                    for (to, kind) in &self.runs[first..self.rows[row]] {
                        whole[from..*to as usize].fill(*kind);
                        from = *to as usize;
                    }
                    sampled.iter_mut().zip(columns).for_each(|(pixel, column)| *pixel = column.map_or(0, |x| whole[x]));
                }
                None if current.is_some() => sampled.fill(0),
                _ => {}
            }
            current = row;
            take(&sampled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, pixels: &[u8]) -> (String, Result<BinaryMask, MediaError>) {
        (name.to_owned(), Ok(BinaryMask { height: 2, width: pixels.len() / 2, pixels: pixels.to_vec() }))
    }

    fn classes_at(map: &ClassMap, pixels: &[u16], at: usize) -> Vec<String> {
        map.kinds()[usize::from(pixels[at])].iter().map(|class| map.classes()[*class].clone()).collect()
    }

    #[test]
    fn pixels_have_all_classes_that_overlap_there() {
        let parts = [part("sky", &[1, 1, 0, 0, 0, 0]), part("a.b", &[0, 1, 1, 0, 0, 1])];
        let map = ClassMap::of_parts((2, 3), parts).unwrap();
        let pixels = map.pixels(2, 3);
        let found: Vec<_> = (0..6).map(|at| classes_at(&map, &pixels, at).join("+")).collect();
        assert_eq!(found, ["sky", "sky+a.b", "a.b", "", "", "a.b"]);
        // As masks are resized.
        let larger = map.pixels(4, 7);
        let sky = BinaryMask { height: 2, width: 3, pixels: vec![1, 1, 0, 0, 0, 0] }.resize_nearest(4, 7);
        for (at, marked) in sky.pixels.iter().enumerate() {
            assert_eq!(classes_at(&map, &larger, at).contains(&"sky".to_owned()), *marked != 0, "{at}");
        }
    }

    #[test]
    fn a_crop_is_that_of_masks() {
        let pixels: Vec<u8> = (0..35).map(|i| u8::from(i % 3 == 0)).collect();
        let mask = BinaryMask { height: 5, width: 7, pixels };
        let map = ClassMap::of_parts((5, 7), [("x".to_owned(), Ok(mask.clone()))]).unwrap();
        let region = FrameRegion { image_height: 50, image_width: 70, frame_height: 11, frame_width: 9, top: 3, left: -2 };
        let marked =
            |map: &ClassMap| -> Vec<u8> { map.pixels(map.height, map.width).iter().map(|kind| u8::from(*kind != 0)).collect() };
        assert_eq!(marked(&map.onto_frame(&region)), mask.resize_nearest(11, 9).pixels);
        assert_eq!(marked(&map.clone().on_input(&region, 6, 13)), mask.clone().on_input(&region, 6, 13).pixels);
        assert_eq!(map.clone().on_input(&FrameRegion::whole(5, 7), 5, 7), map);
    }

    #[test]
    fn values_of_one_name_are_one_class_and_numbers_of_other_things_are_refused() {
        let name = |value: i64| (value != 0).then(|| if value < 3 { "low".to_owned() } else { value.to_string() });
        let map = ClassMap::of_values((2, 3), [0, 1, 2, 7, 7, 0].into_iter(), name).unwrap();
        assert_eq!((map.classes(), map.pixels(2, 3)), (&["low".to_owned(), "7".to_owned()][..], vec![0, 1, 1, 2, 2, 0]));
        let error = ClassMap::of_values((1, 2000), 0..2000, name).unwrap_err().to_string();
        assert!(error.contains("more than 1000 classes"), "{error}");
    }
}
