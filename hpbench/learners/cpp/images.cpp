// The C interface of the convolutions, and what their passes over a batch have in common.
#include "images_passes.hpp"

#include <algorithm>

namespace hpbench::images {

Sizes::Sizes(const Arguments& a) : parameters(0), tape(0), scratch(0), packed(0), sums(0) {
    side[0] = a.side;
    scratch = ROWS * (a.side + 2) * a.colours;
    int64_t full = a.side / a.stride, inputs = a.colours;
    for (int64_t s = 0; s < a.stages; ++s) {
        const int64_t c = a.channels[s], half = full / 2, plane = half * (half + 2) * c;
        side[s + 1] = half;
        sums = std::max({sums, 9 * c * inputs + c, a.blocks ? 9 * c * c : 0});
        packed += 9 * c * (inputs + 2 * a.blocks * c);
        parameters += c * (1 + 2 * a.blocks);
        tape += half * half * c / 4 + plane * (2 * a.blocks + 1);
        scratch += (s == 0 ? ROWS : full) * (full + 2) * c + 2 * plane;
        full = half;
        inputs = c;
    }
    parameters += packed;
    scratch += tape + sums;
}

namespace {

// Calls `each(inputs, outputs)` for every convolution in turn.
template <class Function>
void for_each_layer(const Arguments& a, Function each) {
    int64_t inputs = a.colours;
    for (int64_t s = 0; s < a.stages; ++s)
        for (int64_t layer = 0; layer <= 2 * a.blocks; ++layer) {
            each(inputs, a.channels[s]);
            inputs = a.channels[s];
        }
}

// From (outputs, 3, 3, inputs) to [outputs / 4][inputs][3][3][4]; turned: for the gradients of inputs.
void pack(const Arguments& a, float* packed, float* turned) {
    const float* from = a.parameters;
    for_each_layer(a, [&](int64_t inputs, int64_t outputs) {
        const float scale = from == a.parameters ? 1.0f / 255.0f : 1.0f;
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t k = 0; k < 9; ++k)
                for (int64_t i = 0; i < inputs; ++i) {
                    const float weight = *from++ * scale;
                    packed[((o / 4 * inputs + i) * 9 + k) * 4 + o % 4] = weight;
                    // The image's own gradient is never asked for, nor have its colours groups of four.
                    if (turned && inputs % 4 == 0) turned[((i / 4 * outputs + o) * 9 + 8 - k) * 4 + i % 4] = weight;
                }
        from += outputs;
        packed += outputs * inputs * 9;
        if (turned) turned += outputs * inputs * 9;
    });
}

// The gradient in the order of the parameters: weights (outputs, 3, 3, inputs) from [outputs / 4][inputs][3 rows][4][3 columns].
void unpack(const Arguments& a, const float* from) {
    float* to = a.gradient;
    for_each_layer(a, [&](int64_t inputs, int64_t outputs) {
        const float scale = to == a.gradient ? 1.0f / 255.0f : 1.0f;
        for (int64_t o = 0; o < outputs; ++o)
            for (int64_t ky = 0; ky < 3; ++ky)
                for (int64_t kx = 0; kx < 3; ++kx)
                    for (int64_t i = 0; i < inputs; ++i)
                        *to++ = from[((o / 4 * inputs + i) * 3 + ky) * 12 + o % 4 * 3 + kx] * scale;
        from += 9 * outputs * inputs;
        to = std::copy_n(from, outputs, to);
        from += outputs;
    });
}

}  // namespace

Passes::Passes(const Arguments& a, bool back) : a(a), sizes(a) {
    packed_ = a.workspace;
    turned_ = packed_ + sizes.packed;
    gradients_ = turned_ + sizes.packed;
    scratch_ = gradients_ + PARTS * sizes.parameters;
    end = scratch_ + a.threads * UNIT * sizes.scratch;
    pack(a, packed_, back ? turned_ : nullptr);
    if (back) std::fill(gradients_, scratch_, 0.0f);
}

int64_t Passes::room(const Arguments& a) {
    const Sizes sizes(a);
    return 2 * sizes.packed + PARTS * sizes.parameters + a.threads * UNIT * sizes.scratch;
}

Work Passes::work(const Place& place, float* tape) const {
    float* own = scratch_ + place.thread * UNIT * sizes.scratch;
    return {a, sizes, packed_, turned_, own, tape, gradients_ + place.part * sizes.parameters, place.unit};
}

void Passes::forward(const Place& place, float* tape) const {
    (a.lanes == 16 ? wide::forward : narrow::forward)(work(place, tape));
}

void Passes::backward(const Place& place, float* tape) const {
    (a.lanes == 16 ? wide::backward : narrow::backward)(work(place, tape));
}

void Passes::finish() const {
    for (int64_t k = 0; k < sizes.parameters; ++k)
        for (int64_t p = 1; p < parts(a); ++p) gradients_[k] += gradients_[p * sizes.parameters + k];
    unpack(a, gradients_);
}

namespace {

void run(const Arguments& a, bool back) {
    const Passes passes(a, back);
    for_each_unit(a, [&](const Place& place, auto wait) {
        float* tape = a.tape ? a.tape + place.unit * UNIT * passes.sizes.tape : nullptr;
        if (!back) return passes.forward(place, tape);
        wait();
        passes.backward(place, tape);
    });
    if (back) passes.finish();
}

}  // namespace
}  // namespace hpbench::images

extern "C" {

using hpbench::images::Arguments;

int64_t hpbench_images_arguments_size() { return sizeof(Arguments); }
int64_t hpbench_images_lanes() { return hpbench::images::wide::available() ? 16 : 8; }
// Floats of the tape for 16 images, and of the workspace.
int64_t hpbench_images_tape(const Arguments* a) { return hpbench::images::UNIT * hpbench::images::Sizes(*a).tape; }
int64_t hpbench_images_workspace(const Arguments* a) { return hpbench::images::Passes::room(*a); }
void hpbench_images_forward(const Arguments* a) { hpbench::images::run(*a, false); }
void hpbench_images_backward(const Arguments* a) { hpbench::images::run(*a, true); }
}
