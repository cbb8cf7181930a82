//! Numpy arrays: `.npy` files, and the compressed arrays in FiftyOne's documents (a zlib stream of a complete `.npy` file).
//!
//! npyz reads and writes the headers; the values are converted here in one sweep. What comes in may lie: a header is believed
//! only as far as there are bytes behind it.

use std::{
    io::{self, Read, Write},
    ops::Range,
    path::Path,
};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar, TypeStr, WriterBuilder};

use super::{content::read_file, error::MediaError, file::shown, turns::wait_for_turn};

/// An array in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Length of each axis; at most four axes.
    pub shape: Vec<usize>,
    /// As many as the product of the shape.
    pub values: ArrayValues,
}

/// The values of an array, in the type they were stored in.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrayValues {
    /// `|b1`, as 0 and 1.
    Bool(Vec<u8>),
    /// `|u1`
    U8(Vec<u8>),
    /// `|i1`
    I8(Vec<i8>),
    /// `u2`
    U16(Vec<u16>),
    /// `i2`
    I16(Vec<i16>),
    /// `u4`
    U32(Vec<u32>),
    /// `i4`
    I32(Vec<i32>),
    /// `u8`: eight bytes, not eight bits
    U64(Vec<u64>),
    /// `i8`: eight bytes, not eight bits
    I64(Vec<i64>),
    /// `f2`, widened
    F16(Vec<f32>),
    /// `f4`
    F32(Vec<f32>),
    /// `f8`
    F64(Vec<f64>),
}

impl ArrayValues {
    /// Every value as f32; integers beyond 2^24 are rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            ArrayValues::Bool(values) | ArrayValues::U8(values) => values.iter().map(|value| f32::from(*value)).collect(),
            ArrayValues::I8(values) => values.iter().map(|value| f32::from(*value)).collect(),
            ArrayValues::U16(values) => values.iter().map(|value| f32::from(*value)).collect(),
            ArrayValues::I16(values) => values.iter().map(|value| f32::from(*value)).collect(),
            ArrayValues::U32(values) => values.iter().map(|value| *value as f32).collect(),
            ArrayValues::I32(values) => values.iter().map(|value| *value as f32).collect(),
            ArrayValues::U64(values) => values.iter().map(|value| *value as f32).collect(),
            ArrayValues::I64(values) => values.iter().map(|value| *value as f32).collect(),
            ArrayValues::F16(values) | ArrayValues::F32(values) => values.clone(),
            ArrayValues::F64(values) => values.iter().map(|value| *value as f32).collect(),
        }
    }
}

/// numpy itself refuses longer headers (`max_header_size`); real ones have some hundred bytes.
const MAX_HEADER_BYTES: usize = 10_000;
/// A header holds one dict, one tuple, and for record types a few more. The parser recurses with each.
const MAX_HEADER_BRACKETS: usize = 16;
/// The longest beginning of a file in which a header lies.
pub(super) const MAX_START_BYTES: u64 = 12 + MAX_HEADER_BYTES as u64;
/// Deflate makes at most 258 bytes of 2 bits.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Reads an array from a `.npy` file of at most `max_bytes`.
///
/// # Errors
/// The path is no regular file or cannot be read, or see [`parse_array`].
pub fn read_array_file(path: &Path, max_bytes: u64) -> Result<Array, MediaError> {
    let bytes = read_file(path, max_bytes)?;
    parse_array(&bytes, &format!("`{}`", shown(path)))
}

/// Reads an array from a document: a zlib stream of a `.npy` file of at most `max_bytes`. No more is inflated than the file's
/// header says there is.
///
/// # Errors
/// The stream is damaged or ends early, holds more than its header says or than `max_bytes`, or see [`parse_array`].
pub fn inflate_array(bytes: &[u8], max_bytes: u64) -> Result<Array, MediaError> {
    const ORIGIN: &str = "the array in the document";
    let error = |reason: String| MediaError::array(ORIGIN, reason);
    let damaged = |cause: io::Error| error(format!("is not a complete zlib stream: {cause}"));
    let mut stream = ZlibDecoder::new(bytes);
    let mut inflated = Vec::new();
    stream.by_ref().take(MAX_START_BYTES).read_to_end(&mut inflated).map_err(damaged)?;
    let header = Header::parse(&inflated, ORIGIN)?;
    let whole = (header.data_start as u64).saturating_add(header.data_bytes as u64);
    if whole > max_bytes {
        return Err(error(format!("inflates to {whole} bytes, more than the {max_bytes} that are allowed")));
    }
    wait_for_turn(0, whole);
    // One byte more than there should be, which also makes the decoder look at its checksum.
    let missing = (whole + 1).saturating_sub(inflated.len() as u64);
    // No more in advance than such a stream can hold.
    inflated.reserve_exact(missing.min(bytes.len() as u64 * MAX_DEFLATE_RATIO) as usize);
    stream.take(missing).read_to_end(&mut inflated).map_err(damaged)?;
    if inflated.len() as u64 > whole {
        return Err(error(format!("inflates to more than the {whole} bytes that its header says")));
    }
    header.array(&inflated, ORIGIN)
}

