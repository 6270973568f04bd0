// Plasticity of a network with two hidden layers. See hpbench/learners/representation.py, which says what the measures are.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "linear.hpp"

namespace hpbench {

constexpr int64_t PLASTICITY_SAMPLE = 256;  // observations that the measures look at

// Covariance [width, width] over the rows of x [count, width].
inline std::vector<float> covariance(const float* x, int count, int width) {
    std::vector<float> centred(static_cast<size_t>(count) * width), mean(width), result(static_cast<size_t>(width) * width);
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < width; ++j) mean[j] += x[i * width + j];
    for (float& m : mean) m /= static_cast<float>(count);
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < width; ++j) centred[i * width + j] = x[i * width + j] - mean[j];
    multiply(centred.data(), 1, width, centred.data(), nullptr, result.data(), width, count, width);
    for (float& c : result) c /= static_cast<float>(count);
    return result;
}

// Dormant share and feature rank of hidden activations [count, first] and [count, second].
inline std::pair<double, double> plasticity(const float* first_hidden, int64_t first, const float* second_hidden, int64_t second,
                                            int count) {
    constexpr double DORMANT = 0.025;
    int64_t dormant = 0;
    double rank = 0.0;
    for (const auto& [hidden, width] : {std::pair{first_hidden, first}, {second_hidden, second}}) {
        const std::vector<float> matrix = covariance(hidden, count, static_cast<int>(width));
        double trace = 0.0, activity = 0.0;
        for (int64_t j = 0; j < width; ++j) {
            trace += matrix[j * width + j];
            activity += std::sqrt(matrix[j * width + j]);
        }
        for (int64_t j = 0; j < width; ++j) dormant += std::sqrt(matrix[j * width + j]) <= DORMANT * activity / width;
        const double square = square_sum(matrix.data(), matrix.size());
        rank = square > 0.0 ? trace * trace / square : 0.0;  // the last layer's stays
    }
    return {static_cast<double>(dormant) / static_cast<double>(first + second), rank};
}

}  // namespace hpbench
