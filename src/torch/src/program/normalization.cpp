// Normalisations that take back right gradients of a single sample. libtorch's kernels for CPUs (2.11) trust the stride of the samples
// where there is one sample, and it means nothing: a gradient that was transposed on its way (tokens that were made of a map) has another
// one than the kernels think, and what they give has little to do with it. Instance norms, which are batch norms of one sample inside,
// have that of all channels-last gradients.

#include <ATen/ATen.h>
#include <torch/library.h>

#include <mutex>
#include <optional>
#include <tuple>

#include "guarded.h"

namespace {

using Maybe = std::optional<at::Tensor>;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// Whether it is one sample without gaps, in another order than rows after rows.
bool is_one_in_another_order(const at::Tensor& tensor) {
  return tensor.dim() > 2 && tensor.size(0) == 1 && !tensor.is_contiguous() && tensor.is_non_overlapping_and_dense();
}

at::Tensor with_own_stride(const at::Tensor& tensor) {
  const bool is_odd = is_one_in_another_order(tensor) && tensor.stride(0) != tensor.numel();
  return is_odd ? tensor.clone(at::MemoryFormat::Contiguous) : tensor;
}

at::Tensor in_rows(const at::Tensor& tensor) { return is_one_in_another_order(tensor) ? tensor.contiguous() : tensor; }

template <typename Change>
const at::Tensor& back_by(const at::Tensor& output, Change change) {
  if (output.requires_grad()) output.register_hook([change](const at::Tensor& gradient) { return change(gradient); });
  return output;
}

at::Tensor batch_norm(const at::Tensor& input, const Maybe& weight, const Maybe& bias, const Maybe& mean, const Maybe& variance,
                      bool training, double momentum, double eps, bool cudnn) {
  const at::Tensor own = with_own_stride(input);
  return back_by(at::batch_norm(own, weight, bias, mean, variance, training, momentum, eps, cudnn), with_own_stride);
}

at::Tensor instance_norm(const at::Tensor& input, const Maybe& weight, const Maybe& bias, const Maybe& mean, const Maybe& variance,
                         bool use_input_stats, double momentum, double eps, bool cudnn) {
  const at::Tensor output = at::instance_norm(input, weight, bias, mean, variance, use_input_stats, momentum, eps, cudnn);
  return back_by(output, in_rows);
}

Three native_batch_norm(const at::Tensor& input, const Maybe& weight, const Maybe& bias, const Maybe& mean, const Maybe& variance,
                        bool training, double momentum, double eps) {
  const Three found = at::native_batch_norm(with_own_stride(input), weight, bias, mean, variance, training, momentum, eps);
  back_by(std::get<0>(found), with_own_stride);
  return found;
}

Three native_batch_norm_no_training(const at::Tensor& input, const Maybe& weight, const Maybe& bias, const at::Tensor& mean,
                                    const at::Tensor& variance, double momentum, double eps) {
  const at::Tensor own = with_own_stride(input);
  const Three found = at::_native_batch_norm_legit_no_training(own, weight, bias, mean, variance, momentum, eps);
  back_by(std::get<0>(found), with_own_stride);
  return found;
}

}  // namespace

extern "C" {

// Has the dispatcher know them, which are called as those of `aten`.
int cf_define_normalization(char** error) {
  static std::once_flag once;
  return guarded(error, [&] {
    std::call_once(once, [] {
      static torch::Library library(torch::Library::FRAGMENT, "camflow", std::nullopt, __FILE__, __LINE__);
      library.def(
          "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
          "float momentum, float eps, bool cudnn_enabled) -> Tensor",
          &batch_norm);
      library.def(
          "instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
          "bool use_input_stats, float momentum, float eps, bool cudnn_enabled) -> Tensor",
          &instance_norm);
      library.def(
          "native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
          "float momentum, float eps) -> (Tensor, Tensor, Tensor)",
          &native_batch_norm);
      library.def(
          "_native_batch_norm_legit_no_training(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean, "
          "Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor)",
          &native_batch_norm_no_training);
    });
  });
}
}
