// The network that reads NetHack: both passes, and acting with it.
#include "glyphs.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "linear.hpp"
#include "threads.hpp"

namespace hpbench::glyphs {
namespace {

// Where the pieces of a row of parameters are, or of their gradients.
template <typename T>
struct Pieces {
    T *glyphs, *letters, *patch, *patch_bias, *status, *status_bias, *message, *message_bias, *joint, *joint_bias, *end;
    Pieces(const Arguments& a, T* row) {
        auto next = [&row](int64_t count) { return (row += count) - count; };
        glyphs = next(a.glyphs * a.glyph_width);
        letters = next(a.letters * a.letter_width);
        patch = next(a.seen() * a.channels);
        patch_bias = next(a.channels);
        status = next(a.status() * a.side);
        status_bias = next(a.side);
        message = next(a.spelt() * a.side);
        message_bias = next(a.side);
        joint = next(a.joint() * a.features);
        joint_bias = next(a.features);
        end = row;
    }
    int64_t size() const { return end - glyphs; }
};

// What the layers read, of a block of observations, and a thread's memory for the rest.
struct Scratch {
    std::unique_ptr<float[]> memory;
    float *seen, *status, *spelt, *patches, *side, *joint, *product;
    explicit Scratch(const Arguments& a, int64_t count) {
        const int64_t largest = std::max({a.seen() * a.channels, a.status() * a.side, a.spelt() * a.side, a.joint() * a.features});
        const int64_t sizes[] = {count * a.patches() * a.seen(), count * a.status(), count * a.spelt(), count * a.patches() * a.channels,
                                 count * a.side, count * a.joint(), std::max(largest, count * a.patches() * a.seen())};
        float** const parts[] = {&seen, &status, &spelt, &patches, &side, &joint, &product};
        int64_t total = 0;
        for (int64_t size : sizes) total += size;
        memory.reset(new float[total]);
        float* at = memory.get();
        for (int i = 0; i < 7; ++i) {
            *parts[i] = at;
            at += sizes[i];
        }
    }
};

// Rows of the embeddings. Bytes beyond ASCII count as the last letter; no game shows other glyphs than there are.
inline int64_t within(int16_t number, int64_t count) { return std::clamp<int64_t>(number, 0, count - 1); }

void read(const Arguments& a, const Pieces<const float>& p, const int16_t* observations, int count, const Scratch& s) {
    float *seen = s.seen, *status = s.status, *spelt = s.spelt;
    for (int i = 0; i < count; ++i) {
        const int16_t* from = observations + i * a.observation;
        for (int64_t cell = 0; cell < a.cells; ++cell, seen += a.glyph_width) {
            const float* row = p.glyphs + within(from[a.order[cell]], a.glyphs) * a.glyph_width;
            for (int64_t k = 0; k < a.glyph_width; k += 8) store(seen + k, load(row + k));
        }
        from += a.cells;
        for (int64_t k = 0; k < a.statuses; ++k) {
            const float x = from[k];
            *status++ = (a.log[k] ? std::copysign(std::log1p(std::fabs(x)), x) : x) / a.scales[k];
        }
        from += a.statuses;
        for (int64_t k = 0; k < a.conditions; ++k) *status++ = from[k];
        from += a.conditions;
        for (int64_t k = 0; k < a.message; ++k) {
            const float* row = p.letters + within(from[k], a.letters) * a.letter_width;
            for (int64_t j = 0; j < a.letter_width; ++j) *spelt++ = row[j];
        }
    }
}

inline v8 rectified(v8 x) { return x < 0.0f ? v8{} : x; }  // NaN stays NaN

// Rectified rows of `width` go to columns of wider rows.
void rectify(const float* from, int count, int64_t width, float* to, int64_t stride) {
    for (int i = 0; i < count; ++i)
        for (int64_t k = 0; k < width; k += 8) store(to + i * stride + k, rectified(load(from + i * width + k)));
}

// Features of at most BLOCK observations; `joint` is what the last layer read.
void forward(const Arguments& a, const Pieces<const float>& p, const int16_t* observations, int count, const Scratch& s, float* joint,
             float* out) {
    const int patches = static_cast<int>(a.patches()), channels = static_cast<int>(a.channels), side = static_cast<int>(a.side);
    const int64_t all_patches = a.patches() * a.channels;
    read(a, p, observations, count, s);
    multiply(s.seen, a.seen(), 1, p.patch, p.patch_bias, s.patches, count * patches, static_cast<int>(a.seen()), channels);
    rectify(s.patches, count, all_patches, joint, a.joint());
    multiply(s.status, a.status(), 1, p.status, p.status_bias, s.side, count, static_cast<int>(a.status()), side);
    rectify(s.side, count, side, joint + all_patches, a.joint());
    multiply(s.spelt, a.spelt(), 1, p.message, p.message_bias, s.side, count, static_cast<int>(a.spelt()), side);
    rectify(s.side, count, side, joint + all_patches + side, a.joint());
    multiply(joint, a.joint(), 1, p.joint, p.joint_bias, out, count, static_cast<int>(a.joint()), static_cast<int>(a.features));
    rectify(out, count, a.features, out, a.features);
}

// gradient += of the weights and biases of a layer that read `x` [count, inputs].
void weigh(const float* x, int64_t inputs, const float* d, int count, int64_t outputs, float* product, float* weights, float* biases) {
    multiply(x, 1, inputs, d, nullptr, product, static_cast<int>(inputs), count, static_cast<int>(outputs));
    for (int64_t k = 0; k < inputs * outputs; k += 8) store(weights + k, load(weights + k) + load(product + k));
    for (int i = 0; i < count; ++i)
        for (int64_t k = 0; k < outputs; k += 8) store(biases + k, load(biases + k) + load(d + i * outputs + k));
}

// Gradients pass where what came out is above zero; columns of wider rows are put together.
void pass(const float* d, const float* out, int count, int64_t width, int64_t stride, float* to) {
    for (int i = 0; i < count; ++i)
        for (int64_t k = 0; k < width; k += 8) {
            const v8 y = load(out + i * stride + k);
            store(to + i * width + k, y <= 0.0f ? v8{} : load(d + i * stride + k));
        }
}

// Weights the other way round, for the gradients of what layers read.
struct Turned {
    std::unique_ptr<float[]> memory;
    float *patch, *message, *joint;
    Turned(const Arguments& a, const Pieces<const float>& p) {
        const int64_t patches = a.seen() * a.channels, letters = a.spelt() * a.side;
        memory.reset(new float[patches + letters + a.joint() * a.features]);
        patch = memory.get();
        message = patch + patches;
        joint = message + letters;
        transpose(p.patch, static_cast<int>(a.seen()), static_cast<int>(a.channels), patch);
        transpose(p.message, static_cast<int>(a.spelt()), static_cast<int>(a.side), message);
        transpose(p.joint, static_cast<int>(a.joint()), static_cast<int>(a.features), joint);
    }
};

void backward(const Arguments& a, const Pieces<const float>& p, const Turned& turned, int64_t first, int count, const Scratch& s,
              const Pieces<float>& gradient) {
    const int patches = static_cast<int>(a.patches()), channels = static_cast<int>(a.channels), side = static_cast<int>(a.side);
    const int64_t all_patches = a.patches() * a.channels;
    const int16_t* observations = a.observations + first * a.observation;
    const float* joint = a.joined + first * a.joint();
    read(a, p, observations, count, s);
    float* d = s.side;  // of the features; then of the status, and of the message
    std::unique_ptr<float[]> features(new float[count * a.features]);
    pass(a.out_gradient + first * a.features, a.out + first * a.features, count, a.features, a.features, features.get());
    weigh(joint, a.joint(), features.get(), count, a.features, s.product, gradient.joint, gradient.joint_bias);
    multiply(features.get(), a.features, 1, turned.joint, nullptr, s.joint, count, static_cast<int>(a.features), static_cast<int>(a.joint()));
    pass(s.joint + all_patches, joint + all_patches, count, side, a.joint(), d);
    weigh(s.status, a.status(), d, count, side, s.product, gradient.status, gradient.status_bias);
    pass(s.joint + all_patches + side, joint + all_patches + side, count, side, a.joint(), d);
    weigh(s.spelt, a.spelt(), d, count, side, s.product, gradient.message, gradient.message_bias);
    multiply(d, side, 1, turned.message, nullptr, s.spelt, count, side, static_cast<int>(a.spelt()));
    pass(s.joint, joint, count, all_patches, a.joint(), s.patches);
    weigh(s.seen, a.seen(), s.patches, count * patches, channels, s.product, gradient.patch, gradient.patch_bias);
    multiply(s.patches, channels, 1, turned.patch, nullptr, s.seen, count * patches, channels, static_cast<int>(a.seen()));
    const float *seen = s.seen, *spelt = s.spelt;
    for (int i = 0; i < count; ++i) {
        const int16_t* from = observations + i * a.observation;
        for (int64_t cell = 0; cell < a.cells; ++cell, seen += a.glyph_width) {
            float* row = gradient.glyphs + within(from[a.order[cell]], a.glyphs) * a.glyph_width;
            for (int64_t k = 0; k < a.glyph_width; k += 8) store(row + k, load(row + k) + load(seen + k));
        }
        from += a.observation - a.message;
        for (int64_t k = 0; k < a.message; ++k) {
            float* row = gradient.letters + within(from[k], a.letters) * a.letter_width;
            for (int64_t j = 0; j < a.letter_width; ++j) row[j] += *spelt++;
        }
    }
}

std::vector<Scratch> scratches(const Arguments& a, int64_t parts) {
    std::vector<Scratch> all;
    for (int64_t i = 0; i < std::max<int64_t>(1, std::min(a.threads, parts)); ++i) all.emplace_back(a, std::min<int64_t>(BLOCK, a.batch));
    return all;
}

void forward(const Arguments& a) {
    const Pieces<const float> p(a, a.parameters);
    const int64_t blocks = (a.batch + BLOCK - 1) / BLOCK, parts = std::min<int64_t>(PARTS, blocks);
    const auto scratch = scratches(a, parts);
    share(parts, a.threads, [&](int64_t part, int64_t thread) {
        for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
            const int64_t first = block * BLOCK;
            const Scratch& s = scratch[thread];
            forward(a, p, a.observations + first * a.observation, static_cast<int>(std::min<int64_t>(BLOCK, a.batch - first)), s,
                    a.joined ? a.joined + first * a.joint() : s.joint, a.out + first * a.features);
        }
    });
}

void backward(const Arguments& a) {
    const Pieces<const float> p(a, a.parameters);
    const Turned turned(a, p);
    const int64_t blocks = (a.batch + BLOCK - 1) / BLOCK, parts = std::min<int64_t>(PARTS, blocks), size = p.size();
    const auto scratch = scratches(a, parts);
    std::vector<float> sums(parts * size);
    share(parts, a.threads, [&](int64_t part, int64_t thread) {
        const Pieces<float> gradient(a, sums.data() + part * size);
        for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
            const int64_t first = block * BLOCK;
            backward(a, p, turned, first, static_cast<int>(std::min<int64_t>(BLOCK, a.batch - first)), scratch[thread], gradient);
        }
    });
    for (int64_t k = 0; k < size; ++k) {
        float sum = 0.0f;
        for (int64_t part = 0; part < parts; ++part) sum += sums[part * size + k];
        a.gradient[k] = sum;
    }
}

