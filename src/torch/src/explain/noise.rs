//! Gaussian noise that follows from a name: the same in every run, in whatever batch it is asked for, and on every device but for the last
//! bits of a logarithm.
//!
//! Number `j` of the noise of a name, in whole numbers of 32 bits, with `m` the finalizer of MurmurHash3 (an exclusive or with the number
//! shifted, and a multiplication, twice), `^` the exclusive or, and two digests `a` and `b` of the name's bytes:
//!
//! ```text
//! n   = m(m(j ^ a) ^ b)
//! z_j = sqrt(2) * erfinv((2 floor(n / 2^8) + 1) / 2^24 - 1)       normal: mean 0, deviation 1
//! d   = m(d ^ (byte + 1)) for each byte, from 1 for a and from 2 for b
//! ```

use tch::{Device, Kind, TchError, Tensor};

use crate::program::send;

const MULTIPLIERS: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];
const SHIFTS: [u32; 3] = [16, 13, 16];
const ALL_BITS: i64 = 0xffff_ffff;

/// Numbers `[names, count]`, f32, normal with mean 0 and deviation 1: a row for each name, of which the first numbers are the same
/// whatever `count` is.
///
/// # Errors
/// libtorch fails, for want of memory say.
pub(super) fn normal(names: &[String], count: i64, device: Device) -> Result<Tensor, TchError> {
    let digests = |start: u32| -> Result<Tensor, TchError> {
        let digests: Vec<i64> = names.iter().map(|name| i64::from(digest(name, start))).collect();
        send(&digests, &[names.len() as i64, 1], device)
    };
    let numbers = Tensor::f_arange(count, (Kind::Int64, device))?.f_unsqueeze(0)?;
    let mixed = mix(&numbers.f_bitwise_xor_tensor(&digests(1)?)?)?;
    let mixed = mix(&mixed.f_bitwise_xor_tensor(&digests(2)?)?)?;
    // Odd multiples of 2^-24 between -1 and 1: f32 has each of them, and none has an infinite place in the normal distribution.
    let uniform = mixed.f_bitwise_right_shift_tensor_scalar(8)?.f_mul_scalar(2)?.f_add_scalar(1 - (1 << 24))?;
    uniform.f_to_kind(Kind::Float)?.f_div_scalar(f64::from(1 << 24))?.f_erfinv()?.f_mul_scalar(std::f64::consts::SQRT_2)
}

/// The finalizer of MurmurHash3 of each of the whole numbers, which are less than 2^32.
fn mix(numbers: &Tensor) -> Result<Tensor, TchError> {
    let shifted =
        |numbers: &Tensor, by: u32| numbers.f_bitwise_xor_tensor(&numbers.f_bitwise_right_shift_tensor_scalar(i64::from(by))?);
    let mut mixed = shifted(numbers, SHIFTS[0])?;
    for (multiplier, shift) in MULTIPLIERS.into_iter().zip(&SHIFTS[1..]) {
        // As a negative number the multiplier has the same low bits in the product, which then fits into 64 bits.
        let product = mixed.f_mul_scalar(i64::from(multiplier.cast_signed()))?.f_bitwise_and(ALL_BITS)?;
        mixed = shifted(&product, *shift)?;
    }
    Ok(mixed)
}

fn digest(name: &str, start: u32) -> u32 {
    name.bytes().fold(start, |digest, byte| {
        let mut mixed = digest ^ (u32::from(byte) + 1);
        mixed ^= mixed >> SHIFTS[0];
        for (multiplier, shift) in MULTIPLIERS.into_iter().zip(&SHIFTS[1..]) {
            mixed = mixed.wrapping_mul(multiplier);
            mixed ^= mixed >> shift;
        }
        mixed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], count: i64) -> Tensor {
        normal(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), count, Device::Cpu).expect("noise")
    }

    #[test]
    fn it_is_mixed_as_murmur_hash_does() {
        let found = mix(&Tensor::from_slice(&[0i64, 1, 2, ALL_BITS])).expect("mixed");
        let found = Vec::<i64>::try_from(found).expect("whole numbers");
        assert_eq!(found, [0, 0x514e_28b7, 0x30f4_c306, 0x81f1_6f39]);
    }

    #[test]
    fn it_follows_from_the_name_and_from_nothing_else() {
        let two = of(&["a", "b"], 5000);
        assert_eq!(two.get(1), of(&["b"], 5000).get(0));
        assert_eq!(two.get(0).narrow(0, 0, 70), of(&["a"], 70).get(0));
        let product = (two.get(0) * two.get(1)).mean(None).double_value(&[]);
        assert!(product.abs() < 0.06, "{product}");
    }

    #[test]
    fn it_is_normal() {
        let noise = of(&["a name", "another"], 200_000);
        let share = |below: f64| noise.lt(below).to_kind(Kind::Float).mean(None).double_value(&[]);
        for (below, wanted) in [(-2.0, 0.02275), (-1.0, 0.15866), (0.0, 0.5), (1.0, 0.84134), (2.0, 0.97725)] {
            assert!((share(below) - wanted).abs() < 0.003, "{} below {below}", share(below));
        }
        assert!(bool::try_from(noise.isfinite().all()).expect("a bool"));
        // Neighbours know nothing of each other.
        let beside = (noise.narrow(1, 1, 199_999) * noise.narrow(1, 0, 199_999)).mean(None).double_value(&[]);
        assert!(beside.abs() < 0.006, "{beside}");
    }
}
