// Actor and critic on the residual CNN: their outputs, and the gradient of PPO's loss, unit by unit of 16 images from the
// pixels to the loss and back, so that what is kept for the way back is kept for as many only.
#include "images_policy.hpp"

#include <array>
#include <cmath>

#include "images_passes.hpp"
#include "linear.hpp"
#include "ppo_loss.hpp"

namespace hpbench::images {
namespace {

int64_t width(const Arguments& a) {
    const int64_t side = (a.side / a.stride) >> a.stages;
    return side * side * a.channels[a.stages - 1];
}

// Where the layers behind the convolutions are in a row.
template <class Float>
struct Layers {
    Float *dense, *dense_bias, *actor, *actor_bias, *critic, *critic_bias;
    Layers(const Policy& p, Float* row)
        : dense(row + Sizes(p).parameters), dense_bias(dense + width(p) * p.features), actor(dense_bias + p.features),
          actor_bias(actor + p.features * p.actions), critic(actor_bias + p.actions), critic_bias(critic + p.features) {}
};

// What the way back needs of the units that threads are at; where the workspace goes on. It begins at the same place whatever
// the batch: what is zero in it has to stay so.
int64_t tapes(const Policy& p) { return p.threads * UNIT * Sizes(p).tape; }

// Memory of a pass, behind that of the convolutions. Actor and critic are one layer here, the value its last output.
struct Heads {
    const Policy& p;
    const int64_t inputs, features, outputs;
    const Layers<const float> at;
    float* turned;                                                    // weights [outputs, features] of actor and critic
    float *dense_turned, *back, *hidden_back, *flat_back, *gradient;  // for the way back

    Heads(const Policy& p, float* memory, bool learns)
        : p(p), inputs(width(p)), features(p.features), outputs(p.actions + 1), at(p, p.parameters) {
        auto take = [&](int64_t size) {
            float* here = memory;
            memory += (size + 7) / 8 * 8;
            return here;
        };
        turned = take(outputs * features);
        transpose(at.actor, int(features), int(p.actions), turned);
        std::copy_n(at.critic, features, turned + p.actions * features);
        if (!learns) return;
        dense_turned = take(features * inputs);
        transpose(at.dense, int(inputs), int(features), dense_turned);
        back = take(p.batch * outputs), hidden_back = take(p.batch * features), flat_back = take(p.batch * inputs);
        gradient = take(outputs * features);
    }

    static int64_t room(const Policy& p) {
        const int64_t outputs = p.actions + 1;
        return 2 * outputs * p.features + p.features * width(p) + p.batch * (outputs + p.features + width(p)) + 64;
    }

    // What is made of `flat` for some images of the batch.
    void forward(int64_t first, int64_t count) const {
        float* hidden = p.activations + first * features;
        multiply(p.flat + first * inputs, inputs, 1, at.dense, at.dense_bias, hidden, int(count), int(inputs), int(features));
        for (int64_t k = 0; k < count * features; k += 8) {
            const v8 x = load(hidden + k);
            store(hidden + k, x < all(0.0f) ? all(0.0f) : x);  // NaN stays NaN
        }
        for (int64_t i = first; i < first + count; ++i, hidden += features) {
            for (int64_t k = 0; k < p.actions; ++k)
                p.logits[i * p.actions + k] = at.actor_bias[k] + dot(hidden, turned + k * features, int(features));
            p.values[i] = *at.critic_bias + dot(hidden, turned + p.actions * features, int(features));
        }
    }

    // From the gradient of the outputs to that of `flat`.
    void backward(int64_t first, int64_t count) const {
        float* d = hidden_back + first * features;
        const float* hidden = p.activations + first * features;
        multiply(back + first * outputs, outputs, 1, turned, nullptr, d, int(count), int(outputs), int(features));
        for (int64_t k = 0; k < count * features; k += 8) store(d + k, load(hidden + k) > all(0.0f) ? load(d + k) : all(0.0f));
        multiply(d, features, 1, dense_turned, nullptr, flat_back + first * inputs, int(count), int(features), int(inputs));
    }

    // The gradients of all weights and biases, when all images are done: sums over them in their order.
    void finish() const {
        const Layers<float> to(p, p.gradient);
        constexpr int64_t BLOCK = 24;  // inputs
        share((inputs + BLOCK - 1) / BLOCK, p.threads, [&](int64_t block, int64_t) {
            const int64_t i = block * BLOCK;
            multiply(p.flat + i, 1, inputs, hidden_back, nullptr, to.dense + i * features, int(std::min(BLOCK, inputs - i)),
                     int(p.batch), int(features));
        });
        multiply(back, 1, outputs, p.activations, nullptr, gradient, int(outputs), int(p.batch), int(features));
        transpose(gradient, int(p.actions), int(features), to.actor);
        std::copy_n(gradient + p.actions * features, features, to.critic);
        add_rows(hidden_back, features, features, to.dense_bias);
        add_rows(back, outputs, p.actions, to.actor_bias);
        add_rows(back + p.actions, outputs, 1, to.critic_bias);
    }

