// The loss of PPO for one choice of many: what hpbench/learners/ppo.py has in `_loss`, a row at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace hpbench::ppo {

struct Weights {
    float clip, bonus, value, share;  // share: what a row counts in a mean
};

struct Row {
    float policy_loss, value_loss, entropy, kl;
    bool clipped;
};

// The terms of the row, and the gradient of the loss with respect to its logits `d` (room for as many) and value.
inline Row choice_loss(const float* logits, int64_t count, int64_t choice, float value, float old_log_prob, float advantage,
                       float target, const Weights& w, float* d, float* value_gradient) {
    const float top = *std::max_element(logits, logits + count), low = 1.0f - w.clip, high = 1.0f + w.clip;
    float total = 0.0f, entropy = 0.0f;
    for (int64_t k = 0; k < count; ++k) total += d[k] = std::exp(logits[k] - top);
    const float log_total = std::log(total);
    for (int64_t k = 0; k < count; ++k) {
        d[k] /= total;  // for now the probability
        entropy -= d[k] * (logits[k] - top - log_total);
    }
    const float log_ratio = logits[choice] - top - log_total - old_log_prob, ratio = std::exp(log_ratio);
    const float inside = ratio < low ? low : ratio > high ? high : ratio;
    const float plain = advantage * ratio, bounded = advantage * inside;
    const bool flat = (advantage > 0.0f && ratio > high) || (advantage < 0.0f && ratio < low);
    const float slope = flat ? 0.0f : -plain * w.share;  // d loss / d log_prob
    for (int64_t k = 0; k < count; ++k)
        d[k] = slope * ((k == choice ? 1.0f : 0.0f) - d[k]) + w.bonus * w.share * d[k] * (logits[k] - top - log_total + entropy);
    const float error = value - target;
    *value_gradient = w.value * 2.0f * error * w.share;
    return {-(plain < bounded ? plain : bounded), error * error, entropy, ratio - 1.0f - log_ratio, std::fabs(ratio - 1.0f) > w.clip};
}

}  // namespace hpbench::ppo
