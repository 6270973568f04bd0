// Convolutions of the residual CNN that reads images (learners/impala.py): what the C interface hands over.
//
// Images are computed in units of 16, in vectors that hold one number of 8 or 16 images: every sum over pixels and channels
// is then a chain of multiply-adds in one fixed order, and vectors of 16 give the same bits as two of 8. Gradients are summed
// over the images of a vector of 8 first, then over units, then over PARTS equal parts of the batch, whichever threads
// computed them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hpbench::images {

constexpr int64_t UNIT = 16, PARTS = 8;
constexpr int64_t LARGEST = 8;  // number of colours, stages, blocks
constexpr int64_t ROWS = 4;     // of the images, and of what is pooled first, that are there at a time; a power of 2

struct Arguments {
    int64_t batch, side, colours, stride, stages, blocks, threads, lanes;
    int64_t channels[LARGEST];
    const uint8_t* pixels;    // [batch, side * side * colours]
    const int64_t* rows;      // which of the pixels' rows the batch is; null: all in their order
    const float* parameters;  // of the convolutions: weights (outputs, 3, 3, inputs), biases, weights, ...
    float* workspace;         // zeros at first; what is in it afterwards may be left there
    float* tape;              // what the way back needs; null: nobody will go back
    float* flat;              // [batch, last side * last side * last channels], rectified
    const float* flat_gradient;
    float* gradient;  // as parameters
    float* means;     // [batch, sum of channels]: of each stage's outputs over the image; null: nobody asks
    int64_t row(int64_t image) const { return rows ? rows[image] : image; }
};

// One convolution: how many numbers it reads from and writes to, and where it is among the parameters.
struct Layer {
    int64_t inputs, outputs, weights, biases;
};

struct Sizes {
    int64_t side[LARGEST + 1];  // of each stage's input; then of the last output
    int64_t parameters, tape, scratch, packed;
    int64_t sums;  // of the layer with the most weights, waiting for more pixels
    explicit Sizes(const Arguments& a);
};

// The two passes over a unit, with a thread's own scratch memory.
struct Work {
    const Arguments& a;
    const Sizes& sizes;
    const float *packed, *turned;  // weights for convolutions, and for gradients of their inputs
    float* scratch;
    float* tape;      // of the unit; null: nobody will go back
    float* gradient;  // to be added to
    int64_t unit;
};

namespace narrow {
void forward(const Work& work);
void backward(const Work& work);
}  // namespace narrow
namespace wide {
bool available();
void forward(const Work& work);
void backward(const Work& work);
}  // namespace wide

}  // namespace hpbench::images
