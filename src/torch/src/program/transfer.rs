//! What goes to a device, and what comes back from it. A GPU copies from and to memory of the host that does not move, while the
//! host goes on; libtorch keeps such memory for the next copies.

use std::ffi::{CString, c_char};

use tch::{Device, Kind, TchError, Tensor, kind::Element};

use super::{
    Program,
    counts::count_wait,
    dispatch::{empty_on_host, take_text},
    plan::device_name,
};
use camflow_media::{InputPixels, Normalization};

#[repr(C)]
struct RawEvent {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn cf_record_event(device: *const c_char, error: *mut *mut c_char) -> *mut RawEvent;
    fn cf_wait_for_event(event: *mut RawEvent, error: *mut *mut c_char) -> i32;
    fn cf_free_event(event: *mut RawEvent);
}

/// Brings images to a device, and makes a model's input of them there.
#[derive(Debug)]
pub(crate) struct Uploader {
    device: Device,
    /// Of the images.
    pub(crate) channels: i64,
    /// What levels are divided by, mean and deviation: f32 `[1, C, 1, 1]`, as libtorch multiplies by the inverse of a number.
    constants: [Tensor; 3],
}

impl Uploader {
    /// For the images that a model takes.
    ///
    /// # Errors
    /// No memory is left.
    pub(crate) fn new(device: Device, program: &Program) -> Result<Self, TchError> {
        let channels = program.metadata.image_channels().unwrap_or(3);
        Uploader::of(device, channels, &program.metadata.preprocess.normalization())
    }

    fn of(device: Device, channels: i64, normalization: &Normalization) -> Result<Self, TchError> {
        let Normalization { divide_by, mean, std } = normalization;
        let constant = |values: &[f32]| send(values, &[1, values.len() as i64, 1, 1], device);
        let divisors = vec![*divide_by; mean.len()];
        Ok(Uploader { device, channels, constants: [constant(&divisors)?, constant(mean)?, constant(std)?] })
    }

    /// The input f32 `[N, C, height, width]` of images of that size, on the device. Levels are normalised there, to the bit as
    /// [`InputPixels::to_floats`] does it.
    ///
    /// # Errors
    /// No memory is left.
    ///
    /// # Panics
    /// An image has not as many pixels as that, or one has levels and another one floats.
    pub(crate) fn upload(&self, images: &[&InputPixels], (height, width): (usize, usize)) -> Result<Tensor, TchError> {
        let (count, channels, height, width) = (images.len() as i64, self.channels, height as i64, width as i64);
        let Some(InputPixels::Levels(_)) = images.first() else {
            let floats = images.iter().map(|image| match image {
                InputPixels::Floats(floats) => &floats[..],
                InputPixels::Levels(_) => panic!("levels among floats: this is a bug"),
            });
            return send_parts(floats, &[count, channels, height, width], self.device);
        };
        let levels = images.iter().map(|image| match image {
            InputPixels::Levels(levels) => &levels[..],
            InputPixels::Floats(_) => panic!("floats among levels: this is a bug"),
        });
        let levels = send_parts(levels, &[count, height, width, channels], self.device)?;
        let [divisors, mean, std] = &self.constants;
        let mut input = levels.f_permute([0, 3, 1, 2])?.f_contiguous()?.f_to_kind(Kind::Float)?;
        input.f_div_(divisors)?.f_sub_(mean)?.f_div_(std)
    }
}

/// Sends elements to a device, as a tensor of that size: the host does not wait until they are there.
///
/// # Errors
/// No memory is left.
///
/// # Panics
/// There are not as many elements as that.
pub(crate) fn send<T: Element + Copy>(elements: &[T], size: &[i64], device: Device) -> Result<Tensor, TchError> {
    send_parts(std::iter::once(elements), size, device)
}

/// As [`send`], of parts that lie one after the other.
fn send_parts<'a, T: Element + Copy + 'a>(
    parts: impl Iterator<Item = &'a [T]>,
    size: &[i64],
    device: Device,
) -> Result<Tensor, TchError> {
    let mut on_host = Tensor::f_empty(size, (T::KIND, Device::Cpu))?;
    if device.is_cuda() {
        on_host = empty_on_host(&on_host, true)?;
    }
    let mut left = on_host.numel();
    let mut place = on_host.data_ptr().cast::<T>();
    for part in parts {
        assert!(part.len() <= left, "elements for a tensor of {size:?}");
        // SAFETY: the tensor has place for `left` more elements, and nobody else has it yet.
        unsafe {
            std::ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
            place = place.add(part.len());
        }
        left -= part.len();
    }
    assert_eq!(left, 0, "elements for a tensor of {size:?}");
    if device.is_cuda() { on_host.f_to_device_(device, T::KIND, true, false) } else { Ok(on_host) }
}

/// A tensor on its way to the host.
#[derive(Debug)]
pub(crate) struct HostCopy {
    tensor: Tensor,
    /// When it is there; `None` where it was.
    arrival: Option<Event>,
}

