// The terms of PPO's loss for a row, and their gradients: what `_loss` in hpbench/learners/ppo.py says of whole batches.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace hpbench::ppo {

// Of one of several choices: fills probabilities and their logarithms, returns the entropy.
inline float probabilities(const float* logits, int64_t count, float* p, float* log_p) {
    const float top = *std::max_element(logits, logits + count);
    float total = 0.0f, entropy = 0.0f;
    for (int64_t k = 0; k < count; ++k) total += p[k] = std::exp(logits[k] - top);
    const float log_total = std::log(total);
    for (int64_t k = 0; k < count; ++k) {
        p[k] /= total;
        log_p[k] = logits[k] - top - log_total;
        entropy -= p[k] * log_p[k];
    }
    return entropy;
}

struct Surrogate {
    float loss, kl;
    bool clipped;
    float slope;  // of the row's share of the loss, with its log-probability
};

// The clipped surrogate of an action; `share` is what a row counts in the mean.
inline Surrogate surrogate(float log_prob, float old_log_prob, float advantage, float clip, float share) {
    const float low = 1.0f - clip, high = 1.0f + clip, log_ratio = log_prob - old_log_prob, ratio = std::exp(log_ratio);
    const float inside = ratio < low ? low : ratio > high ? high : ratio;
    const float plain = advantage * ratio, bounded = advantage * inside;
    const bool flat = (advantage > 0.0f && ratio > high) || (advantage < 0.0f && ratio < low);
    return {-(plain < bounded ? plain : bounded), ratio - 1.0f - log_ratio, std::fabs(ratio - 1.0f) > clip,
            flat ? 0.0f : -plain * share};
}

// Gradient with respect to the logits, over the probabilities in `d`; `bonus` is the weight of the entropy.
inline void choice_gradient(int64_t count, int64_t choice, float slope, float bonus, float share, float entropy, const float* log_p,
                            float* d) {
    for (int64_t k = 0; k < count; ++k)
        d[k] = slope * ((k == choice ? 1.0f : 0.0f) - d[k]) + bonus * share * d[k] * (log_p[k] + entropy);
}

}  // namespace hpbench::ppo
