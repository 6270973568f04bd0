// The C interface of the native SAC engine.
#include "sac_member.hpp"

extern "C" {

int64_t hpbench_sac_arguments_size() { return sizeof(hpbench::sac::Arguments); }

void hpbench_sac_train(const hpbench::sac::Arguments* a) {
    hpbench::for_each_member<hpbench::sac::Member>(*a, [](hpbench::sac::Member& member, int64_t) { member.train(); });
}

void hpbench_sac_evaluate(const hpbench::sac::Arguments* a) {
    hpbench::for_each_member<hpbench::sac::Member>(*a, [a](hpbench::sac::Member& member, int64_t m) {
        member.evaluate(a->evaluation_returns + m * a->episodes, a->evaluation_lengths + m * a->episodes);
    });
}
}
