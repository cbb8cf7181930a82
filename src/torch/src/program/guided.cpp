// ReLU as guided backpropagation has it (Springenberg et al., 2015): forward it is that of libtorch, and back come positive gradients
// alone.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <mutex>

#include "guarded.h"

namespace {

struct GuidedRelu : torch::autograd::Function<GuidedRelu> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input) {
    const at::Tensor output = at::relu(input);
    context->save_for_backward({output});
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const at::Tensor output = context->get_saved_variables()[0];
    return {at::threshold_backward(at::relu(gradients[0]), output, 0)};
  }
};

at::Tensor guided_relu(const at::Tensor& input) { return GuidedRelu::apply(input); }

}  // namespace

extern "C" {

// Has the dispatcher know `camflow::guided_relu`, which is called as `aten::relu`.
int cf_define_guided(char** error) {
  static std::once_flag once;
  return guarded(error, [&] {
    std::call_once(once, [] {
      static torch::Library library(torch::Library::FRAGMENT, "camflow", std::nullopt, __FILE__, __LINE__);
      library.def("guided_relu(Tensor self) -> Tensor", &guided_relu);
    });
  });
}
}
