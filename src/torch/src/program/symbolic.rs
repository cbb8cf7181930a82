//! Arithmetic on shapes: the few Python functions that appear in a graph beside tensor operators.

/// A number known only at run time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl Scalar {
    fn int(self) -> Option<i64> {
        match self {
            Scalar::Int(i) => Some(i),
            Scalar::Bool(b) => Some(i64::from(b)),
            Scalar::Float(_) => None,
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Scalar::Int(i) => i as f64,
            Scalar::Float(f) => f,
            Scalar::Bool(b) => f64::from(u8::from(b)),
        }
    }

    fn truth(self) -> bool {
        self.float() != 0.0
    }
}

/// One function of `operator`, `math` or `torch.sym_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SymbolicOp {
    Add,
    Sub,
    Mul,
    FloorDiv,
    TrueDiv,
    Mod,
    Pow,
    Neg,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Not,
    Max,
    Min,
    ToFloat,
    ToInt,
    Trunc,
    IfElse,
}

impl SymbolicOp {
    /// From a node's `target`.
    pub(super) fn from_target(target: &str) -> Option<Self> {
        Some(match target {
            "_operator.add" => Self::Add,
            "_operator.sub" => Self::Sub,
            "_operator.mul" => Self::Mul,
            "_operator.floordiv" => Self::FloorDiv,
            "_operator.truediv" => Self::TrueDiv,
            "_operator.mod" => Self::Mod,
            "_operator.pow" => Self::Pow,
            "_operator.neg" => Self::Neg,
            "_operator.eq" => Self::Eq,
            "_operator.ne" => Self::Ne,
            "_operator.lt" => Self::Lt,
            "_operator.le" => Self::Le,
            "_operator.gt" => Self::Gt,
            "_operator.ge" => Self::Ge,
            "_operator.and_" => Self::And,
            "_operator.or_" => Self::Or,
            "torch.sym_not" => Self::Not,
            "torch.sym_max" => Self::Max,
            "torch.sym_min" => Self::Min,
            "torch.sym_float" => Self::ToFloat,
            "torch.sym_int" => Self::ToInt,
            "math.trunc" => Self::Trunc,
            "torch.sym_ite" => Self::IfElse,
            _ => return None,
        })
    }

    /// The result by Python's rules; `None` where Python would raise (division by zero, overflow, too few arguments).
    pub(super) fn apply(self, args: &[Scalar]) -> Option<Scalar> {
        let a = *args.first()?;
        let b = args.get(1).copied();
        let ints = || Some((a.int()?, b?.int()?));
        let floats = || Some((a.float(), b?.float()));
        let arithmetic = |int: fn(i64, i64) -> Option<i64>, float: fn(f64, f64) -> f64| match ints() {
            Some((x, y)) => int(x, y).map(Scalar::Int),
            None => floats().map(|(x, y)| Scalar::Float(float(x, y))),
        };
        let compare = |holds: fn(&f64, &f64) -> bool, exact: fn(&i64, &i64) -> bool| match ints() {
            Some((x, y)) => Some(Scalar::Bool(exact(&x, &y))),
            None => floats().map(|(x, y)| Scalar::Bool(holds(&x, &y))),
        };
        match self {
            Self::Add => arithmetic(i64::checked_add, |x, y| x + y),
            Self::Sub => arithmetic(i64::checked_sub, |x, y| x - y),
            Self::Mul => arithmetic(i64::checked_mul, |x, y| x * y),
            // Python rounds towards minus infinity, Rust towards zero.
            Self::FloorDiv => arithmetic(
                |x, y| {
                    let quotient = x.checked_div(y)?;
                    Some(if x % y != 0 && (x < 0) != (y < 0) { quotient - 1 } else { quotient })
                },
                |x, y| (x / y).floor(),
            ),
            Self::Mod => arithmetic(
                |x, y| {
                    let rest = x.checked_rem(y)?;
                    Some(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest })
                },
                |x, y| x - y * (x / y).floor(),
            ),
            Self::TrueDiv => floats().filter(|(_, y)| *y != 0.0).map(|(x, y)| Scalar::Float(x / y)),
            Self::Pow => match ints() {
                Some((x, y)) if y >= 0 => x.checked_pow(u32::try_from(y).ok()?).map(Scalar::Int),
                _ => floats().map(|(x, y)| Scalar::Float(x.powf(y))),
            },
            Self::Neg => Some(match a.int() {
                Some(x) => Scalar::Int(x.checked_neg()?),
                None => Scalar::Float(-a.float()),
            }),
            Self::Eq => compare(f64::eq, i64::eq),
            Self::Ne => compare(f64::ne, i64::ne),
            Self::Lt => compare(f64::lt, i64::lt),
            Self::Le => compare(f64::le, i64::le),
            Self::Gt => compare(f64::gt, i64::gt),
            Self::Ge => compare(f64::ge, i64::ge),
            Self::And => Some(Scalar::Bool(a.truth() && b?.truth())),
            Self::Or => Some(Scalar::Bool(a.truth() || b?.truth())),
            Self::Not => Some(Scalar::Bool(!a.truth())),
            Self::Max => Some(if b?.float() > a.float() { b? } else { a }),
            Self::Min => Some(if b?.float() < a.float() { b? } else { a }),
            Self::ToFloat => Some(Scalar::Float(a.float())),
            Self::ToInt | Self::Trunc => Some(Scalar::Int(a.int().unwrap_or(a.float().trunc() as i64))),
            Self::IfElse => {
                let otherwise = args.get(2).copied();
                if a.truth() { b } else { otherwise }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(op: SymbolicOp, a: i64, b: i64) -> Option<Scalar> {
        op.apply(&[Scalar::Int(a), Scalar::Int(b)])
    }

    #[test]
    fn division_rounds_as_python_does() {
        for (a, b, quotient, rest) in [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1), (6, -2, -3, 0)] {
            assert_eq!(ints(SymbolicOp::FloorDiv, a, b), Some(Scalar::Int(quotient)), "{a} // {b}");
            assert_eq!(ints(SymbolicOp::Mod, a, b), Some(Scalar::Int(rest)), "{a} % {b}");
        }
        assert_eq!(ints(SymbolicOp::FloorDiv, 1, 0), None);
        assert_eq!(ints(SymbolicOp::TrueDiv, 1, 2), Some(Scalar::Float(0.5)));
    }

    #[test]
    fn overflow_is_no_result() {
        assert_eq!(ints(SymbolicOp::Add, i64::MAX, 1), None);
        assert_eq!(ints(SymbolicOp::Pow, 2, 63), None);
        assert_eq!(ints(SymbolicOp::FloorDiv, i64::MIN, -1), None);
    }
}
