// Both passes of the convolutions over a batch, unit by unit, on threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>

#include "images.hpp"
#include "threads.hpp"

namespace hpbench::images {

struct Place {
    int64_t unit, part, thread;
};

inline int64_t units(const Arguments& a) { return (a.batch + UNIT - 1) / UNIT; }
inline int64_t parts(const Arguments& a) { return std::min(PARTS, units(a)); }

// Calls `work(place, wait)` for every unit. Threads take unit after unit: the first one of each part, then the second ones,
// so that nobody waits for long at the end. Who calls `wait()` goes on when the unit before in the same part is done.
template <class Function>
void for_each_unit(const Arguments& a, Function work) {
    const int64_t count = units(a), together = parts(a);
    std::atomic<int64_t> next{0}, done[PARTS] = {};
    on_threads(std::min(a.threads, count), [&](int64_t thread) {
        for (int64_t k = next++; k < (count + together - 1) / together * together; k = next++) {
            const int64_t p = k % together, unit = p * count / together + k / together;
            if (unit >= (p + 1) * count / together) continue;
            work(Place{unit, p, thread}, [&] {
                while (done[p].load(std::memory_order_acquire) < k / together) std::this_thread::yield();
            });
            done[p].store(k / together + 1, std::memory_order_release);
        }
    });
}

// What the units of a batch share, in the workspace.
class Passes {
  public:
    Passes(const Arguments& a, bool back);
    static int64_t room(const Arguments& a);  // floats of the workspace

    void forward(const Place& place, float* tape) const;
    void backward(const Place& place, float* tape) const;  // adds to the gradient of the part
    void finish() const;                                   // the gradient of all parts

    const Arguments& a;
    const Sizes sizes;
    float* end;  // of what is used of the workspace

  private:
    Work work(const Place& place, float* tape) const;

    float *packed_, *turned_, *gradients_, *scratch_;
};

}  // namespace hpbench::images
