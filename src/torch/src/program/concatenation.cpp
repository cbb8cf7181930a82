// Concatenation that passes no gradient on to a part whose gradient is zero everywhere. The score of one of a detector's predictions
// comes from one of the levels that the head concatenates: what is zero for the others would be taken back through all that they were
// made of, pass by pass, to be zero there, too.

#include <ATen/ATen.h>
#include <c10/core/WrapDimMinimal.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "guarded.h"

namespace {

// Whether `length` values are zero, each of them; one that is no number is not.
bool are_zero(const float* values, int64_t length) {
  // As long as a compiler may add at once, and short enough to end early.
  constexpr int64_t kStretch = 1024;
  for (int64_t start = 0; start < length; start += kStretch) {
    const int64_t end = std::min(start + kStretch, length);
    uint32_t any = 0;
    for (int64_t k = start; k < end; ++k) any |= static_cast<uint32_t>(values[k] != 0.0f);
    if (any != 0) return false;
  }
  return true;
}

// Whether a gradient is zero from `start` on along an axis, as far as `length`.
bool is_zero(const at::Tensor& gradient, int64_t axis, int64_t start, int64_t length) {
  if (gradient.scalar_type() != at::kFloat || !gradient.is_contiguous() || !gradient.is_cpu()) {
    return !gradient.narrow(axis, start, length).any().item<bool>();
  }
  // Row by row of what lies before the axis.
  const int64_t step = gradient.stride(axis), row = gradient.size(axis) * step;
  const float* const values = gradient.const_data_ptr<float>();
  for (int64_t first = 0; first < gradient.numel(); first += row) {
    if (!are_zero(values + first + start * step, length * step)) return false;
  }
  return true;
}

struct Concatenation : torch::autograd::Function<Concatenation> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, at::TensorList parts, int64_t axis) {
    const at::Tensor whole = at::cat(parts, axis);
    std::vector<int64_t> lengths, types;
    for (const at::Tensor& part : parts) {
      // One without a dimension and without an element counts as no part, whatever the others are.
      lengths.push_back(part.dim() == whole.dim() ? part.size(axis) : 0);
      types.push_back(static_cast<int64_t>(part.scalar_type()));
    }
    auto& saved = context->saved_data;
    saved["axis"] = axis;
    saved["lengths"] = lengths;
    saved["types"] = types;
    context->set_materialize_grads(false);
    return whole;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    auto& saved = context->saved_data;
    const auto lengths = saved["lengths"].toIntVector(), types = saved["types"].toIntVector();
    // One for each part, and for the axis.
    torch::autograd::variable_list found(lengths.size() + 1);
    const at::Tensor& gradient = gradients[0];
    if (!gradient.defined()) return found;
    const int64_t axis = c10::maybe_wrap_dim(saved["axis"].toInt(), gradient.dim());
    int64_t start = 0;
    for (size_t k = 0; k < lengths.size(); start += lengths[k], ++k) {
      // What is zero here may have a derivative.
      const bool is_needed = lengths[k] > 0 && (at::GradMode::is_enabled() || !is_zero(gradient, axis, start, lengths[k]));
      if (is_needed) found[k] = gradient.narrow(axis, start, lengths[k]).to(static_cast<at::ScalarType>(types[k]));
    }
    return found;
  }
};

at::Tensor concatenate(at::TensorList parts, int64_t axis) { return Concatenation::apply(parts, axis); }

}  // namespace

extern "C" {

// Has the dispatcher know `camflow::cat`, which is called as that of `aten`.
int cf_define_concatenation(char** error) {
  static std::once_flag once;
  return guarded(error, [&] {
    std::call_once(once, [] {
      static torch::Library library(torch::Library::FRAGMENT, "camflow", std::nullopt, __FILE__, __LINE__);
      library.def("cat(Tensor[] tensors, int dim=0) -> Tensor", &concatenate);
    });
  });
}
}
