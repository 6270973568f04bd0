// What the Python side hands over for PPO, in the order of `native_ppo.BINDING`.
#pragma once

#include "arguments.hpp"

namespace hpbench::ppo {

struct Arguments : Common {
    int64_t normalize_observation, normalize_reward;
    // state, each [members, ...]
    float *parameters, *adam_mean, *adam_square;
    int64_t* adam_steps;
    double *observation_mean, *observation_variance, *observation_count;
    double *return_running, *return_mean, *return_variance, *return_count;
    // rollout buffer, each [members, steps, envs, ...]
    float *observations, *actions_taken, *log_probs, *values, *rewards, *done, *truncated, *final_values, *advantages, *returns;
    float* last_values;
};

// Columns, in the order of ppo.HYPERPARAMETERS and ppo_metrics.TOTALS.
enum Hyperparameter { LEARNING_RATE, ENTROPY, VALUE, CLIP, DISCOUNT, LAMBDA, MAX_NORM, EPOCHS, MINIBATCHES };
enum Total {
    EPISODE_COUNT, RETURN_SUM, RETURN_SQUARE_SUM, LENGTH_SUM, SUCCESSES, POLICY_LOSS, VALUE_LOSS, ENTROPY_TOTAL, KL, CLIPPED,
    GRADIENT_NORM, GRADIENT_CLIPPED, OPTIMISER_STEPS, EXPLAINED_VARIANCE, UPDATE_RATIO, ROLLOUTS, DORMANT_SHARE, FEATURE_RANK
};

}  // namespace hpbench::ppo