/// Whether the array in a document is of type bool; only its beginning is looked at.
pub(super) fn inflates_to_bool(bytes: &[u8]) -> bool {
    let mut start = [0; 256];
    let mut filled = 0;
    let mut stream = ZlibDecoder::new(bytes);
    while let Ok(count @ 1..) = stream.read(&mut start[filled..]) {
        filled += count;
    }
    Header::parse(&start[..filled], "").is_ok_and(|header| header.kind.type_char() == TypeChar::Bool)
}

/// Reads an array from the content of a `.npy` file (version 1.0, 2.0 or 3.0, either byte order, C or Fortran order; bool,
/// integers, floats; one to four axes). `origin` says in errors where the bytes come from.
///
/// # Errors
/// It is no such file, of another type (Python objects, records, text, complex numbers), or shorter than its header says.
pub fn parse_array(bytes: &[u8], origin: &str) -> Result<Array, MediaError> {
    Header::parse(bytes, origin)?.array(bytes, origin)
}

/// The size that a `.npy` file should have, by its beginning.
///
/// # Errors
/// As for [`parse_array`].
pub(super) fn npy_file_size(start: &[u8]) -> Result<u64, MediaError> {
    let header = Header::parse(start, "it")?;
    Ok((header.data_start as u64).saturating_add(header.data_bytes as u64))
}

/// What a header says, where it is something that can be read.
struct Header {
    kind: TypeStr,
    order: Order,
    shape: Vec<usize>,
    /// Bytes before the values.
    data_start: usize,
    /// Bytes of the values.
    data_bytes: usize,
}

impl Header {
    /// From the beginning of a `.npy` file.
    fn parse(bytes: &[u8], origin: &str) -> Result<Header, MediaError> {
        let error = |reason: String| MediaError::array(origin, reason);
        let text = check_header(bytes).map_err(error)?;
        let data_start = text.end;
        let (dtype, order, shape) = match plain_header(&bytes[text]) {
            Some((kind, order, shape)) => (DType::Plain(kind), order, shape),
            None => {
                let header = NpyHeader::from_reader(&bytes[..data_start])
                    .map_err(|cause| error(format!("its header cannot be read: {cause}")))?;
                let shape: Result<Vec<usize>, _> = header.shape().iter().map(|&side| usize::try_from(side)).collect();
                (header.dtype(), header.order(), shape.map_err(|_| error("is larger than memory".to_owned()))?)
            }
        };
        if !(1..=4).contains(&shape.len()) {
            return Err(error(format!("has {} axes; 1 to 4 can be read", shape.len())));
        }
        let (size, kind) = match &dtype {
            DType::Plain(kind) => (kind.num_bytes().filter(|size| (1..=8).contains(size)), Some(kind)),
            _ => (None, None),
        };
        let Some((size, kind)) = size.zip(kind) else {
            let hint = if dtype.uses_pickled_array() { " (Python objects are never loaded)" } else { "" };
            return Err(error(unsupported(&dtype.descr(), hint)));
        };
        let data_bytes = shape.iter().try_fold(size, |total, &side| total.checked_mul(side));
        let data_bytes = data_bytes.ok_or_else(|| error("its shape is larger than any memory".to_owned()))?;
        Ok(Header { kind: kind.clone(), order, shape, data_start, data_bytes })
    }

    /// The array, from all bytes of the file.
    fn array(self, bytes: &[u8], origin: &str) -> Result<Array, MediaError> {
        let Header { kind, order, shape, data_start, data_bytes } = self;
        let size = kind.num_bytes().unwrap_or_default();
        let data = bytes.get(data_start..).unwrap_or_default();
        let data = data.get(..data_bytes).ok_or_else(|| {
            let few = data.len();
            MediaError::array(
                origin,
                format!("says it holds {shape:?} values of {size} bytes, but only {few} bytes follow: it is truncated"),
            )
        })?;
        let values = values(data, &kind, size, &shape, order)
            .ok_or_else(|| MediaError::array(origin, unsupported(&DType::Plain(kind).descr(), "")))?;
        Ok(Array { shape, values })
    }
}

