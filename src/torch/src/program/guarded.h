// What the shim's functions share: nothing may throw across their boundary.

#pragma once

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;
inline constexpr int kOutOfMemory = 2;

inline char* copy_text(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

// Runs `body`, turning exceptions into a status and a text that the caller frees with cf_free.
template <typename Body>
int guarded(char** error, Body body) {
  try {
    body();
    return kOk;
  } catch (const c10::OutOfMemoryError& e) {
    *error = copy_text(e.what_without_backtrace());
    return kOutOfMemory;
  } catch (const c10::Error& e) {
    *error = copy_text(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = copy_text(e.what());
  } catch (...) {
    *error = copy_text("unknown C++ exception");
  }
  return kFailed;
}
