// The C interface of the native DQN engine.
#include "dqn_member.hpp"

extern "C" {

int64_t hpbench_dqn_arguments_size() { return sizeof(hpbench::dqn::Arguments); }

void hpbench_dqn_train(const hpbench::dqn::Arguments* a) {
    hpbench::for_each_member<hpbench::dqn::Member>(*a, [](hpbench::dqn::Member& member, int64_t) { member.train(); });
}

void hpbench_dqn_evaluate(const hpbench::dqn::Arguments* a) {
    hpbench::for_each_member<hpbench::dqn::Member>(*a, [a](hpbench::dqn::Member& member, int64_t m) {
        member.evaluate(a->evaluation_returns + m * a->episodes, a->evaluation_lengths + m * a->episodes);
    });
}
}
