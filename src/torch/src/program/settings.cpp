// What is set in libtorch for a whole process.

#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>

#include <cstdlib>
#include <string>

#include "guarded.h"

namespace {

// Keeps what is said on this thread instead of printing it.
class Collector : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    if (!text_.empty()) text_ += '\n';
    text_ += warning.msg();
  }

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

extern "C" {

// Whether matrix products and convolutions on GPUs may shorten fp32 to TensorFloat-32.
void cf_allow_tf32(int allow) {
  char* ignored = nullptr;
  guarded(&ignored, [&] {
    at::globalContext().setAllowTF32CuBLAS(allow != 0);
    at::globalContext().setAllowTF32CuDNN(allow != 0);
  });
  std::free(ignored);
}

// Whether attention may be computed by fused kernels, which have no second derivative, or by its formula alone.
void cf_allow_fused_attention(int allow) {
  char* ignored = nullptr;
  guarded(&ignored, [&] {
    at::globalContext().setSDPUseFlash(allow != 0);
    at::globalContext().setSDPUseMemEfficient(allow != 0);
    at::globalContext().setSDPUseCuDNN(allow != 0);
    at::globalContext().setSDPUseMath(true);
  });
  std::free(ignored);
}

// Nothing less than an error is printed, by any thread.
void cf_print_errors_only() { FLAGS_caffe2_log_level = c10::GLOG_ERROR; }

struct cf_warnings {
  Collector collector;
  c10::WarningUtils::WarningHandlerGuard guard{&collector};
};

// Keeps what libtorch warns of on this thread until cf_take_warnings, which has to be called on the same thread.
cf_warnings* cf_collect_warnings() { return new cf_warnings; }

// The text, for the caller to free with cf_free; null where there was nothing.
char* cf_take_warnings(cf_warnings* warnings) {
  char* text = warnings->collector.text().empty() ? nullptr : copy_text(warnings->collector.text());
  delete warnings;
  return text;
}
}
