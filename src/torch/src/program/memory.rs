//! How much memory a run takes, and how much there is: what a batch size is chosen by.

use std::ffi::{CString, c_char};

use super::dispatch::take_text;

#[repr(C)]
struct RawMeter {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn cf_meter_start(device: *const c_char, error: *mut *mut c_char) -> *mut RawMeter;
    fn cf_meter_stop(meter: *mut RawMeter, peak: *mut i64, allocated: *mut i64);
    fn cf_device_free_bytes(device: *const c_char, bytes: *mut i64, error: *mut *mut c_char) -> i32;
}

/// Runs `work` and measures the most bytes of tensors that it had in use at once on devices of this one's type (`cpu`, `cuda:0`).
/// `None` where libtorch cannot tell.
pub fn peak_bytes<T>(device: &str, work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let (result, bytes) = metered(device, work);
    (result, bytes.map(|bytes| bytes.peak))
}

/// Bytes of tensors that a piece of work took.
pub(super) struct MeteredBytes {
    /// The most that were in use at once.
    peak: u64,
    /// All of them, whether they were given back or not.
    pub(super) allocated: u64,
}

/// As [`peak_bytes`], with all that was allocated.
pub(super) fn metered<T>(device: &str, work: impl FnOnce() -> T) -> (T, Option<MeteredBytes>) {
    let device = CString::new(device).unwrap_or_default();
    let mut error = std::ptr::null_mut();
    // SAFETY: the string ends in a zero; the meter is stopped below, on this thread.
    let meter = unsafe { cf_meter_start(device.as_ptr(), &raw mut error) };
    let result = work();
    if meter.is_null() {
        let _ = take_text(error);
        return (result, None);
    }
    let (mut peak, mut allocated) = (0, 0);
    // SAFETY: it was started above and is stopped once; the others are places to write to.
    unsafe { cf_meter_stop(meter, &raw mut peak, &raw mut allocated) };
    let bytes = u64::try_from(peak).ok().zip(u64::try_from(allocated).ok());
    (result, bytes.map(|(peak, allocated)| MeteredBytes { peak, allocated }))
}

/// Bytes that a run may still take: of the machine's memory (or of what its container allows) for `cpu`, else of the device's
/// own. `None` where the system does not say.
pub fn free_bytes(device: &str) -> Option<u64> {
    if device == "cpu" {
        return free_host_bytes();
    }
    let device = CString::new(device).ok()?;
    let (mut bytes, mut error) = (0, std::ptr::null_mut());
    // SAFETY: the string ends in a zero, the others are places to write to.
    let status = unsafe { cf_device_free_bytes(device.as_ptr(), &raw mut bytes, &raw mut error) };
    if status != 0 {
        let _ = take_text(error);
        return None;
    }
    u64::try_from(bytes).ok()
}

/// How libtorch and the libraries under it say that memory ran out, where they have no exception of its own for it.
const OUT_OF_MEMORY_TEXTS: [&str; 10] = [
    // c10's allocators for GPUs, and the CUDA runtime.
    "out of memory",
    // c10's allocator for the CPU.
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    // CUBLAS_STATUS_, CUDNN_STATUS_, CUFFT_, CUSOLVER_STATUS_ and CUSPARSE_STATUS_.
    "ALLOC_FAILED",
    // CUDNN_STATUS_INTERNAL_ERROR_HOST_ and _DEVICE_.
    "ALLOCATION_FAILED",
    // What making a handle ends with when there is no memory for it.
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    // cuDNN passes over engines whose workspace is not to be had; this is what is said when none is left.
    "unable to find an engine to execute this computation",
];

/// Whether an error's text says that memory ran out.
pub(super) fn says_out_of_memory(message: &str) -> bool {
    OUT_OF_MEMORY_TEXTS.iter().any(|text| message.contains(text))
}

/// Lets the process keep the memory that tensors gave back, for the next ones. glibc otherwise returns each large one to the
/// system, which hands it out again page by page, cleared: a sixth of the time of a ResNet-50 on two cores. What is kept is the
/// most that was in use at once. To be called before threads are started; elsewhere than on glibc it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Freed memory at the end of the heap stays, large tensors come from the heap, and all threads share one heap: only the
        // first one may grow beyond 64 MiB.
        const SETTINGS: [(i32, i32); 3] =
            [(libc::M_TRIM_THRESHOLD, -1), (libc::M_MMAP_THRESHOLD, i32::MAX), (libc::M_ARENA_MAX, 1)];
        for (parameter, value) in SETTINGS {
            // SAFETY: sets parameters of malloc, which it checks itself.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}

/// The most bytes that this process could get, with all that the system keeps of files in memory given up for it. (Of a container
/// [`free_bytes`] counts that as used.) `None` where the system does not say.
pub(super) fn obtainable_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let available = Some(system.available_memory()).filter(|bytes| *bytes > 0)?;
    let in_container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(available.min(in_container))
}

fn free_host_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let available = Some(system.available_memory()).filter(|bytes| *bytes > 0)?;
    let in_container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    Some(available.min(in_container))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_lives_at_once() {
        let megabyte = || tch::Tensor::zeros([1 << 18], (tch::Kind::Float, tch::Device::Cpu));
        let ((), one_by_one) = peak_bytes("cpu", || (0..4).for_each(|_| drop(megabyte())));
        let (_kept, together) = peak_bytes("cpu", || (0..4).map(|_| megabyte()).collect::<Vec<_>>());
        let (one_by_one, together) = (one_by_one.expect("measured"), together.expect("measured"));
        assert!((1 << 20..2 << 20).contains(&one_by_one), "{one_by_one}");
        assert!((4 << 20..5 << 20).contains(&together), "{together}");
    }

    #[test]
    fn all_texts_that_say_so_are_known() {
        let told = [
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.12 GiB is free.",
            "CUDA error: out of memory",
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate \
             4398046511104 bytes. Error code 12 (Cannot allocate memory)",
            "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes.",
            "std::bad_alloc",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
            "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
            "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
            "cuFFT error: CUFFT_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "GET was unable to find an engine to execute this computation",
            "FIND was unable to find an engine to execute this computation",
        ];
        told.iter().for_each(|text| assert!(says_out_of_memory(text), "{text}"));
        let others = [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: device-side assert triggered",
            "cuDNN error: CUDNN_STATUS_BAD_PARAM",
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
            "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)",
        ];
        others.iter().for_each(|text| assert!(!says_out_of_memory(text), "{text}"));
    }

    #[test]
    fn the_cpu_says_so_when_it_has_none() {
        let error = tch::Tensor::f_empty([1 << 50], (tch::Kind::Double, tch::Device::Cpu)).expect_err("8 PiB");
        assert!(says_out_of_memory(&error.to_string()), "{error}");
    }

    #[test]
    fn the_machine_has_memory() {
        assert!(free_bytes("cpu").expect("known here") > 1 << 20);
        assert_eq!(free_bytes("no such device"), None);
    }
}
