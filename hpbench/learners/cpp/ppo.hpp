// What the Python side hands over: sizes, and pointers into the tensors of the population's state and rollout buffer. The
// fields stand in the order of `native._Arguments`; all are eight bytes wide.
#pragma once

#include <cstdint>

namespace hpbench {

struct Arguments {
    int64_t abi, members, envs, steps, rollouts, threads;
    int64_t task, observation, outputs, discrete, width, first, second, parameters_size;
    int64_t state_size, physics_size, reset_draws, delay_slots, max_episode_steps, streams, hyperparameter_count, total_count;
    int64_t normalize_observation, normalize_reward, has_success, episodes;
    double action_low, action_high, success_return;
    // state, each [members, ...]
    double* hyperparameters;
    const int64_t* rng_keys;
    int64_t* rng_calls;
    float *parameters, *adam_mean, *adam_square;
    int64_t* adam_steps;
    double *observation_mean, *observation_variance, *observation_count;
    double *return_running, *return_mean, *return_variance, *return_count;
    double *env_physics, *env_state;
    int64_t* env_elapsed;
    double* env_return;
    float *env_queue, *env_observation;
    // rollout buffer, each [members, steps, envs, ...]
    float *observations, *actions, *log_probs, *values, *rewards, *done, *truncated, *final_values, *advantages, *returns;
    float* last_values;
    // results
    double* totals;
    double* evaluation_returns;
    int64_t* evaluation_lengths;
};

// Columns, in the order of ppo.HYPERPARAMETERS, ppo_metrics.TOTALS and seeding.Stream.
enum Hyperparameter { LEARNING_RATE, ENTROPY, VALUE, CLIP, DISCOUNT, LAMBDA, MAX_NORM, EPOCHS, MINIBATCHES };
enum Total {
    EPISODE_COUNT, RETURN_SUM, RETURN_SQUARE_SUM, LENGTH_SUM, SUCCESSES, POLICY_LOSS, VALUE_LOSS, ENTROPY_TOTAL, KL, CLIPPED,
    GRADIENT_NORM, GRADIENT_CLIPPED, OPTIMISER_STEPS, EXPLAINED_VARIANCE, UPDATE_RATIO, ROLLOUTS, DORMANT_SHARE, FEATURE_RANK
};
enum Stream { INITIALISATION, ACTION, ENVIRONMENT, MINIBATCH, EVALUATION, NOISE };

constexpr int64_t ABI = 2;

}  // namespace hpbench
