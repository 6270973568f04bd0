// Work on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace hpbench {

// Calls `work(thread)` on that many threads, one of them the caller's.
template <class Work>
void on_threads(int64_t threads, const Work& work) {
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < threads; ++i) helpers.emplace_back([&work, i] { work(i); });
    work(0);
    for (auto& helper : helpers) helper.join();
}

// Calls `work(k, thread)` once for every k below `count`, on at most that many threads.
template <class Work>
void share(int64_t count, int64_t threads, const Work& work) {
    std::atomic<int64_t> next{0};
    on_threads(std::min(threads, count), [&](int64_t thread) {
        for (int64_t k = next++; k < count; k = next++) work(k, thread);
    });
}

}  // namespace hpbench
