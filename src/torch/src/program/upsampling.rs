//! Upsampling whose gradient is made of matrix products (`upsampling.cpp`), for GPUs.

use std::ffi::c_char;

use super::dispatch::OwnOperators;

unsafe extern "C" {
    fn cf_define_upsampling(error: *mut *mut c_char) -> i32;
}

static OPERATORS: OwnOperators = OwnOperators::new(cf_define_upsampling);

/// The operator that gives what one of libtorch's gives, with a gradient made of matrix products; `None` where there is none.
pub(super) fn by_products(operator: &str) -> Option<&'static str> {
    let twin = match operator {
        "aten::upsample_bilinear2d" => "camflow::upsample_bilinear2d",
        "aten::upsample_bicubic2d" => "camflow::upsample_bicubic2d",
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

    /// Upsamples, and differentiates the sum of products with something: the output, the gradient, and that of the gradient's
    /// squares with respect to the factors.
    fn differentiated(name: &str, overload: &str, input: &Tensor, rest: &[Input<'_>]) -> [Tensor; 3] {
        let operator = Operator::find(name, overload).expect(name);
        let input = input.set_requires_grad(true);
        let inputs: Vec<Input<'_>> = [Input::Tensor(&input)].into_iter().chain(rest.iter().copied()).collect();
        let Some(Output::Tensor(output)) = operator.call(&inputs).expect(name).pop() else { panic!("{name} gives no tensor") };
        // The same each time, whatever other tests draw meanwhile.
        let places = Tensor::arange(output.numel() as i64, (Kind::Double, Device::Cpu));
        let factors = (places * 0.7).sin().to_kind(output.kind()).view_as(&output).set_requires_grad(true);
        let gradient = gradients(&(&output * &factors).f_sum(None::<Kind>).expect("a sum"), &[input], true, true)
            .expect("a gradient")
            .remove(0);
        let second = gradients(&gradient.square().f_sum(None::<Kind>).expect("a sum"), &[factors], false, false)
            .expect("a second one")
            .remove(0);
        [output.detach(), gradient.detach(), second]
    }

    #[test]
    fn it_is_that_of_libtorch_with_its_gradients() {
        tch::manual_seed(3);
        // In fp64, so that what is left is no rounding of sums that nearly vanish.
        let of = |size: [i64; 4]| Tensor::randn(size, (Kind::Double, Device::Cpu));
        let last = Tensor::randn([2, 9, 11, 3], (Kind::Double, Device::Cpu)).permute([0, 3, 1, 2]);
        // Larger, smaller, one pixel, the same height, channels-last.
        let inputs = [of([2, 3, 5, 7]), of([1, 2, 40, 30]), of([3, 2, 1, 1]), of([1, 1, 20, 12]), last];
        let (size, factors) = ([20i64, 24], [2.5, 1.7]);
        for (number, input) in inputs.iter().enumerate() {
            let (_, _, height, width) = input.size4().expect("four dimensions");
            // Not those that the sizes have.
            let scales = [20.4 / height as f64, 24.7 / width as f64].map(Input::Float);
            for (mode, corners) in [("bilinear", false), ("bilinear", true), ("bicubic", false), ("bicubic", true)] {
                let corners = Input::Bool(corners);
                let ways: [(&str, &[Input<'_>]); 4] = [
                    ("", &[Input::Ints(&size), corners, Input::Default, Input::Default]),
                    ("", &[Input::Ints(&size), corners, scales[0], scales[1]]),
                    ("vec", &[Input::Ints(&size), corners, Input::None]),
                    ("vec", &[Input::None, corners, Input::Floats(&factors)]),
                ];
                for (overload, rest) in ways {
                    let name = format!("aten::upsample_{mode}2d");
                    let twin = by_products(&name).expect("defined");
                    let wanted = differentiated(&name, overload, &input.detach(), rest);
                    let found = differentiated(twin, overload, &input.detach(), rest);
                    for (order, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                        assert_eq!((wanted.size(), wanted.kind()), (found.size(), found.kind()));
                        let furthest = (wanted - found).abs().max().double_value(&[]);
                        let scale = wanted.abs().max().double_value(&[]).max(1.0);
                        assert!(furthest < 1e-12 * scale, "{twin}.{overload} of {number}, {order}: {furthest}");
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_have_the_type_and_the_layout_of_what_was_upsampled() {
        let input = Tensor::randn([2, 9, 11, 3], (Kind::BFloat16, Device::Cpu)).permute([0, 3, 1, 2]);
        let size = [20, 24];
        let twin = by_products("aten::upsample_bilinear2d").expect("defined");
        let [output, gradient, _] =
            differentiated(twin, "vec", &input.detach(), &[Input::Ints(&size), Input::Bool(false), Input::None]);
        assert_eq!((output.kind(), gradient.kind()), (Kind::BFloat16, Kind::BFloat16));
        assert_eq!((gradient.size(), gradient.stride()), (input.size(), input.stride()));
        assert_eq!(by_products("aten::upsample_nearest2d"), None);
    }
}
