// When a device has come to some point of its work.

#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

#include "guarded.h"

extern "C" {

struct cf_event {
  c10::Event event;
};

// Marks the point up to which this thread has given work to `device` ("cuda:0"). Null on failure.
cf_event* cf_record_event(const char* device, char** error) {
  cf_event* recorded = nullptr;
  guarded(error, [&] {
    const c10::Device of(device);
    const c10::impl::VirtualGuardImpl guard(of.type());
    auto made = std::make_unique<cf_event>(cf_event{c10::Event(of.type())});
    made->event.record(guard.getStream(of));
    recorded = made.release();
  });
  return recorded;
}

// Waits until the device is there. What failed on the way is an error of this call.
int cf_wait_for_event(cf_event* event, char** error) {
  return guarded(error, [&] { event->event.synchronize(); });
}

void cf_free_event(cf_event* event) { delete event; }
}
