// What the Python side hands over for DQN, in the order of `native_dqn.BINDING`.
#pragma once

#include "arguments.hpp"

namespace hpbench::dqn {

struct Arguments : Common {
    int64_t capacity, learning_starts, double_q;
    // state, each [members, ...]
    int64_t* environment_steps;
    float *parameters, *targets, *adam_mean, *adam_square;
    int64_t *adam_steps, *train_credit;
    float* episode_value;  // [members, envs], as the next two
    double *episode_discounted, *episode_weight;
    float *observations, *actions_taken, *rewards, *next_observations;  // [members, capacity, ...], as the next two
    bool *terminated, *truncated;
    int64_t *position, *size;
};

// Columns, in the order of dqn.HYPERPARAMETERS and dqn_metrics.TOTALS.
enum Hyperparameter { LEARNING_RATE, DISCOUNT, EPSILON, TAU, BATCH_SIZE, TRAIN_FREQUENCY, N_STEP, MAX_NORM };
enum Total {
    EPISODE_COUNT, RETURN_SUM, RETURN_SQUARE_SUM, LENGTH_SUM, SUCCESSES, Q_BIAS, TD_LOSS, TD_ERROR, TD_ERROR_HIGH, Q_MEAN,
    GRADIENT_NORM, GRADIENT_CLIPPED, OPTIMISER_STEPS, UPDATE_RATIO, ROLLOUTS, DORMANT_SHARE, FEATURE_RANK, BUFFER_FILL
};

}  // namespace hpbench::dqn
