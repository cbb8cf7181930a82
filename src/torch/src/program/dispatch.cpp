// A C interface to libtorch's dispatcher: find an operator by name and overload, call it boxed.
//
// Every ATen operator becomes available this way, with autograd, and without a table of signatures: arguments are matched to
// the operator's own schema, which also supplies the defaults. Which of them a model may have is said in operators.rs. Nothing may throw across this boundary.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "guarded.h"

extern "C" {

// Mirrored in dispatch.rs.
enum cf_tag : int32_t {
  CF_DEFAULT = 0,  // the schema's default
  CF_NONE = 1,
  CF_TENSOR = 2,   // data: at::Tensor*
  CF_TENSORS = 3,  // data: at::Tensor**, len; a null pointer is None
  CF_INT = 4,      // also dtype, layout and memory format
  CF_FLOAT = 5,
  CF_BOOL = 6,
  CF_STRING = 7,  // data: UTF-8, len
  CF_INTS = 8,    // data: int64_t*, len
  CF_FLOATS = 9,  // data: double*, len
  CF_BOOLS = 10,  // data: uint8_t*, len
  CF_DEVICE = 11, // data: UTF-8 such as "cuda:0", len
};

struct cf_value {
  int32_t tag;
  int64_t i;
  double f;
  const void* data;
  size_t len;
};

struct cf_operator {
  c10::OperatorHandle handle;
};
}

