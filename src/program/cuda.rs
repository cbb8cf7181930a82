//! CUDA on demand. libtorch's CUDA half is half a gigabyte and doubles the time to start, so the binary links the CPU half and
//! loads the other one only when a GPU is asked for, or automatically where a driver is installed.

use std::{ffi::CString, path::Path};

use tch::Cuda;

use crate::diagnostic::Diagnostic;

/// Whether CUDA can be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaStatus {
    /// That many devices.
    Available(usize),
    /// The reason why not, with what to do about it.
    Unavailable(Diagnostic),
}

/// Loads libtorch's CUDA half, which registers itself with the rest. Must come before the first question about CUDA, whose
/// answer libtorch remembers.
///
/// # Errors
/// The library is not there, or lacks one of its own.
pub fn load_cuda() -> Result<(), String> {
    for library in ["libc10_cuda.so", "libtorch_cuda.so"] {
        let path = Path::new(env!("CAMFLOW_LIBTORCH_LIB")).join(library);
        // Beside libtorch_cpu where it was built; else wherever the loader looks.
        let name = if path.exists() { path.to_string_lossy().into_owned() } else { library.to_owned() };
        let name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the library's initialisers only register operators and devices.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: dlerror gives a NUL-terminated text or null.
            let reason = unsafe {
                let text = libc::dlerror();
                if text.is_null() {
                    "unknown reason".into()
                } else {
                    std::ffi::CStr::from_ptr(text).to_string_lossy().into_owned()
                }
            };
            return Err(format!("`{library}` cannot be loaded: {reason}"));
        }
    }
    Ok(())
}

/// Looks for a driver first, so that a machine without a GPU never loads the large library.
pub fn cuda_status() -> CudaStatus {
    // SAFETY: opening the driver's library has no effect but to load it.
    let driver = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) };
    if driver.is_null() {
        return unavailable("no NVIDIA driver (`libcuda.so.1`) is installed");
    }
    if let Err(reason) = load_cuda() {
        return CudaStatus::Unavailable(Diagnostic::invalid(reason).hint("install the CUDA build of torch 2.11.0"));
    }
    match usize::try_from(Cuda::device_count()).unwrap_or(0) {
        0 => unavailable("the NVIDIA driver reports no device; `nvidia-smi` says why"),
        count => CudaStatus::Available(count),
    }
}

fn unavailable(reason: &str) -> CudaStatus {
    CudaStatus::Unavailable(Diagnostic::invalid(reason))
}
