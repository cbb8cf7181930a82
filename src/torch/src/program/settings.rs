//! What is set in libtorch for a whole process. Jobs follow each other in it, so that what one of them needs ends with it.

use std::{
    ffi::c_char,
    sync::{Mutex, PoisonError},
};

use super::dispatch::take_text;

#[repr(C)]
struct RawWarnings {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn cf_allow_tf32(allow: i32);
    fn cf_allow_fused_attention(allow: i32);
    fn cf_print_errors_only();
    fn cf_collect_warnings() -> *mut RawWarnings;
    fn cf_take_warnings(warnings: *mut RawWarnings) -> *mut c_char;
}

/// Whether GPUs may shorten the mantissa of fp32 in matrix products and convolutions, in this process from here on.
pub fn allow_tf32(allow: bool) {
    // SAFETY: sets two flags of the process.
    unsafe { cf_allow_tf32(i32::from(allow)) };
}

/// While one lives, attention is computed by its formula everywhere in this process: the fused kernels have no second derivative.
#[derive(Debug)]
pub(crate) struct MathAttention(());

/// How many [`MathAttention`] there are.
static NUM_MATH: Mutex<usize> = Mutex::new(0);

impl MathAttention {
    /// One more.
    pub(crate) fn new() -> Self {
        let mut num_alive = NUM_MATH.lock().unwrap_or_else(PoisonError::into_inner);
        if *num_alive == 0 {
            // SAFETY: sets four flags of the process.
            unsafe { cf_allow_fused_attention(0) };
        }
        *num_alive += 1;
        MathAttention(())
    }
}

impl Drop for MathAttention {
    fn drop(&mut self) {
        let mut num_alive = NUM_MATH.lock().unwrap_or_else(PoisonError::into_inner);
        *num_alive -= 1;
        if *num_alive == 0 {
            // SAFETY: sets four flags of the process, to what libtorch has by itself.
            unsafe { cf_allow_fused_attention(1) };
        }
    }
}

/// Keeps libtorch's warnings from standard error: they are for people who write models, and name places in libtorch's source.
pub fn silence_warnings() {
    // SAFETY: sets a number of the process.
    unsafe { cf_print_errors_only() };
}

/// Runs `work`, with what libtorch warned of meanwhile on this thread.
pub(super) fn with_warnings<T>(work: impl FnOnce() -> T) -> (T, Option<String>) {
    // SAFETY: the warnings are taken below, on this thread.
    let warnings = unsafe { cf_collect_warnings() };
    let result = work();
    // SAFETY: they are those of above, and are taken once.
    let text = unsafe { cf_take_warnings(warnings) };
    (result, take_text(text))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::program::gradients;

    /// Whether attention of this size has a second derivative.
    fn is_twice_differentiable() -> bool {
        let query = Tensor::ones([1, 1, 64, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let attended = Tensor::scaled_dot_product_attention(&query, &query, &query, None::<Tensor>, 0.0, false, None, false);
        let root = attended.pow_tensor_scalar(2).sum(Kind::Float);
        let first = gradients(&root, &[query.shallow_clone()], true, true).expect("a gradient").remove(0);
        first.requires_grad() && gradients(&first.pow_tensor_scalar(2).sum(Kind::Float), &[query], true, false).is_ok()
    }

    #[test]
    fn attention_goes_by_its_formula_while_somebody_needs_it() {
        assert!(!is_twice_differentiable());
        let first = MathAttention::new();
        let second = MathAttention::new();
        drop(first);
        assert!(is_twice_differentiable());
        drop(second);
        assert!(!is_twice_differentiable());
    }

    #[test]
    fn warnings_are_collected() {
        // `where` warns once a process of a condition in bytes.
        let condition = Tensor::from_slice(&[0u8, 1]);
        let select = || Tensor::from_slice(&[1f32, 2.0]).f_where_self(&condition, &Tensor::from_slice(&[3f32, 4.0]));
        let (result, text) = with_warnings(select);
        assert!(result.is_ok());
        assert!(text.expect("warned").contains("uint8"), "of the condition's type");
        assert_eq!(with_warnings(|| 1), (1, None));
    }
}
