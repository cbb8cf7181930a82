//! Normalisations whose gradients are right for a single sample, too (`normalization.cpp`), on CPUs.

use std::ffi::c_char;

use super::dispatch::OwnOperators;

unsafe extern "C" {
    fn cf_define_normalization(error: *mut *mut c_char) -> i32;
}

static OPERATORS: OwnOperators = OwnOperators::new(cf_define_normalization);

/// The operator that gives what one of libtorch's gives, and gradients that do not depend on a stride without a meaning; `None` where
/// there is none.
pub(super) fn of_any_stride(operator: &str) -> Option<&'static str> {
    let twin = match operator {
        "aten::batch_norm" => "camflow::batch_norm",
        "aten::instance_norm" => "camflow::instance_norm",
        "aten::native_batch_norm" => "camflow::native_batch_norm",
        "aten::_native_batch_norm_legit_no_training" => "camflow::_native_batch_norm_legit_no_training",
        _ => return None,
    };
    OPERATORS.are_defined().then_some(twin)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::program::{
        dispatch::{Input, Operator, Output},
        gradients,
    };

    const CHANNELS: i64 = 6;

    /// The numbers of a map `[1, C, 4, 5]` in some order of memory: rows, channels last, and as tokens that were made of it.
    fn orders(map: &Tensor) -> [Tensor; 3] {
        let last = map.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let tokens = map.flatten(2, 3).transpose(1, 2).contiguous();
        [map.shallow_clone(), last, tokens.transpose(1, 2).view([1, CHANNELS, 4, 5])]
    }

    #[test]
    fn gradients_of_one_sample_do_not_depend_on_its_order() {
        tch::manual_seed(7);
        let random = |size: &[i64]| Tensor::rand(size, (Kind::Float, Device::Cpu)) + 0.5;
        let of_channels: Vec<Tensor> = (0..4).map(|_| random(&[CHANNELS])).collect();
        let (map, gradient) = (random(&[1, CHANNELS, 4, 5]), random(&[1, CHANNELS, 4, 5]));
        let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|index| Input::Tensor(&of_channels[index]));
        let settings = [Input::Float(0.1), Input::Float(1e-3)];
        let names = ["batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"];
        for name in names {
            let twin = of_any_stride(&format!("aten::{name}")).expect("a twin");
            let flag: &[Input<'_>] = if name.ends_with("training") { &[] } else { &[Input::Bool(name == "instance_norm")] };
            let last: &[Input<'_>] = if name.contains("native") { &[] } else { &[Input::Bool(false)] };
            let call = |operator: &str, map: &Tensor| {
                let operator = Operator::find(operator, "").expect("found");
                let inputs = [&[Input::Tensor(map), weight, bias, mean, variance], flag, &settings, last].concat();
                match operator.call(&inputs).expect("normalised").swap_remove(0) {
                    Output::Tensor(tensor) => tensor,
                    _ => panic!("no tensor"),
                }
            };
            // In rows libtorch is right.
            let of = |operator: &str, map: &Tensor, gradient: &Tensor| {
                let map = map.detach().set_requires_grad(true);
                let score = (call(operator, &map) * gradient).sum(None);
                gradients(&score, &[map], false, false).expect("gradients").remove(0)
            };
            let wanted = of(&format!("aten::{name}"), &map, &gradient);
            for map in orders(&map) {
                assert!((call(twin, &map) - call(&format!("aten::{name}"), &map)).abs().max().double_value(&[]) < 1e-6, "{name}");
                for gradient in orders(&gradient) {
                    let distance = (of(twin, &map, &gradient) - &wanted).abs().max().double_value(&[]);
                    assert!(distance < 1e-5, "{name}: {distance}, {:?} after {:?}", map.stride(), gradient.stride());
                }
            }
        }
    }
}
