//! The largest of several levels' maps in one go (`fusion.cpp`), for the CPU.

use std::ffi::c_char;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use super::dispatch::take_text;

unsafe extern "C" {
    fn cf_fuse_levels(
        levels: *const *const C_tensor,
        num_levels: usize,
        epsilon: f64,
        fused: *mut C_tensor,
        error: *mut *mut c_char,
    ) -> i32;
}

/// The maximum `[N, H, W]` of maps `[N, H', W']` of levels, each resized bilinearly and scaled to `[0, 1]` by itself, `epsilon` being
/// added to what is divided by; `None` where they are elsewhere, or of another type than f32.
///
/// # Errors
/// No memory is left.
pub(crate) fn fuse_levels(levels: &[Tensor], (height, width): (usize, usize), epsilon: f64) -> Result<Option<Tensor>, TchError> {
    let is_here = |map: &Tensor| map.device() == Device::Cpu && map.kind() == Kind::Float && map.numel() > 0;
    if !levels.iter().all(is_here) {
        return Ok(None);
    }
    let levels = levels.iter().map(Tensor::f_contiguous).collect::<Result<Vec<_>, _>>()?;
    let size = [levels[0].size()[0], height as i64, width as i64];
    let mut fused = Tensor::f_empty(size, (Kind::Float, Device::Cpu))?;
    let pointers: Vec<_> = levels.iter().map(|map| map.as_ptr()).collect();
    let mut error = std::ptr::null_mut();
    // SAFETY: as many tensors as said, of one length along the first axis, row by row, in host memory; the function only reads them.
    // What is written to belongs to nobody else.
    let status = unsafe { cf_fuse_levels(pointers.as_ptr(), pointers.len(), epsilon, fused.as_mut_ptr(), &raw mut error) };
    match (status, take_text(error)) {
        (0, _) => Ok(Some(fused)),
        (_, text) => Err(TchError::Torch(text.unwrap_or_default())),
    }
}