namespace {

[[noreturn]] void mismatch(const c10::Argument& argument, const cf_value& value) {
  TORCH_CHECK(false, "argument `", argument.name(), "` of type ", argument.type()->str(), " cannot take a value of kind ", value.tag);
}

int64_t as_int(const c10::Argument& argument, const cf_value& value) {
  if (value.tag == CF_INT || value.tag == CF_BOOL) return value.i;
  if (value.tag == CF_FLOAT && static_cast<double>(static_cast<int64_t>(value.f)) == value.f) return static_cast<int64_t>(value.f);
  mismatch(argument, value);
}

double as_float(const c10::Argument& argument, const cf_value& value) {
  if (value.tag == CF_FLOAT) return value.f;
  if (value.tag == CF_INT || value.tag == CF_BOOL) return static_cast<double>(value.i);
  mismatch(argument, value);
}

c10::Scalar as_scalar(const c10::Argument& argument, const cf_value& value) {
  switch (value.tag) {
    case CF_INT: return c10::Scalar(value.i);
    case CF_FLOAT: return c10::Scalar(value.f);
    case CF_BOOL: return c10::Scalar(value.i != 0);
    default: mismatch(argument, value);
  }
}

// Kernels read as many numbers as the schema says (`SymInt[6] padding`), and not all of them look how many there are.
void fit_length(const c10::Argument& argument, c10::List<int64_t>& list) {
  const size_t length = list.size();
  const int32_t wanted = argument.N().value_or(0);
  // `int[1] dim` means a number or a list of any length.
  const std::string& name = argument.name();
  const bool is_open = wanted == 0 || (wanted == 1 && (name == "dim" || name == "dims" || name == "shifts" || name == "s"));
  if (is_open || length == static_cast<size_t>(wanted)) return;
  if (length == 1) {
    const int64_t number = list.get(0);
    while (list.size() < static_cast<size_t>(wanted)) list.push_back(number);
    return;
  }
  // A stride that is left out is the kernel size.
  const bool may_be_empty = argument.default_value().has_value() && argument.default_value()->isIntList() && argument.default_value()->toIntVector().empty();
  TORCH_CHECK(length == 0 && may_be_empty, "argument `", name, "` takes ", wanted, " numbers, not ", length);
}

c10::IValue list_value(const c10::Argument& argument, const c10::ListType& type, const cf_value& value) {
  const c10::TypePtr& element = type.getElementType();
  const bool empty = (value.tag == CF_INTS || value.tag == CF_TENSORS || value.tag == CF_FLOATS || value.tag == CF_BOOLS) && value.len == 0;
  switch (element->kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: {
      c10::List<int64_t> list;
      if (value.tag == CF_INTS) {
        const auto* data = static_cast<const int64_t*>(value.data);
        for (size_t k = 0; k < value.len; ++k) list.push_back(data[k]);
        fit_length(argument, list);
      } else if (!empty) {
        // One number where the schema wants N (a kernel size, say) means N times that number, as in Python.
        const int64_t number = as_int(argument, value);
        for (int k = 0; k < argument.N().value_or(1); ++k) list.push_back(number);
      }
      return list;
    }
    case c10::TypeKind::FloatType: {
      c10::List<double> list;
      if (value.tag == CF_FLOATS) {
        const auto* data = static_cast<const double*>(value.data);
        for (size_t k = 0; k < value.len; ++k) list.push_back(data[k]);
      } else if (value.tag == CF_INTS) {
        const auto* data = static_cast<const int64_t*>(value.data);
        for (size_t k = 0; k < value.len; ++k) list.push_back(static_cast<double>(data[k]));
      } else if (!empty) {
        mismatch(argument, value);
      }
      return list;
    }
    case c10::TypeKind::BoolType: {
      c10::List<bool> list;
      if (value.tag == CF_BOOLS) {
        const auto* data = static_cast<const uint8_t*>(value.data);
        for (size_t k = 0; k < value.len; ++k) list.push_back(data[k] != 0);
      } else if (!empty) {
        mismatch(argument, value);
      }
      return list;
    }
    case c10::TypeKind::TensorType: {
      c10::List<at::Tensor> list;
      if (value.tag != CF_TENSORS && !empty) mismatch(argument, value);
      const auto* data = static_cast<at::Tensor* const*>(value.data);
      for (size_t k = 0; k < value.len; ++k) {
        TORCH_CHECK(data[k] != nullptr, "argument `", argument.name(), "` cannot hold None");
        list.push_back(*data[k]);
      }
      return list;
    }
    case c10::TypeKind::OptionalType: {
      c10::List<std::optional<at::Tensor>> list;
      if (value.tag != CF_TENSORS && !empty) mismatch(argument, value);
      const auto* data = static_cast<at::Tensor* const*>(value.data);
      for (size_t k = 0; k < value.len; ++k) {
        list.push_back(data[k] == nullptr ? std::nullopt : std::optional<at::Tensor>(*data[k]));
      }
      return list;
    }
    default: mismatch(argument, value);
  }
}

c10::IValue to_ivalue(const c10::Argument& argument, const cf_value& value) {
  if (value.tag == CF_DEFAULT) {
    TORCH_CHECK(argument.default_value().has_value(), "argument `", argument.name(), "` has no default and was not given");
    return *argument.default_value();
  }
  c10::TypePtr type = argument.type();
  if (type->kind() == c10::TypeKind::OptionalType) {
    if (value.tag == CF_NONE) return c10::IValue();
    type = type->castRaw<c10::OptionalType>()->getElementType();
  }
  switch (type->kind()) {
    case c10::TypeKind::TensorType:
      if (value.tag == CF_TENSOR) return *static_cast<const at::Tensor*>(value.data);
      if (value.tag == CF_INT || value.tag == CF_FLOAT || value.tag == CF_BOOL) {
        // As Python's binding does: a number given for a tensor does not take part in type promotion as a tensor would.
        at::Tensor number = at::scalar_to_tensor(as_scalar(argument, value));
        number.unsafeGetTensorImpl()->set_wrapped_number(true);
        return number;
      }
      if (value.tag == CF_NONE) return at::Tensor();
      mismatch(argument, value);
    case c10::TypeKind::NumberType: return as_scalar(argument, value);
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return as_int(argument, value);
    case c10::TypeKind::FloatType: return as_float(argument, value);
    case c10::TypeKind::BoolType: return as_int(argument, value) != 0;
    case c10::TypeKind::StringType:
      if (value.tag == CF_STRING) return std::string(static_cast<const char*>(value.data), value.len);
      mismatch(argument, value);
    case c10::TypeKind::DeviceObjType:
      if (value.tag == CF_DEVICE) return c10::Device(std::string(static_cast<const char*>(value.data), value.len));
      mismatch(argument, value);
    case c10::TypeKind::ListType: return list_value(argument, *type->castRaw<c10::ListType>(), value);
    default: mismatch(argument, value);
  }
}

cf_value from_ivalue(const c10::IValue& value) {
  cf_value result{CF_NONE, 0, 0.0, nullptr, 0};
  if (value.isTensor()) {
    result.tag = CF_TENSOR;
    result.data = new at::Tensor(value.toTensor());
  } else if (value.isTensorList()) {
    const auto list = value.toTensorVector();
    auto** tensors = static_cast<at::Tensor**>(std::malloc(sizeof(at::Tensor*) * (list.size() + 1)));
    TORCH_CHECK(tensors != nullptr, "out of memory");
    for (size_t k = 0; k < list.size(); ++k) tensors[k] = new at::Tensor(list[k]);
    result.tag = CF_TENSORS;
    result.data = tensors;
    result.len = list.size();
  } else if (value.isBool()) {
    result.tag = CF_BOOL;
    result.i = value.toBool() ? 1 : 0;
  } else if (value.isInt()) {
    result.tag = CF_INT;
    result.i = value.toInt();
  } else if (value.isDouble()) {
    result.tag = CF_FLOAT;
    result.f = value.toDouble();
  } else {
    TORCH_CHECK(value.isNone(), "a result of type ", value.type()->str(), " is not supported");
  }
  return result;
}

}  // namespace

