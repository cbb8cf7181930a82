// What a program makes a GPU do: kernels, copies, waits and calls of the CUDA runtime, through CUPTI's activity records.
//
//   CUDA_INJECTION64_PATH=$PWD/libtrace.so TRACE_OUT=trace.json program ...
//
// The driver loads the library and calls InitializeInjection. When the program ends, one JSON object is written to TRACE_OUT.

#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

struct Total {
  uint64_t count = 0, ns = 0, bytes = 0;
};

std::mutex lock;
std::map<std::string, Total> kernels;
std::map<std::tuple<int, int, int>, Total> copies;
std::map<int, Total> waits;
std::map<std::pair<int, uint32_t>, Total> calls;  // by thread's rank in calls and by function
std::map<uint32_t, int> threads;
std::vector<std::pair<uint64_t, uint64_t>> busy, copying;  // nanoseconds from start to end
uint64_t dropped = 0;
bool started = false, written = false;

constexpr size_t kBuffer = 8 << 20;

void requested(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBuffer));
  *size = kBuffer;
  *max_records = 0;
}

void completed(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  std::lock_guard<std::mutex> guard(lock);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_KERNEL:
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto* k = reinterpret_cast<CUpti_ActivityKernel10*>(record);
        Total& total = kernels[k->name == nullptr ? "?" : k->name];
        total.count += 1;
        total.ns += k->end - k->start;
        busy.emplace_back(k->start, k->end);
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: {
        const auto* m = reinterpret_cast<CUpti_ActivityMemcpy6*>(record);
        Total& total = copies[{m->copyKind, m->srcKind, m->dstKind}];
        total.count += 1;
        total.ns += m->end - m->start;
        total.bytes += m->bytes;
        copying.emplace_back(m->start, m->end);
        break;
      }
      case CUPTI_ACTIVITY_KIND_SYNCHRONIZATION: {
        const auto* s = reinterpret_cast<CUpti_ActivitySynchronization2*>(record);
        Total& total = waits[s->type];
        total.count += 1;
        total.ns += s->end - s->start;
        break;
      }
      case CUPTI_ACTIVITY_KIND_RUNTIME: {
        const auto* a = reinterpret_cast<CUpti_ActivityAPI*>(record);
        const int rank = threads.emplace(a->threadId, static_cast<int>(threads.size())).first->second;
        Total& total = calls[{rank, a->cbid}];
        total.count += 1;
        total.ns += a->end - a->start;
        break;
      }
      default: break;
    }
  }
  size_t lost = 0;
  if (cuptiActivityGetNumDroppedRecords(nullptr, 0, &lost) == CUPTI_SUCCESS) dropped += lost;
  std::free(buffer);
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text.substr(0, 160)) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 32) out += c;
  }
  return out + "\"";
}

