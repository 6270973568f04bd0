// The C interface of the convolutions, and their threads.
#include "images.hpp"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace hpbench::images {

Sizes::Sizes(const Arguments& a) : parameters(0), tape(0), scratch(0), packed(0), sums(0) {
    side[0] = a.side;
    scratch = ROWS * (a.side + 2) * a.colours;
    int64_t full = a.side / a.stride, inputs = a.colours;
    for (int64_t s = 0; s < a.stages; ++s) {
        const int64_t c = a.channels[s], half = full / 2, plane = half * (half + 2) * c;
        side[s + 1] = half;
        sums = std::max({sums, 9 * c * inputs, a.blocks ? 9 * c * c : 0});
        packed += 9 * c * (inputs + 2 * a.blocks * c);
        parameters += c * (1 + 2 * a.blocks);
        tape += half * half * c / 4 + plane * (2 * a.blocks + 1);
        scratch += full * (full + 2) * c + 3 * plane;
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

void run(const Arguments& a, bool back) {
    const Sizes sizes(a);
    float* packed = a.workspace;
    float* turned = packed + sizes.packed;
    float* gradients = turned + sizes.packed;
    float* scratch = gradients + PARTS * sizes.parameters;
    pack(a, packed, back ? turned : nullptr);
    if (back) std::fill(gradients, scratch, 0.0f);
    const int64_t units = (a.batch + UNIT - 1) / UNIT, parts = std::min(PARTS, units);
    const auto work = a.lanes == 16 ? (back ? wide::backward : wide::forward) : (back ? narrow::backward : narrow::forward);
    // Threads take unit after unit: the first one of each part, then the second ones, so that nobody waits for long at the
    // end. On the way back, a unit is added to its part's sums when the one before has been.
    std::atomic<int64_t> next{0}, done[PARTS] = {};
    auto loop = [&](int64_t thread) {
        float* own = scratch + thread * UNIT * sizes.scratch;
        for (int64_t k = next++; k < (units + parts - 1) / parts * parts; k = next++) {
            const int64_t p = k % parts, unit = p * units / parts + k / parts;
            if (unit >= (p + 1) * units / parts) continue;
            while (back && done[p].load(std::memory_order_acquire) < k / parts) std::this_thread::yield();
            work(Work{a, sizes, packed, turned, own, gradients + p * sizes.parameters, unit, unit + 1});
            done[p].store(k / parts + 1, std::memory_order_release);
        }
    };
    std::vector<std::thread> helpers;
    for (int64_t i = 1; i < std::min(a.threads, units); ++i) helpers.emplace_back(loop, i);
    loop(0);
    for (auto& helper : helpers) helper.join();
    if (!back) return;
    for (int64_t k = 0; k < sizes.parameters; ++k)
        for (int64_t p = 1; p < parts; ++p) gradients[k] += gradients[p * sizes.parameters + k];
    unpack(a, gradients);
}

}  // namespace
}  // namespace hpbench::images

extern "C" {

using hpbench::images::Arguments;

int64_t hpbench_images_arguments_size() { return sizeof(Arguments); }
int64_t hpbench_images_lanes() { return hpbench::images::wide::available() ? 16 : 8; }
// Floats of the tape for 16 images, and of the workspace.
int64_t hpbench_images_tape(const Arguments* a) { return hpbench::images::UNIT * hpbench::images::Sizes(*a).tape; }
int64_t hpbench_images_workspace(const Arguments* a) {
    const hpbench::images::Sizes sizes(*a);
    return 2 * sizes.packed + hpbench::images::PARTS * sizes.parameters + a->threads * hpbench::images::UNIT * sizes.scratch;
}
void hpbench_images_forward(const Arguments* a) { hpbench::images::run(*a, false); }
void hpbench_images_backward(const Arguments* a) { hpbench::images::run(*a, true); }
}