    void add_rows(const float* rows, int64_t step, int64_t count, float* sums) const {
        std::fill_n(sums, count, 0.0f);
        for (int64_t i = 0; i < p.batch; ++i)
            for (int64_t k = 0; k < count; ++k) sums[k] += rows[i * step + k];
    }
};

int64_t in_unit(const Arguments& a, int64_t unit) { return std::min(UNIT, a.batch - unit * UNIT); }

void outputs(const Policy& p) {
    const Passes passes(p, false);
    const Heads heads(p, passes.end + tapes(p), false);
    for_each_unit(p, [&](const Place& place, auto) {
        passes.forward(place, nullptr);
        heads.forward(place.unit * UNIT, in_unit(p, place.unit));
    });
}

// How advantages are scaled: to zero mean and unit deviation in a batch; a single row stays as it is.
struct Standard {
    float centre = 0.0f, spread = 1.0f;
    explicit Standard(const Policy& p) {
        if (p.batch < 2) return;
        double mean = 0.0, square = 0.0;
        for (int64_t i = 0; i < p.batch; ++i) mean += p.advantage[p.row(i)];
        mean /= static_cast<double>(p.batch);
        for (int64_t i = 0; i < p.batch; ++i) square += (p.advantage[p.row(i)] - mean) * (p.advantage[p.row(i)] - mean);
        centre = static_cast<float>(mean);
        spread = static_cast<float>(std::sqrt(square / static_cast<double>(p.batch - 1))) + 1e-8f;
    }
};

void gradient(Policy p) {
    const Passes passes(p, true);
    const Heads heads(p, passes.end + tapes(p), true);
    p.flat_gradient = heads.flat_back;
    const Standard standard(p);
    const float clip = static_cast<float>(p.clip_range), bonus = static_cast<float>(p.entropy_coefficient);
    const float value_weight = static_cast<float>(p.value_coefficient), share = 1.0f / static_cast<float>(p.batch);
    std::vector<std::array<float, STATISTICS>> terms(static_cast<size_t>(p.batch));
    auto loss = [&](int64_t i, float* log_p) {
        const int64_t row = p.row(i), choice = static_cast<int64_t>(p.action[row]);
        float* d = heads.back + i * heads.outputs;
        const float entropy = ppo::probabilities(p.logits + i * p.actions, p.actions, d, log_p);
        const float advantage = (p.advantage[row] - standard.centre) / standard.spread, error = p.values[i] - p.target[row];
        const ppo::Surrogate term = ppo::surrogate(log_p[choice], p.log_prob[row], advantage, clip, share);
        ppo::choice_gradient(p.actions, choice, term.slope, bonus, share, entropy, log_p, d);
        d[p.actions] = value_weight * 2.0f * error * share;
        terms[static_cast<size_t>(i)] = {term.loss, error * error, entropy, term.kl, term.clipped ? 1.0f : 0.0f};
    };
    for_each_unit(p, [&](const Place& place, auto wait) {
        const int64_t first = place.unit * UNIT, count = in_unit(p, place.unit);
        float* tape = passes.end + place.thread * UNIT * passes.sizes.tape;
        passes.forward(place, tape);
        heads.forward(first, count);
        std::vector<float> log_p(static_cast<size_t>(p.actions));
        for (int64_t i = first; i < first + count; ++i) loss(i, log_p.data());
        heads.backward(first, count);
        wait();
        passes.backward(place, tape);
    });
    passes.finish();
    heads.finish();
    std::fill_n(p.statistics, STATISTICS, 0.0);
    for (const auto& row : terms)
        for (size_t k = 0; k < STATISTICS; ++k) p.statistics[k] += static_cast<double>(row[k]) / static_cast<double>(p.batch);
}

}  // namespace
}  // namespace hpbench::images

extern "C" {

using hpbench::images::Policy;

int64_t hpbench_images_policy_size() { return sizeof(Policy); }
// Floats of the workspace.
int64_t hpbench_images_policy_workspace(const Policy* p) {
    using namespace hpbench::images;
    return Passes::room(*p) + tapes(*p) + Heads::room(*p);
}
void hpbench_images_outputs(const Policy* p) { hpbench::images::outputs(*p); }
void hpbench_images_ppo(const Policy* p) { hpbench::images::gradient(*p); }
}