extern "C" {

void cf_free(void* pointer) { std::free(pointer); }

// Null (with *error untouched) when there is no such operator.
cf_operator* cf_operator_find(const char* name, const char* overload, char** error) {
  cf_operator* found = nullptr;
  guarded(error, [&] {
    auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
    if (handle.has_value()) found = new cf_operator{*handle};
  });
  return found;
}

size_t cf_operator_num_arguments(const cf_operator* op) { return op->handle.schema().arguments().size(); }

size_t cf_operator_num_returns(const cf_operator* op) { return op->handle.schema().returns().size(); }

// Valid as long as libtorch is loaded.
const char* cf_operator_argument_name(const cf_operator* op, size_t k) { return op->handle.schema().arguments()[k].name().c_str(); }

bool cf_operator_argument_has_default(const cf_operator* op, size_t k) {
  return op->handle.schema().arguments()[k].default_value().has_value();
}

bool cf_operator_argument_is_device(const cf_operator* op, size_t k) {
  c10::TypePtr type = op->handle.schema().arguments()[k].type();
  if (type->kind() == c10::TypeKind::OptionalType) type = type->castRaw<c10::OptionalType>()->getElementType();
  return type->kind() == c10::TypeKind::DeviceObjType;
}

// Whether the operator writes its result into this argument.
bool cf_operator_argument_is_out(const cf_operator* op, size_t k) { return op->handle.schema().arguments()[k].is_out(); }

// Calls with one value per schema argument. `results` must have room for cf_operator_num_returns values; the tensors in them
// belong to the caller, and so does the array of a CF_TENSORS (cf_free).
int cf_operator_call(const cf_operator* op, const cf_value* values, cf_value* results, char** error) {
  return guarded(error, [&] {
    const auto& arguments = op->handle.schema().arguments();
    torch::jit::Stack stack;
    stack.reserve(arguments.size());
    for (size_t k = 0; k < arguments.size(); ++k) stack.push_back(to_ivalue(arguments[k], values[k]));
    op->handle.callBoxed(&stack);
    TORCH_CHECK(stack.size() == op->handle.schema().returns().size(), "unexpected number of results");
    for (size_t k = 0; k < stack.size(); ++k) results[k] = from_ivalue(stack[k]);
  });
}

// Begins or ends, on this thread, a part in which operators that bfloat16 is good enough for run in it, as torch.autocast does.
void cf_autocast_bf16(const char* device, int enable) {
  char* ignored = nullptr;
  guarded(&ignored, [&] {
    const auto type = c10::Device(device).type();
    if (enable != 0) {
      at::autocast::set_autocast_dtype(type, at::kBFloat16);
      at::autocast::increment_nesting();
    } else if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_enabled(type, enable != 0);
  });
  std::free(ignored);
}
}
