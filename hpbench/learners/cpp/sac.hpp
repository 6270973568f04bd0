// What the Python side hands over for SAC, in the order of `native_sac.BINDING`.
#pragma once

#include "arguments.hpp"

namespace hpbench {

struct SacArguments : Common {
    int64_t buffer_size, learning_starts, fixed_temperature;
    // state, each [members, ...]
    float *parameters, *targets, *adam_mean, *adam_square;
    int64_t *adam_steps, *update_credit, *environment_steps;
    // replay memory, each [members, buffer_size, ...]
    float *replay_observation, *replay_action, *replay_reward, *replay_next_observation;
    bool *replay_terminated, *replay_truncated;
    int64_t *replay_position, *replay_size;
};

// Columns, in the order of sac.HYPERPARAMETERS and sac_metrics.TOTALS.
enum SacHyperparameter { ACTOR_RATE, CRITIC_RATE, TEMPERATURE_RATE, SAC_TAU, SAC_DISCOUNT, TARGET_ENTROPY, SAC_BATCH, UPDATES_PER_STEP };
enum SacTotal {
    SAC_EPISODES, SAC_RETURN, SAC_RETURN_SQUARE, SAC_LENGTH, SAC_SUCCESSES, CRITIC_LOSS, ACTOR_LOSS, SAC_ENTROPY, TEMPERATURE,
    TD_MEAN, TD_P95, Q_MEAN, SAC_GRADIENT_NORM, SAC_OPTIMISER_STEPS, SAC_UPDATE_RATIO, SAC_ROLLOUTS
};

}  // namespace hpbench