void act(const Acting& acting, int64_t step) {
    Arguments a = acting.network;
    const int64_t start = step * acting.stride;
    int16_t* observations = acting.observation + start * a.observation;
    std::copy_n(acting.shown, a.batch * a.observation, observations);
    std::unique_ptr<float[]> memory(new float[a.batch * (a.features + a.heads)]);
    float* outputs = memory.get() + a.batch * a.features;
    a.observations = observations;
    a.out = memory.get();
    forward(a);
    multiply(a.out, a.features, 1, acting.head, acting.head_bias, outputs, static_cast<int>(a.batch), static_cast<int>(a.features),
             static_cast<int>(a.heads));
    for (int64_t i = 0; i < a.batch; ++i, outputs += a.heads) {
        const float top = *std::max_element(outputs, outputs + a.choices), draw = acting.draws[start + i];
        float total = 0.0f, cumulative = 0.0f;
        for (int64_t k = 0; k < a.choices; ++k) total += std::exp(outputs[k] - top);
        int64_t choice = 0;
        for (int64_t k = 0; k + 1 < a.choices; ++k) {
            cumulative += std::exp(outputs[k] - top) / total;
            choice += draw >= cumulative;
        }
        float* queue = acting.queue + i * acting.slots;
        acting.given[i] = acting.delay ? static_cast<int64_t>(queue[acting.delay - 1]) : choice;
        std::copy_backward(queue, queue + acting.slots - 1, queue + acting.slots);
        queue[0] = static_cast<float>(choice);
        acting.action[start + i] = static_cast<float>(choice);
        acting.log_prob[start + i] = outputs[choice] - top - std::log(total);
        acting.value[start + i] = outputs[a.choices];
    }
}

