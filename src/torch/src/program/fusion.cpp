// The largest of several levels' maps, map by map in the cache: operator by operator a detector's heatmaps would go through memory
// some twenty times.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "guarded.h"

namespace {

// Pixels that stay in a core's cache.
constexpr int64_t kTogether = 1 << 18;

// The least and the largest of values, in lanes that a compiler may keep in registers.
std::pair<float, float> bounds(const float* values, int64_t length) {
  constexpr int64_t kLanes = 16;
  std::array<float, kLanes> low, high;
  low.fill(values[0]);
  high.fill(values[0]);
  int64_t k = 0;
  for (; k + kLanes <= length; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      low[lane] = std::min(low[lane], values[k + lane]);
      high[lane] = std::max(high[lane], values[k + lane]);
    }
  }
  for (; k < length; ++k) {
    low[0] = std::min(low[0], values[k]);
    high[0] = std::max(high[0], values[k]);
  }
  return {*std::min_element(low.begin(), low.end()), *std::max_element(high.begin(), high.end())};
}

// Min-max to [0, 1], as `scale` in heatmap.rs does it, to the bit; the larger one of that and of what is there already. One that is no
// number stays one.
void scale_onto(const float* values, int64_t length, float epsilon, bool is_first, float* largest) {
  const auto [low, high] = bounds(values, length);
  const float least = low, range = (high - low) + epsilon;
  for (int64_t k = 0; k < length; ++k) {
    const float value = (values[k] - least) / range;
    const float before = is_first ? value : largest[k];
    largest[k] = before >= value ? before : before < value ? value : before + value;
  }
}

// Whether all values are 0: neither above nor below it, and numbers.
bool is_zero(const float* values, int64_t length) {
  return std::all_of(values, values + length, [](float value) { return value == 0.0f; });
}

}  // namespace

extern "C" {

// Fills f32 [N, H, W] with the maximum of maps f32 [N, H', W'], each resized bilinearly and scaled to [0, 1] by itself. All are in host
// memory, row by row.
int cf_fuse_levels(const at::Tensor* const* levels, size_t num_levels, double epsilon, at::Tensor* fused, char** error) {
  return guarded(error, [&] {
    const int64_t height = fused->size(1), width = fused->size(2), length = height * width;
    float* const values = fused->mutable_data_ptr<float>();
    // Small maps together, as a call takes longer than they do.
    const int64_t together = std::max<int64_t>(1, kTogether / length);
    at::parallel_for(0, fused->size(0), together, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n += together) {
        const int64_t count = std::min(together, end - n);
        // A level of zeros gives zeros, and nothing is below them: a single prediction is of one level.
        std::vector<char> is_filled(count, 0);
        for (size_t k = 0; k < num_levels; ++k) {
          const at::Tensor maps = levels[k]->narrow(0, n, count).unsqueeze(1);
          if (is_zero(maps.const_data_ptr<float>(), maps.numel())) continue;
          const bool fits = maps.size(2) == height && maps.size(3) == width;
          const at::Tensor resized = (fits ? maps : at::upsample_bilinear2d(maps, {height, width}, false)).contiguous();
          const float* const pixels = resized.const_data_ptr<float>();
          for (int64_t m = 0; m < count; ++m) {
            scale_onto(pixels + m * length, length, static_cast<float>(epsilon), !is_filled[m], values + (n + m) * length);
            is_filled[m] = 1;
          }
        }
        for (int64_t m = 0; m < count; ++m) {
          if (!is_filled[m]) std::fill_n(values + (n + m) * length, length, 0.0f);
        }
      }
    });
  });
}
}
