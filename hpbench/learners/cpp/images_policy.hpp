// Actor and critic on the residual CNN (learners/encoders.py): a dense layer on the convolutions, and a layer each on its
// features. What the C interface hands over.
#pragma once

#include "images.hpp"

namespace hpbench::images {

constexpr size_t STATISTICS = 5;  // policy loss, value loss, entropy, KL, share that was clipped

// `parameters` and `gradient` are a whole row: of the convolutions; then weights (inputs, outputs) and biases of the dense
// layer, of the actor and of the critic.
struct Policy : Arguments {
    int64_t features, actions;
    float *activations, *logits, *values;  // [batch, features], [batch, actions], [batch]
    // For the gradient of PPO's loss: numbers of all rows that there are, and what the mean terms of the loss are.
    const float *action, *log_prob, *advantage, *target;
    double clip_range, entropy_coefficient, value_coefficient;
    double* statistics;  // [STATISTICS]
};

}  // namespace hpbench::images
