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

// Acting on what a simulator shows, for some environments of one member: features, the actor and the critic, a choice; and
// recording what became of it. Arrays of all steps begin at the first of the `batch` environments in the first step; from
// step to step it is `stride` environments.
struct Acting {
    Arguments network;  // its batch: environments
    int64_t stride, limit, delay, slots;
    const int16_t* shown;  // of the simulator, [batch, observation], and the rest of what it shows: [batch]
    const double* gained;
    const uint8_t* over;
    int64_t* given;          // [batch]: what the simulator reads, the choices of `delay` steps ago
    const float* head;       // [features, heads]: columns of the actor, of the critic, zeros
    const float* head_bias;  // [heads]
    const float* draws;      // [steps, stride]: uniform
    int64_t* elapsed;        // [batch]
    float* queue;            // [batch, slots]: choices of the last steps, the newest first
    int16_t* observation;    // [steps, stride, observation]
    float *action, *log_prob, *value;  // [steps, stride], and all the rest
    double* reward;
    uint8_t *done, *truncated;
    int64_t* length;
};

}  // namespace hpbench::glyphs
