// The network that reads NetHack (learners/glyphs.py): what the C interface hands over.
//
// Every output is summed up in one fixed order (linear.hpp), so an observation's features do not depend on its batch.
// Gradients are summed over the observations of a block of BLOCK, then over blocks, then over PARTS equal parts of the
// batch, whichever threads computed them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hpbench::glyphs {

constexpr int BLOCK = 32, PARTS = 8;

// All sizes are whole numbers of the layout and of the encoder; widths are multiples of 8, but for letter_width.
struct Arguments {
    int64_t batch, threads;
    int64_t observation, cells, patch, statuses, conditions, message, letters;           // of the layout
    int64_t glyphs, glyph_width, letter_width, channels, side, features, choices, heads;  // heads: outputs, padded
    const int64_t* order;         // [cells]: places of the glyphs in an observation, patch by patch
    const float* scales;          // [statuses]
    const uint8_t* log;           // [statuses]
    const int16_t* observations;  // [batch, observation]
    const float* parameters;      // as Glyphs.shapes
    float* joined;                // [batch, joined()]: what the last layer reads; null: nobody will go back
    float* out;                   // [batch, features]
    const float* out_gradient;    // [batch, features]
    float* gradient;              // as parameters

    int64_t patches() const { return cells / patch; }
    int64_t seen() const { return patch * glyph_width; }
    int64_t status() const { return statuses + conditions; }
    int64_t spelt() const { return message * letter_width; }
    int64_t joint() const { return patches() * channels + 2 * side; }
};

// Acting on what a simulator shows: features, the actor and the critic, a choice; all of it goes into the rollout buffer. The
// arrays begin at the first of the `batch` environments in the first step; from step to step it is `stride` environments.
struct Acting {
    Arguments network;  // its batch: environments
    int64_t stride;
    const int16_t* shown;     // [batch, observation]: of the simulator
    const float* head;        // [features, heads]: columns of the actor, of the critic, zeros
    const float* head_bias;   // [heads]
    const float* draws;       // [steps, stride]: uniform
    int16_t* observation;     // [steps, stride, observation]
    float *action, *log_prob, *value;  // [steps, stride]
    int64_t* choice;          // [batch]
};

}  // namespace hpbench::glyphs