std::string demangled(const std::string& name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
  std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

const char* kind(int memory) {
  switch (memory) {
    case CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE: return "pageable";
    case CUPTI_ACTIVITY_MEMORY_KIND_PINNED: return "pinned";
    case CUPTI_ACTIVITY_MEMORY_KIND_DEVICE: return "device";
    default: return "other";
  }
}

const char* wait_name(int type) {
  switch (type) {
    case CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE: return "event";
    case CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT: return "stream waits for event";
    case CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE: return "stream";
    case CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE: return "context";
    default: return "other";
  }
}

// The intervals joined where they overlap.
std::vector<std::pair<uint64_t, uint64_t>> joined(std::vector<std::pair<uint64_t, uint64_t>> intervals) {
  std::sort(intervals.begin(), intervals.end());
  std::vector<std::pair<uint64_t, uint64_t>> out;
  for (const auto& [from, to] : intervals) {
    if (!out.empty() && from <= out.back().second) {
      out.back().second = std::max(out.back().second, to);
    } else {
      out.emplace_back(from, to);
    }
  }
  return out;
}

// A total as members of a JSON object.
std::string figures(const Total& total, bool with_bytes = false) {
  const std::string text = "\"count\": " + std::to_string(total.count) + ", \"s\": " + std::to_string(total.ns / 1e9);
  return with_bytes ? text + ", \"bytes\": " + std::to_string(total.bytes) : text;
}

const char* length(uint64_t ns) {
  if (ns < 10000) return "below 10 us";
  if (ns < 100000) return "10 to 100 us";
  if (ns < 1000000) return "0.1 to 1 ms";
  return ns < 10000000 ? "1 to 10 ms" : "above 10 ms";
}

void write() {
  if (!started || written) return;
  written = true;
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::lock_guard<std::mutex> guard(lock);
  const char* path = std::getenv("TRACE_OUT");
  FILE* file = std::fopen(path == nullptr ? "trace.json" : path, "w");
  if (file == nullptr) return;
  const auto work = joined(busy);
  uint64_t first = work.empty() ? 0 : work.front().first, last = work.empty() ? 0 : work.back().second, worked = 0;
  for (const auto& [from, to] : work) worked += to - from;
  std::fprintf(file, "{\"dropped\": %s, \"span_s\": %.6f, \"kernels_s\": %.6f,\n", std::to_string(dropped).c_str(),
               (last - first) / 1e9, worked / 1e9);
  // The share of each twentieth of the time in which a kernel ran: the first ones are warming up.
  const int parts = 20;
  std::vector<double> share(parts, 0.0);
  const double width = (last - first) / double(parts);
  for (const auto& [from, to] : work) {
    for (int p = 0; p < parts && width > 0; ++p) {
      const double begin = first + p * width, end = begin + width;
      share[p] += std::max(0.0, std::min<double>(to, end) - std::max<double>(from, begin)) / width;
    }
  }
  std::fprintf(file, "\"busy_by_twentieth\": [");
  for (int p = 0; p < parts; ++p) std::fprintf(file, "%s%.3f", p ? ", " : "", share[p]);
  // Pauses between kernels in the second half, by length.
  std::map<std::string, Total> gaps;
  for (size_t k = 1; k < work.size(); ++k) {
    const uint64_t gap = work[k].first - work[k - 1].second;
    if (work[k].first < first + (last - first) / 2) continue;
    gaps[length(gap)].count += 1;
    gaps[length(gap)].ns += gap;
  }
  std::fprintf(file, "],\n\"pauses_in_second_half\": {");
  const char* comma = "";
  for (const auto& [name, total] : gaps) {
    std::fprintf(file, "%s\n %s: {%s}", comma, quoted(name).c_str(), figures(total).c_str());
    comma = ",";
  }
  std::fprintf(file, "},\n\"copies\": {");
  comma = "";
  for (const auto& [key, total] : copies) {
    const std::string name = std::string(kind(std::get<1>(key))) + " to " + kind(std::get<2>(key));
    const std::string direction = name + " (" + std::to_string(std::get<0>(key)) + ")";
    std::fprintf(file, "%s\n %s: {%s}", comma, quoted(direction).c_str(), figures(total, true).c_str());
    comma = ",";
  }
  std::fprintf(file, "},\n\"waits\": {");
  comma = "";
  for (const auto& [type, total] : waits) {
    std::fprintf(file, "%s\n %s: {%s}", comma, quoted(wait_name(type)).c_str(), figures(total).c_str());
    comma = ",";
  }
  std::fprintf(file, "},\n\"calls\": [");
  comma = "";
  for (const auto& [key, total] : calls) {
    if (total.count < 20 && total.ns < 1000000) continue;
    const char* name = nullptr;
    if (cuptiGetCallbackName(CUPTI_CB_DOMAIN_RUNTIME_API, key.second, &name) != CUPTI_SUCCESS || name == nullptr) name = "?";
    std::fprintf(file, "%s\n {\"thread\": %d, \"name\": %s, %s}", comma, key.first, quoted(name).c_str(), figures(total).c_str());
    comma = ",";
  }
  std::fprintf(file, "],\n\"kernels\": [");
  std::vector<std::pair<std::string, Total>> ordered(kernels.begin(), kernels.end());
  std::sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  comma = "";
  uint64_t count = 0;
  for (const auto& [name, total] : ordered) count += total.count;
  for (size_t k = 0; k < ordered.size() && k < 40; ++k) {
    const auto& [name, total] = ordered[k];
    std::fprintf(file, "%s\n {\"name\": %s, %s}", comma, quoted(demangled(name)).c_str(), figures(total).c_str());
    comma = ",";
  }
  std::fprintf(file, "],\n\"num_kernels\": %llu, \"num_kernel_names\": %zu}\n", (unsigned long long)count, ordered.size());
  std::fclose(file);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection(void) {
  if (started) return 1;
  if (cuptiActivityRegisterCallbacks(requested, completed) != CUPTI_SUCCESS) {
    std::fprintf(stderr, "trace: CUPTI takes no callbacks\n");
    return 1;
  }
  started = true;
  for (auto what : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_SYNCHRONIZATION,
                    CUPTI_ACTIVITY_KIND_RUNTIME}) {
    const CUptiResult result = cuptiActivityEnable(what);
    if (result != CUPTI_SUCCESS) {
      const char* text = "?";
      cuptiGetResultString(result, &text);
      std::fprintf(stderr, "trace: records of kind %d are not to be had: %s\n", static_cast<int>(what), text);
    }
  }
  std::atexit(write);
  return 1;
}
