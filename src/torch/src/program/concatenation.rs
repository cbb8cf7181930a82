//! Concatenation that takes no zeros back (`concatenation.cpp`), for detectors on the CPU: a GPU would have to wait to know them.

use std::ffi::c_char;

use super::dispatch::OwnOperators;

unsafe extern "C" {
    fn cf_define_concatenation(error: *mut *mut c_char) -> i32;
}

static OPERATORS: OwnOperators = OwnOperators::new(cf_define_concatenation);

/// The operator that gives what one of libtorch's gives, and passes no gradient on to parts where it is zero everywhere; `None` where
/// there is none.
pub(super) fn without_zeros(operator: &str) -> Option<&'static str> {
    if operator != "aten::cat" {
        return None;
    }
    OPERATORS.are_defined().then_some("camflow::cat")
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::program::{
        dispatch::{Input, Operator, Output},
        gradients,
    };

    fn concatenated(parts: &[&Tensor], axis: i64) -> Tensor {
        let operator = Operator::find(without_zeros("aten::cat").expect("defined"), "").expect("found");
        let pointers: Vec<_> = parts.iter().map(|part| part.as_ptr()).collect();
        match operator.call(&[Input::Tensors(&pointers), Input::Int(axis)]).expect("concatenated").pop() {
            Some(Output::Tensor(whole)) => whole,
            _ => panic!("no tensor"),
        }
    }

    /// Leaves of three lengths along the last axis, the second of another type.
    fn leaves() -> [Tensor; 3] {
        [(2, Kind::Double), (3, Kind::Float), (4, Kind::Double)].map(|(length, kind)| {
            Tensor::arange(2 * length, (Kind::Double, Device::Cpu)).view([2, length]).to_kind(kind).set_requires_grad(true)
        })
    }

    #[test]
    fn it_is_that_of_libtorch_with_its_gradients() {
        let parts = leaves();
        let parts = parts.each_ref();
        for axis in [1, -1] {
            let (wanted, found) = (Tensor::cat(&parts, axis), concatenated(&parts, axis));
            assert_eq!((wanted.size(), wanted.kind()), (found.size(), found.kind()));
            assert!(wanted.equal(&found));
            let of = |whole: &Tensor| {
                gradients(&whole.square().sum(None), &parts.map(Tensor::shallow_clone), false, false).expect("gradients")
            };
            for (wanted, found) in of(&wanted).iter().zip(of(&found)) {
                assert_eq!((wanted.size(), wanted.kind()), (found.size(), found.kind()));
                assert!(wanted.equal(&found));
            }
        }
    }

    #[test]
    fn zeros_are_not_taken_back() {
        let parts = leaves();
        let parts = parts.each_ref();
        // Behind the parts, so that there is something to take them back through.
        let doubled = parts.map(|part| part * 2);
        let whole = concatenated(&doubled.each_ref(), 1);
        let score = whole.select(1, 5).sum(None);
        let found = gradients(&score, &parts.map(Tensor::shallow_clone), true, false).expect("gradients");
        assert_eq!(found.iter().map(Tensor::defined).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(found[2].select(1, 0).double_value(&[1]), 2.0);
        // A number that is none counts as one that is not zero.
        let score = (whole.select(1, 0) * f64::NAN).sum(None);
        let found = gradients(&score, &parts.map(Tensor::shallow_clone), false, false).expect("gradients");
        assert_eq!(found.iter().map(Tensor::defined).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn second_derivatives_keep_them() {
        let [first, second] =
            [1.0, 0.0].map(|value| Tensor::full([2, 1], value, (Kind::Double, Device::Cpu)).set_requires_grad(true));
        let whole = concatenated(&[&first, &second], 1);
        // The gradient of the first part is the second one, which is zero, but has a derivative.
        let score = (whole.narrow(1, 0, 1) * whole.narrow(1, 1, 1)).sum(None);
        let of_first = gradients(&score, &[first], true, true).expect("gradients").remove(0);
        assert_eq!(of_first.double_value(&[0, 0]), 0.0);
        let of_both = gradients(&of_first.sum(None), &[second], false, false).expect("gradients").remove(0);
        assert_eq!([of_both.double_value(&[0, 0]), of_both.double_value(&[1, 0])], [1.0, 1.0]);
    }
}
