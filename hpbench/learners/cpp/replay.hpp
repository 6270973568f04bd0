// One member's replay memory: a ring of transitions, as in hpbench/learners/replay.py.
#pragma once

#include <algorithm>
#include <cstdint>

namespace hpbench {

struct Replay {
    float *observations, *actions, *rewards, *next_observations;
    bool *terminated, *truncated;
    int64_t *position, *size;
    int64_t capacity, envs, observation, width;

    // Row of the transition stored `age` transitions ago; 0 is the newest.
    int64_t row(int64_t age) const { return (*position - 1 - age + capacity) % capacity; }

    // Where environment e's transition of this step goes; `advance` after all environments are stored.
    int64_t slot(int64_t e) const { return *position + e; }
    void advance() {
        *position = (*position + envs) % capacity;
        *size = std::min(*size + envs, capacity);
    }

    // A uniformly drawn row, from a random word.
    int64_t draw(uint32_t word) const {
        return static_cast<int64_t>((static_cast<uint64_t>(word) * static_cast<uint64_t>(*size)) >> 32);
    }

    struct Target {
        float reward, bootstrap;  // bootstrap: what the value of the last row's next observation is multiplied by
        int64_t last;
    };

    // Rewards of up to `steps` steps from row i on, until the episode or the memory ends.
    Target n_step(int64_t i, int64_t steps, float discount) const {
        Target t{rewards[i], discount, i};
        int64_t newer = *position - 1 - i;  // rows; every `envs` of them are a later step of the same environment
        if (newer < 0) newer += capacity;
        for (int64_t k = 1; k < steps && newer >= envs && !terminated[t.last] && !truncated[t.last]; ++k, newer -= envs) {
            t.last += envs;
            if (t.last >= capacity) t.last -= capacity;
            t.reward += t.bootstrap * rewards[t.last];
            t.bootstrap *= discount;
        }
        if (terminated[t.last]) t.bootstrap = 0.0f;
        return t;
    }
};

}  // namespace hpbench
