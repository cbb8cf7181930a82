// What a piece of work asks of libtorch: bytes and calls. And how much memory a device has left.

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>

#include "guarded.h"

namespace {

// Counts what is allocated and freed on devices of one type, from this thread and those that autograd lends it.
class MemoryMeter : public c10::MemoryReportingInfoBase {
 public:
  explicit MemoryMeter(c10::DeviceType type) : type_(type) {}

  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (device.type() != type_) return;
    if (size > 0) allocated_.fetch_add(size);
    const int64_t now = current_.fetch_add(size) + size;
    int64_t peak = peak_.load();
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
    }
  }

  void reportOutOfMemory(int64_t, size_t, size_t, c10::Device) override {}

  bool memoryProfilingEnabled() const override { return true; }

  int64_t peak() const { return peak_.load(); }

  int64_t allocated() const { return allocated_.load(); }

 private:
  const c10::DeviceType type_;
  std::atomic<int64_t> allocated_{0};
  std::atomic<int64_t> current_{0};
  std::atomic<int64_t> peak_{0};
};

// Of all threads, as the backward pass on a GPU has one of its own.
std::atomic<uint64_t> num_calls{0};
std::atomic<uint64_t> num_items{0};

std::unique_ptr<at::ObserverContext> count_call(const at::RecordFunction& function) {
  num_calls.fetch_add(1);
  if (std::strcmp(function.name(), "aten::_local_scalar_dense") == 0) num_items.fetch_add(1);
  return nullptr;
}

}  // namespace

extern "C" {

struct cf_meter {
  std::shared_ptr<MemoryMeter> meter;
  c10::DebugInfoGuard guard;
};

// Measures what this thread allocates on devices of the type of `device` ("cpu", "cuda:0") until cf_meter_stop, which has to be
// called on the same thread. Null on failure.
cf_meter* cf_meter_start(const char* device, char** error) {
  cf_meter* started = nullptr;
  guarded(error, [&] {
    auto meter = std::make_shared<MemoryMeter>(c10::Device(device).type());
    started = new cf_meter{meter, c10::DebugInfoGuard(c10::DebugInfoKind::PROFILER_STATE, meter)};
  });
  return started;
}

// The most bytes that were in use at once, and all that were allocated, whether they were given back or not.
void cf_meter_stop(cf_meter* meter, int64_t* peak, int64_t* allocated) {
  *peak = meter->meter->peak();
  *allocated = meter->meter->allocated();
  delete meter;
}

// Counts the calls of operators in this process from here on.
uint64_t cf_count_calls() {
  num_calls = 0;
  num_items = 0;
  return at::addGlobalCallback(at::RecordFunctionCallback(count_call).scopes({at::RecordScope::FUNCTION}));
}

// Ends what cf_count_calls began: how many there were, those within others too, and how many read a number of a tensor.
void cf_counted_calls(uint64_t handle, uint64_t* calls, uint64_t* items) {
  at::removeCallback(handle);
  *calls = num_calls.load();
  *items = num_items.load();
}

// Free bytes of a device that is not the CPU, with those that libtorch holds and would reuse.
int cf_device_free_bytes(const char* name, int64_t* bytes, char** error) {
  return guarded(error, [&] {
    const c10::Device device(name);
    auto* allocator = c10::getDeviceAllocator(device.type());
    allocator->emptyCache();
    *bytes = static_cast<int64_t>(allocator->getMemoryInfo(device.index()).first);
  });
}
}