fn unsupported(kind: &str, hint: &str) -> String {
    format!("holds values of type {kind}{hint}; bool, integers and floats can be read")
}

/// The numbers in `data`; `None` for a type that is not read.
fn values(data: &[u8], kind: &TypeStr, size: usize, shape: &[usize], order: Order) -> Option<ArrayValues> {
    let big = kind.endianness() == Endianness::Big;
    macro_rules! values {
        ($variant:ident, $number:ty) => {
            ArrayValues::$variant(in_c_order(numbers(data, big, <$number>::from_ne_bytes), shape, order))
        };
    }
    Some(match (kind.type_char(), size) {
        (TypeChar::Bool, 1) => {
            let flags = data.iter().map(|&flag| u8::from(flag != 0)).collect();
            ArrayValues::Bool(in_c_order(flags, shape, order))
        }
        (TypeChar::Uint, 1) => values!(U8, u8),
        (TypeChar::Int, 1) => values!(I8, i8),
        (TypeChar::Uint, 2) => values!(U16, u16),
        (TypeChar::Int, 2) => values!(I16, i16),
        (TypeChar::Uint, 4) => values!(U32, u32),
        (TypeChar::Int, 4) => values!(I32, i32),
        (TypeChar::Uint, 8) => values!(U64, u64),
        (TypeChar::Int, 8) => values!(I64, i64),
        (TypeChar::Float, 2) => {
            let halves: Vec<half::f16> = numbers(data, big, half::f16::from_ne_bytes);
            let floats = halves.into_iter().map(f32::from).collect();
            ArrayValues::F16(in_c_order(floats, shape, order))
        }
        (TypeChar::Float, 4) => values!(F32, f32),
        (TypeChar::Float, 8) => values!(F64, f64),
        _ => return None,
    })
}

/// A header exactly as numpy writes it, which most masks have; what differs in anything is left to npyz, whose parser of
/// Python's literals takes longer than inflating a small mask.
fn plain_header(header: &[u8]) -> Option<(TypeStr, Order, Vec<usize>)> {
    let rest = std::str::from_utf8(header).ok()?.strip_prefix("{'descr': '")?;
    let (kind, rest) = rest.split_once("', 'fortran_order': ")?;
    let (fortran, rest) = rest.split_once(", 'shape': (")?;
    let (shape, padding) = rest.split_once("), }")?;
    let order = match fortran {
        "False" => Order::C,
        "True" => Order::Fortran,
        _ => return None,
    };
    let shape = shape.strip_suffix(',').unwrap_or(shape);
    let shape = shape.split(", ").map(|side| side.parse().ok()).collect::<Option<_>>()?;
    padding.trim().is_empty().then_some((kind.parse().ok()?, order, shape))
}

/// Where the header's text is, or why the header must not reach the parser: npyz allocates what a header claims, multiplies its
/// shape unchecked and recurses into its brackets.
fn check_header(bytes: &[u8]) -> Result<Range<usize>, String> {
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("is not a .npy file: it does not begin with \\x93NUMPY".to_owned());
    }
    let short = || "ends within its header: it is truncated".to_owned();
    let (prefix, length) = match bytes.get(6).ok_or_else(short)? {
        1 => (10, bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))),
        _ => (12, bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)),
    };
    let length = length.ok_or_else(short)?;
    if length > MAX_HEADER_BYTES {
        return Err(format!("its header claims {length} bytes, more than numpy accepts"));
    }
    let header = bytes.get(prefix..prefix + length).ok_or_else(short)?;
    if header.iter().filter(|byte| b"([{".contains(byte)).count() > MAX_HEADER_BRACKETS {
        return Err("its header is nested too deeply".to_owned());
    }
    // All numbers of the header together: the shape, and the size of a value. A zero stays out, since it could hide others.
    header
        .split(|byte| !byte.is_ascii_digit())
        .filter(|digits| digits.iter().any(|&digit| digit != b'0'))
        .try_fold(1_u64, |product, digits| product.checked_mul(std::str::from_utf8(digits).ok()?.parse().ok()?))
        .ok_or("its shape is larger than any memory")?;
    Ok(prefix..prefix + length)
}

fn numbers<T, const SIZE: usize>(data: &[u8], big: bool, from: impl Fn([u8; SIZE]) -> T) -> Vec<T> {
    let (numbers, _) = data.as_chunks::<SIZE>();
    let swap = big != cfg!(target_endian = "big");
    let convert = |&(mut bytes): &[u8; SIZE]| {
        if swap {
            bytes.reverse();
        }
        from(bytes)
    };
    numbers.iter().map(convert).collect()
}