// What the simulator made of the step. Returns how many episodes have ended.
int64_t record(const Acting& acting, int64_t step) {
    const int64_t start = step * acting.stride;
    int64_t ended = 0;
    for (int64_t i = 0, k = start; i < acting.network.batch; ++i, ++k) {
        const bool over = acting.over[i], cut = !over && acting.elapsed[i] + 1 >= acting.limit;
        acting.reward[k] = acting.gained[i];
        acting.length[k] = ++acting.elapsed[i];
        acting.truncated[k] = cut;
        acting.done[k] = over || cut;
        ended += over || cut;
    }
    return ended;
}

}  // namespace
}  // namespace hpbench::glyphs

extern "C" {

int64_t hpbench_glyphs_arguments_size() { return sizeof(hpbench::glyphs::Arguments); }
int64_t hpbench_glyphs_acting_size() { return sizeof(hpbench::glyphs::Acting); }
void hpbench_glyphs_forward(const hpbench::glyphs::Arguments* a) { hpbench::glyphs::forward(*a); }
void hpbench_glyphs_backward(const hpbench::glyphs::Arguments* a) { hpbench::glyphs::backward(*a); }
int64_t hpbench_glyphs_record(const hpbench::glyphs::Acting* a, int64_t step) { return hpbench::glyphs::record(*a, step); }
void hpbench_glyphs_act(const hpbench::glyphs::Acting* a, int64_t step) { hpbench::glyphs::act(*a, step); }
}
