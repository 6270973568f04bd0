// What the Python side hands over for SAC, in the order of `native_sac.BINDING`.
#pragma once

#include "arguments.hpp"

namespace hpbench::sac {

struct Arguments : Common {
    int64_t buffer_size, learning_starts, fixed_temperature;
    // state, each [members, ...]
    float *parameters, *targets, *adam_mean, *adam_square;
    int64_t *adam_steps, *update_credit, *environment_steps;
    double *episode_value, *episode_discounted, *episode_weight;
    // replay memory, each [members, buffer_size, ...]
    float *replay_observation, *replay_action, *replay_reward, *replay_next_observation;
    bool *replay_terminated, *replay_truncated;
    int64_t *replay_position, *replay_size;
};

// Columns, in the order of sac.HYPERPARAMETERS and sac_metrics.TOTALS; of the totals, Python fills in the rest.
enum Hyperparameter { ACTOR_RATE, CRITIC_RATE, TEMPERATURE_RATE, TAU, DISCOUNT, TARGET_ENTROPY, BATCH_SIZE, UPDATES_PER_STEP };
enum Total {
    EPISODES, RETURN_SUM, RETURN_SQUARE_SUM, LENGTH_SUM, SUCCESSES, Q_BIAS, CRITIC_LOSS, ACTOR_LOSS, ENTROPY, TEMPERATURE,
    TD_MEAN, TD_P95, Q_MEAN, GRADIENT_NORM, OPTIMISER_STEPS, UPDATE_RATIO, ROLLOUTS
};

}  // namespace hpbench::sac