fn in_c_order<T: Copy>(values: Vec<T>, shape: &[usize], order: Order) -> Vec<T> {
    if order == Order::C || values.is_empty() {
        return values;
    }
    // Counts through the C order; the first axis is the one that runs fastest in the file.
    let mut index = vec![0; shape.len()];
    (0..values.len())
        .map(|_| {
            let at = index.iter().zip(shape).rev().fold(0, |at, (&i, &side)| at * side + i);
            for (i, &side) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < side {
                    break;
                }
                *i = 0;
            }
            values[at]
        })
        .collect()
}

/// Writes a `.npy` file: version 1.0, `<f4`, C order.
///
/// # Errors
/// The writer fails.
///
/// # Panics
/// `values` are not as many as the product of `shape`.
pub fn write_f32(writer: &mut impl Write, shape: &[usize], values: &[f32]) -> io::Result<()> {
    write_header(writer, "<f4", shape, values.len())?;
    write_chunks(writer, values, f32::to_le_bytes)
}

/// Writes a `.npy` file: version 1.0, `<f2`, C order. Values in `[0, 1]` are rounded by at most 2.5e-4.
///
/// # Errors
/// The writer fails.
///
/// # Panics
/// `values` are not as many as the product of `shape`.
pub fn write_f16(writer: &mut impl Write, shape: &[usize], values: &[f32]) -> io::Result<()> {
    write_header(writer, "<f2", shape, values.len())?;
    write_chunks(writer, values, |value| half::f16::from_f32(value).to_le_bytes())
}

/// An array as FiftyOne stores it in a document: [`write_f32`] in a zlib stream.
///
/// # Panics
/// `values` are not as many as the product of `shape`.
pub fn deflate_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    // Level 1: floats of a smooth map hardly compress better at higher levels, which take several times as long.
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(1));
    write_f32(&mut encoder, shape, values).and_then(|()| encoder.finish()).expect("writing to memory cannot fail: this is a bug")
}

fn write_header(writer: &mut impl Write, dtype: &str, shape: &[usize], count: usize) -> io::Result<()> {
    assert_eq!(shape.iter().product::<usize>(), count, "values of another shape");
    let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
    let dtype = dtype.parse().expect("both types are spelled as numpy spells them");
    npyz::WriteOptions::new_header_only().dtype(DType::Plain(dtype)).shape(&shape).writer(writer).write_header_only()?;
    Ok(())
}

