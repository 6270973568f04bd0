// The C interface of the native PPO engine.
#include "ppo_member.hpp"

extern "C" {

int64_t hpbench_ppo_arguments_size() { return sizeof(hpbench::ppo::Arguments); }

void hpbench_ppo_train(const hpbench::ppo::Arguments* a) {
    hpbench::for_each_member<hpbench::ppo::Member>(*a, [](hpbench::ppo::Member& member, int64_t) { member.train(); });
}

void hpbench_ppo_evaluate(const hpbench::ppo::Arguments* a) {
    hpbench::for_each_member<hpbench::ppo::Member>(*a, [a](hpbench::ppo::Member& member, int64_t m) {
        member.evaluate(a->evaluation_returns + m * a->episodes, a->evaluation_lengths + m * a->episodes);
    });
}
}
