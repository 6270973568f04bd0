// The C interface of the native PPO engine. Members are independent of each other, so they are spread over threads, and the
// results do not depend on how many threads or members there are.
#include <atomic>
#include <thread>
#include <vector>

#include "member.hpp"

namespace {

template <class Work>
void for_each_member(const hpbench::Arguments& a, Work work) {
    std::atomic<int64_t> next{0};
    auto loop = [&] {
        hpbench::Member member(a);
        for (int64_t m = next++; m < a.members; m = next++) {
            member.attach(m);
            work(member, m);
        }
    };
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < a.threads && i < a.members; ++i) helpers.emplace_back(loop);
    loop();
    for (auto& helper : helpers) helper.join();
}

}  // namespace

extern "C" {

int64_t hpbench_abi() { return hpbench::ABI; }
int64_t hpbench_arguments_size() { return sizeof(hpbench::Arguments); }
int64_t hpbench_task(const char* name) { return hpbench::task_index(name); }

void hpbench_ppo_train(const hpbench::Arguments* a) {
    for_each_member(*a, [](hpbench::Member& member, int64_t) { member.train(); });
}

void hpbench_ppo_evaluate(const hpbench::Arguments* a) {
    for_each_member(*a, [a](hpbench::Member& member, int64_t m) {
        member.evaluate(a->evaluation_returns + m * a->episodes, a->evaluation_lengths + m * a->episodes);
    });
}
}
