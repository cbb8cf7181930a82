//! Which sizes of its input a model takes: asked when it has failed at one, for the message.

use tch::{Kind, Tensor};

use crate::program::{Dynamic, InputInfo, Plan};

/// Numbers that networks want the sides of their input to be multiples of: those of halving, and of patches of 14 pixels. As in the
/// exporter.
const MULTIPLES: [usize; 9] = [2, 4, 7, 8, 14, 16, 28, 32, 64];

/// What is known of them.
pub(super) struct Sizes {
    /// Height and width, where the model was exported for these alone.
    only: Option<(usize, usize)>,
    /// Channels of the input.
    channels: i64,
    /// The least of [`MULTIPLES`] that does, if one does; `None` before anybody has asked.
    multiple: Option<Option<usize>>,
}

impl Sizes {
    /// As the exporter says.
    pub(super) fn of(input: &InputInfo) -> Self {
        let only = match (input.dynamic, &input.example[..]) {
            (Dynamic::Batch | Dynamic::None, [_, _, height, width]) => Some((*height as usize, *width as usize)),
            _ => None,
        };
        Sizes { only, channels: input.example.get(1).copied().unwrap_or(3), multiple: None }
    }

    /// What to say of a model that failed at this size.
    pub(super) fn said_of(&mut self, plan: &Plan, (height, width): (usize, usize)) -> String {
        let of_size = format!("its input was {height} x {width} pixels");
        match self.only {
            Some(only) if only == (height, width) => return of_size,
            Some((only_height, only_width)) => {
                return format!("{of_size}, and the model was exported for {only_height} x {only_width} alone");
            }
            None => {}
        }
        let multiple = *self.multiple.get_or_insert_with(|| least_multiple(plan, self.channels, (height, width)));
        match multiple {
            Some(of) if height % of != 0 || width % of != 0 => format!(
                "{of_size}, and the model takes multiples of {of}: export it again, which adds the step `pad_multiple` to its preprocessing, or resize the images"
            ),
            _ => of_size,
        }
    }
}

/// The least number of which odd multiples are a size that the model takes; near to this size.
fn least_multiple(plan: &Plan, channels: i64, (height, width): (usize, usize)) -> Option<usize> {
    let near = |side: usize, of: usize| ((side / of).max(2) | 1) * of;
    let takes = |of: &usize| {
        let size = [1, channels, near(height, *of) as i64, near(width, *of) as i64];
        Tensor::f_zeros(size, (Kind::Float, plan.device())).is_ok_and(|zeros| plan.forward(&zeros).is_ok())
    };
    MULTIPLES.into_iter().find(takes)
}
