// Upsampling whose gradient is made of matrix products. libtorch's kernels for GPUs add each pixel's gradient to four (bilinear) or
// sixteen (bicubic) others by atomic additions: two fifths of what a segmentation network took there (`benches/RESULTS.md`), and sums
// that differ from run to run. As rows and columns are weighted apart, the gradient is also `rows * G * columns^T`.

#include <ATen/ATen.h>
#include <ATen/native/UpSample.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <mutex>
#include <optional>

#include "guarded.h"

namespace {

using Scale = std::optional<double>;

struct Bilinear {
  static constexpr auto operation = [](const at::Tensor& input, at::IntArrayRef size, bool align_corners, Scale rows, Scale columns) {
    return at::upsample_bilinear2d(input, size, align_corners, rows, columns);
  };
};

struct Bicubic {
  static constexpr auto operation = [](const at::Tensor& input, at::IntArrayRef size, bool align_corners, Scale rows, Scale columns) {
    return at::upsample_bicubic2d(input, size, align_corners, rows, columns);
  };
};

// What each of `length` input pixels along an axis gives to each of the output's `size`, `[length, size]`: the operator itself says
// so, of inputs in which one pixel is 1. They become wider, as an input of the output's size would be copied, whatever the scale.
template <typename Mode>
at::Tensor shares(int64_t length, int64_t size, bool align_corners, Scale scale, const at::TensorOptions& options) {
  const at::Tensor pixels = at::eye(length, options).view({1, length, length, 1});
  return Mode::operation(pixels, {size, 2}, align_corners, scale, std::nullopt).select(3, 0).view({length, size});
}

template <typename Mode>
struct Upsampling : torch::autograd::Function<Upsampling<Mode>> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input, at::IntArrayRef size,
                            bool align_corners, Scale rows, Scale columns) {
    auto& saved = context->saved_data;
    saved["height"] = input.size(2);
    saved["width"] = input.size(3);
    saved["type"] = input.scalar_type();
    saved["layout"] = input.suggest_memory_format();
    saved["align_corners"] = align_corners;
    saved["rows"] = rows;
    saved["columns"] = columns;
    return Mode::operation(input, size, align_corners, rows, columns);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    // The types are those of the way forward.
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    auto& saved = context->saved_data;
    const auto type = saved["type"].toScalarType();
    const bool align_corners = saved["align_corners"].toBool();
    // Sums of many numbers.
    const bool is_short = type == at::kBFloat16 || type == at::kHalf;
    const at::Tensor gradient = is_short ? gradients[0].to(at::kFloat) : gradients[0];
    const auto of_axis = [&](const char* length, int64_t axis, const char* scale) {
      return shares<Mode>(saved[length].toInt(), gradient.size(axis), align_corners, saved[scale].toOptional<double>(),
                          gradient.options());
    };
    const at::Tensor rows = of_axis("height", 2, "rows"), columns = of_axis("width", 3, "columns");
    const at::Tensor found = at::matmul(rows, at::matmul(gradient, columns.t()));
    return {found.to(type).contiguous(saved["layout"].toMemoryFormat()), {}, {}, {}, {}};
  }
};

template <typename Mode>
at::Tensor by_size(const at::Tensor& input, at::IntArrayRef size, bool align_corners, Scale rows, Scale columns) {
  return Upsampling<Mode>::apply(input, size, align_corners, rows, columns);
}

template <typename Mode>
at::Tensor by_size_or_scale(const at::Tensor& input, at::OptionalIntArrayRef size, bool align_corners,
                            std::optional<at::ArrayRef<double>> scales) {
  const auto wanted = at::native::upsample::compute_output_size(input.sizes(), size, scales);
  const auto of_axis = [&](size_t axis) { return scales ? Scale((*scales)[axis]) : std::nullopt; };
  return Upsampling<Mode>::apply(input, at::IntArrayRef(wanted), align_corners, of_axis(0), of_axis(1));
}

template <typename Mode>
void define(torch::Library& library, const std::string& name) {
  const std::string rest = "bool align_corners, ", result = ") -> Tensor";
  const std::string sized = name + "(Tensor self, int[2] output_size, " + rest + "float? scales_h=None, float? scales_w=None" + result;
  const std::string either = name + ".vec(Tensor input, int[]? output_size, " + rest + "float[]? scale_factors" + result;
  library.def(sized.c_str(), &by_size<Mode>);
  library.def(either.c_str(), &by_size_or_scale<Mode>);
}

}  // namespace

extern "C" {

// Has the dispatcher know `camflow::upsample_bilinear2d` and `camflow::upsample_bicubic2d`, with the overloads of those of `aten`.
int cf_define_upsampling(char** error) {
  static std::once_flag once;
  return guarded(error, [&] {
    std::call_once(once, [] {
      static torch::Library library(torch::Library::FRAGMENT, "camflow", std::nullopt, __FILE__, __LINE__);
      define<Bilinear>(library, "upsample_bilinear2d");
      define<Bicubic>(library, "upsample_bicubic2d");
    });
  });
}
}
