// What the Python side hands over for any learner: sizes, and pointers into the tensors of the population's state. Each
// learner's own arguments follow in a struct derived from this one. The fields stand in the order of `native.COMMON`; all are
// eight bytes wide.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "threads.hpp"

namespace hpbench {

constexpr int64_t ABI = 5;

// What a member and its simulator, which runs outside, hand each other: arrays of one entry per copy.
struct Exchange {
    const float* observation;
    const double* reward;
    const uint8_t* terminated;
    float* action;       // [copies, width], where actions are vectors
    int64_t* choice;     // [copies], where they are choices
    uint8_t* which;      // the copies that an operation is about
    int64_t* seed;       // of their new episodes
};

// In the order of `external_native.OPERATIONS`.
enum Operation { STEP, STEP_SOME, RESET };

// A simulator could not go on; Python knows why.
struct Stopped {};

struct Common {
    int64_t abi, members, envs, steps, rollouts, threads, episodes;
    int64_t task, observation, actions, discrete, width, first, second, parameters_size;
    int64_t state_size, physics_size, reset_draws, delay_slots, max_episode_steps, has_success;
    int64_t streams, hyperparameter_count, total_count;
    double action_low, action_high, success_return;
    // state, each [members, ...]
    double* hyperparameters;
    const int64_t* rng_keys;
    int64_t* rng_calls;
    double *env_physics, *env_state;
    int64_t* env_elapsed;
    double* env_return;
    float *env_queue, *env_observation;
    // results
    double* totals;
    double* evaluation_returns;
    int64_t* evaluation_lengths;
    // tasks with a simulator: one per member, and what moves them on; otherwise null
    Exchange* exchanges;
    int64_t (*operate)(int64_t member, int64_t operation);
    int64_t restarts_itself;
};

// Order of seeding.Stream.
enum Stream { INITIALISATION, ACTION, ENVIRONMENT, MINIBATCH, EVALUATION, NOISE };

// Calls `work(member, m)` for every member m, with one `Member` (its scratch memory) per thread. Members are independent of
// each other, so results do not depend on how many threads or members there are.
template <class Member, class Arguments, class Work>
void for_each_member(const Arguments& a, Work work) {
    std::atomic<int64_t> next{0};
    auto loop = [&](int64_t) {
        Member member(a);
        for (int64_t m = next++; m < a.members; m = next++) {
            member.attach(m);
            try {
                work(member, m);
            } catch (const Stopped&) {
                return;
            }
        }
    };
    on_threads(std::min(a.threads, a.members), loop);
}

}  // namespace hpbench
