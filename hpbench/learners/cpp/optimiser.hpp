// Adam (Kingma and Ba 2015) on one member's parameter row.
#pragma once

#include <cmath>
#include <cstdint>

namespace hpbench {

// `count` is the number of this step, from 1; the gradient is multiplied by `scale` first.
inline void adam(float* __restrict p, float* __restrict mean, float* __restrict square, const float* __restrict g, int64_t size,
                 double learning_rate, int64_t count, float scale, float epsilon) {
    const double n = static_cast<double>(count);
    const float step = static_cast<float>(learning_rate / (1.0 - std::pow(0.9, n)));
    const float correction = static_cast<float>(std::sqrt(1.0 - std::pow(0.999, n)));
    for (int64_t i = 0; i < size; ++i) {
        const float gradient = g[i] * scale;
        mean[i] = 0.9f * mean[i] + 0.1f * gradient;
        square[i] = 0.999f * square[i] + 0.001f * gradient * gradient;
        p[i] -= step * mean[i] / (std::sqrt(square[i]) / correction + epsilon);
    }
}

// The same with one division per parameter instead of two: the order of operations that Kingma and Ba recommend at the end of
// their section 2. The last bits differ.
inline void quick_adam(float* __restrict p, float* __restrict mean, float* __restrict square, const float* __restrict g,
                       int64_t size, double learning_rate, int64_t count, float scale, float epsilon) {
    const double n = static_cast<double>(count), correction = std::sqrt(1.0 - std::pow(0.999, n));
    const float step = static_cast<float>(learning_rate * correction / (1.0 - std::pow(0.9, n)));
    const float small = static_cast<float>(epsilon * correction);
    for (int64_t i = 0; i < size; ++i) {
        const float gradient = g[i] * scale;
        mean[i] = 0.9f * mean[i] + 0.1f * gradient;
        square[i] = 0.999f * square[i] + 0.001f * gradient * gradient;
        p[i] -= step * mean[i] / (std::sqrt(square[i]) + small);
    }
}

}  // namespace hpbench
