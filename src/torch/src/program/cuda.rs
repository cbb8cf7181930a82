//! CUDA on demand. libtorch's CUDA half is half a gigabyte and doubles the time to start, so the binary links the CPU half and
//! loads the other one only when a GPU is asked for, or automatically where a driver is installed.

use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tch::Cuda;

use super::settings::with_warnings;

use camflow_diagnostic::Diagnostic;

/// Whether CUDA can be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaStatus {
    /// That many devices.
    Available(usize),
    /// The reason why not, with what to do about it.
    Unavailable(Diagnostic),
}

/// The folder of the libtorch that is loaded: another than that of the build, where `LD_LIBRARY_PATH` says so. `None` where the
/// loader does not tell.
pub fn libtorch_folder() -> Option<PathBuf> {
    let mut found = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: `at::globalContext()` by its symbol, which is looked up and not called; `found` is a place to write to, and the name
    // in it lives as long as the library.
    let file = unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"_ZN2at13globalContextEv".as_ptr());
        if symbol.is_null() || libc::dladdr(symbol, &raw mut found) == 0 || found.dli_fname.is_null() {
            return None;
        }
        CStr::from_ptr(found.dli_fname)
    };
    Path::new(OsStr::from_bytes(file.to_bytes())).parent().map(Path::to_owned)
}

/// Loads libtorch's CUDA half, which registers itself with the rest.
fn load_cuda() -> Result<(), String> {
    let folder = libtorch_folder();
    for library in ["libc10_cuda.so", "libtorch_cuda.so"] {
        // Beside libtorch_cpu; else wherever the loader looks.
        let beside = folder.as_ref().map(|folder| folder.join(library)).filter(|path| path.exists());
        let name = beside.map_or_else(|| library.into(), |path| path.into_os_string().into_vec());
        let name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the library's initialisers only register operators and devices.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: dlerror gives a NUL-terminated text or null.
            let reason = unsafe {
                let text = libc::dlerror();
                if text.is_null() { "unknown reason".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
            };
            return Err(format!("`{library}` cannot be loaded: {reason}"));
        }
    }
    Ok(())
}

/// Whether CUDA can be used, which is found out once: libtorch, too, remembers its first answer. That is the wrong one for the
/// rest of the process where a convolution or a backward pass on the CPU asks before the CUDA half is loaded, so this has to come
/// before any of them. It looks for a driver first, so that a machine without a GPU never loads the large library.
pub fn cuda_status() -> CudaStatus {
    static STATUS: OnceLock<CudaStatus> = OnceLock::new();
    STATUS.get_or_init(find_out).clone()
}

fn find_out() -> CudaStatus {
    // SAFETY: opening the driver's library has no effect but to load it.
    let driver = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY) };
    if driver.is_null() {
        return unavailable("no NVIDIA driver (`libcuda.so.1`) is installed");
    }
    if let Err(reason) = load_cuda() {
        return CudaStatus::Unavailable(
            Diagnostic::invalid(reason).hint("install the CUDA build of torch in the place of this one, in the same version"),
        );
    }
    let (count, warnings) = with_warnings(Cuda::device_count);
    match (usize::try_from(count).unwrap_or(0), warnings.as_deref().and_then(|text| text.lines().next())) {
        (0, None) => unavailable("the NVIDIA driver reports no device; `nvidia-smi` says why"),
        (0, Some(reason)) => unavailable(&format!("the NVIDIA driver reports no device: {reason}")),
        (count, _) => CudaStatus::Available(count),
    }
}

fn unavailable(reason: &str) -> CudaStatus {
    CudaStatus::Unavailable(Diagnostic::invalid(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_where_it_was_loaded_from() {
        let folder = libtorch_folder().expect("the loader tells");
        assert!(folder.join("libtorch_cpu.so").is_file(), "{}", folder.display());
    }
}