impl HostCopy {
    /// Has the device copy it, when it has done what it was given before.
    ///
    /// # Errors
    /// No memory is left.
    pub(crate) fn start(tensor: &Tensor) -> Result<Self, TchError> {
        let (tensor, device) = (tensor.f_contiguous()?, tensor.device());
        if !device.is_cuda() {
            return Ok(HostCopy { tensor, arrival: None });
        }
        let tensor = tensor.f_to_device_(Device::Cpu, tensor.kind(), true, false)?;
        Ok(HostCopy { tensor, arrival: Some(Event::record(device)?) })
    }

    /// Waits for it, and has somebody look at its elements, row by row.
    ///
    /// # Errors
    /// The device failed, or the tensor is of another type.
    pub(crate) fn read<T: Element, R>(self, read: impl FnOnce(&[T]) -> R) -> Result<R, TchError> {
        let HostCopy { tensor, arrival } = self;
        if tensor.kind() != T::KIND {
            return Err(TchError::Kind(format!("{:?} where {:?} is wanted", tensor.kind(), T::KIND)));
        }
        count_wait();
        arrival.map_or(Ok(()), |arrival| arrival.wait())?;
        if tensor.numel() == 0 {
            return Ok(read(&[]));
        }
        // SAFETY: so many elements of that type, one behind the other, which live as long as `tensor`.
        Ok(read(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<T>(), tensor.numel()) }))
    }
}

/// The elements of a tensor of that type, row by row, in host memory: the host waits until they are computed.
///
/// # Errors
/// libtorch fails, or the tensor is of another type.
pub fn to_host<T: Element + Copy>(tensor: &Tensor) -> Result<Vec<T>, TchError> {
    HostCopy::start(tensor)?.read(|values: &[T]| values.to_vec())
}

/// A point in the work of a GPU.
#[derive(Debug)]
struct Event(*mut RawEvent);

// SAFETY: it may be waited for and freed from any thread.
unsafe impl Send for Event {}

impl Event {
    fn record(device: Device) -> Result<Self, TchError> {
        let name = CString::new(device_name(device)).unwrap_or_default();
        let mut error = std::ptr::null_mut();
        // SAFETY: the string ends in a zero; the event is freed once.
        let event = unsafe { cf_record_event(name.as_ptr(), &raw mut error) };
        if event.is_null() { Err(TchError::Torch(take_text(error).unwrap_or_default())) } else { Ok(Event(event)) }
    }

    fn wait(&self) -> Result<(), TchError> {
        let mut error = std::ptr::null_mut();
        // SAFETY: recorded above and not freed yet.
        match unsafe { cf_wait_for_event(self.0, &raw mut error) } {
            0 => Ok(()),
            _ => Err(TchError::Torch(take_text(error).unwrap_or_default())),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: recorded once, freed once.
        unsafe { cf_free_event(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_come_row_by_row() {
        let tensor = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]).transpose(0, 1);
        assert_eq!(to_host::<f32>(&tensor).expect("copied"), [1.0, 3.0, 2.0, 4.0]);
        assert!(to_host::<i64>(&tensor).is_err());
        assert!(to_host::<f32>(&tensor.narrow(0, 0, 0)).expect("copied").is_empty());
    }

    /// Every level of channels with numbers of their own, to the bit.
    #[test]
    fn levels_become_the_floats_that_the_host_makes_of_them() {
        for normalization in [
            Normalization { divide_by: 255.0, mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] },
            Normalization { divide_by: 255.0, mean: vec![0.5], std: vec![0.25] },
            Normalization { divide_by: 1.0, mean: vec![103.53, 116.28, 123.675], std: vec![1.0, 57.375, 3.7] },
        ] {
            let channels = normalization.mean.len();
            let images: Vec<InputPixels> = (0..2)
                .map(|image| InputPixels::Levels((0..256 * channels).map(|i| (i * 7 + image * 31) as u8).collect()))
                .collect();
            let uploader = Uploader::of(Device::Cpu, channels as i64, &normalization).expect("small");
            let input = uploader.upload(&images.iter().collect::<Vec<_>>(), (16, 16)).expect("uploaded");
            assert_eq!(input.size(), [2, channels as i64, 16, 16]);
            let wanted: Vec<f32> = images.iter().flat_map(|image| image.to_floats(&normalization)).collect();
            assert_eq!(to_host::<f32>(&input).expect("copied"), wanted);
        }
    }

    #[test]
    fn floats_stay_as_they_are() {
        let normalization = Normalization { divide_by: 1.0, mean: vec![0.0; 2], std: vec![1.0; 2] };
        let uploader = Uploader::of(Device::Cpu, 2, &normalization).expect("small");
        let images = [InputPixels::Floats(vec![1.0, 2.0, 3.0, 4.0]), InputPixels::Floats(vec![5.0, 6.0, 7.0, 8.0])];
        let input = uploader.upload(&images.iter().collect::<Vec<_>>(), (1, 2)).expect("uploaded");
        assert_eq!(input.size(), [2, 2, 1, 2]);
        assert_eq!(to_host::<f32>(&input).expect("copied"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }
}