fn write_chunks<const SIZE: usize>(
    writer: &mut impl Write,
    values: &[f32],
    to_bytes: impl Fn(f32) -> [u8; SIZE],
) -> io::Result<()> {
    // In pieces that stay in the processor's cache, instead of a second copy of the whole.
    let mut buffer = Vec::with_capacity(8192 * SIZE);
    for piece in values.chunks(8192) {
        buffer.clear();
        buffer.extend(piece.iter().flat_map(|&value| to_bytes(value)));
        writer.write_all(&buffer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    fn reason(bytes: &[u8]) -> String {
        parse_array(bytes, "x").unwrap_err().to_string()
    }

    /// `testdata/array_*.npy` hold `np.arange(24).reshape(2, 3, 4) - 3` (unsigned: without the 3; bool: odd ones).
    #[test]
    fn every_type_order_and_version_of_numpy_is_read() {
        let folder = Path::new("testdata");
        let read = |name: &str| read_array_file(&folder.join(name), 1 << 20).unwrap();
        let unsigned: Vec<u64> = (0..24).collect();
        let signed: Vec<i64> = (-3..21).collect();
        macro_rules! check {
            ($name:literal, $variant:ident, $source:ident) => {
                let expected = $source.iter().map(|&v| v as _).collect();
                assert_eq!(read($name).values, ArrayValues::$variant(expected), $name);
                assert_eq!(read($name).shape, [2, 3, 4], $name);
            };
        }
        check!("array_u1.npy", U8, unsigned);
        check!("array_i1.npy", I8, signed);
        check!("array_u2_big.npy", U16, unsigned);
        check!("array_i2.npy", I16, signed);
        check!("array_u4.npy", U32, unsigned);
        check!("array_i4_fortran.npy", I32, signed);
        check!("array_u8_big_fortran.npy", U64, unsigned);
        check!("array_i8_version2.npy", I64, signed);
        check!("array_f2.npy", F16, signed);
        check!("array_f4_fortran.npy", F32, signed);
        check!("array_f8_big.npy", F64, signed);
        let odd = unsigned.iter().map(|v| (v % 2) as u8).collect();
        assert_eq!(read("array_b1.npy").values, ArrayValues::Bool(odd));
    }

    /// npyz writes the shape as `(2, 3, )` where numpy writes `(2, 3)`, which is the same to Python; the rest is equal.
    #[test]
    fn what_is_written_is_what_numpy_writes() {
        let values: Vec<f32> = (0..6).map(|v| v as f32 / 4.0).collect();
        let mut single = Vec::new();
        write_f32(&mut single, &[2, 3], &values).unwrap();
        let mut half = Vec::new();
        write_f16(&mut half, &[2, 3], &values).unwrap();
        for (ours, theirs) in [
            (&single, &include_bytes!("../testdata/written_f4.npy")[..]),
            (&half, &include_bytes!("../testdata/written_f2.npy")[..]),
        ] {
            assert_eq!((&ours[..10], &ours[128..]), (&theirs[..10], &theirs[128..]));
            assert_eq!(parse_array(ours, "ours").unwrap(), parse_array(theirs, "numpy's").unwrap());
        }
        let array = inflate_array(&deflate_f32(&[2, 3], &values), 1 << 10).unwrap();
        assert_eq!(array, Array { shape: vec![2, 3], values: ArrayValues::F32(values) });
    }

    #[test]
    fn headers_that_lie_are_refused_without_memory() {
        assert!(reason(&npy(&header("'<f8'", "False", "(1000000, 1000000)"), &[0; 8])).contains("truncated"));
        let huge = "(9223372036854775807, 9223372036854775807, 0)";
        assert!(reason(&npy(&header("'<f8'", "False", huge), &[])).contains("larger than any memory"));
        assert!(reason(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").contains("claims"));
        assert!(reason(b"\x93NUMPY\x01\x00\x76\x00{").contains("truncated"));
        let deep = header(&format!("{}1{}", "(".repeat(4000), ")".repeat(4000)), "False", "(1, 1)");
        assert!(reason(&npy(&deep, &[])).contains("nested"));
        assert!(reason(b"PK\x03\x04").contains("not a .npy file"));
        assert!(reason(&npy("garbage\n", &[])).contains("header"));
    }

    #[test]
    fn types_that_are_no_numbers_are_refused() {
        assert!(reason(&npy(&header("'|O'", "False", "(1, 1)"), &[0; 64])).contains("Python objects"));
        assert!(reason(&npy(&header("'<c8'", "False", "(1, 1)"), &[0; 64])).contains("<c8"));
        assert!(reason(&npy(&header("'<U2'", "False", "(1, 1)"), &[0; 64])).contains("can be read"));
        assert!(reason(&npy(&header("[('a', '<f4')]", "False", "(1, 1)"), &[0; 64])).contains("can be read"));
        assert!(reason(&npy(&header("'<f4'", "False", "()"), &[0; 64])).contains("axes"));
        assert!(reason(&npy(&header("'<f4'", "False", "(1, 1, 1, 1, 1)"), &[0; 64])).contains("axes"));
    }

    #[test]
    fn a_zlib_bomb_is_refused() {
        let bomb = deflate_f32(&[1000, 1000], &vec![0.0; 1_000_000]);
        assert!(bomb.len() < 40_000);
        assert!(
            inflate_array(&bomb, 1 << 20).unwrap_err().to_string().contains("inflates to 4000128 bytes, more than the 1048576")
        );
        assert!(inflate_array(&bomb, 5 << 20).is_ok());
    }

    #[test]
    fn a_stream_holds_what_its_header_says() {
        let deflated = |values: &[u8]| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(9));
            encoder.write_all(&npy(&header("'|u1'", "False", "(2, 3)"), values)).unwrap();
            encoder.finish().unwrap()
        };
        assert!(inflate_array(&deflated(&[7; 6]), 1 << 10).is_ok());
        let more = inflate_array(&deflated(&vec![7; 1 << 24]), 1 << 30).unwrap_err().to_string();
        assert!(more.contains("inflates to more than the"), "{more}");
        let fewer = inflate_array(&deflated(&[7; 5]), 1 << 10).unwrap_err().to_string();
        assert!(fewer.contains("truncated"), "{fewer}");
        let mut wrong = deflated(&[7; 6]);
        *wrong.last_mut().unwrap() ^= 1;
        assert!(inflate_array(&wrong, 1 << 10).unwrap_err().to_string().contains("zlib"), "its checksum counts");
    }

    #[test]
    fn damaged_streams_are_refused() {
        let whole = deflate_f32(&[4, 4], &[0.5; 16]);
        assert!(inflate_array(&whole[..whole.len() - 6], 1 << 20).is_err());
        assert!(inflate_array(b"", 1 << 20).is_err());
        assert!(inflate_array(b"not zlib", 1 << 20).is_err());
    }
}
