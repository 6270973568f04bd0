// A network with two hidden layers inside a flat parameter row: weights [inputs, outputs], then biases, layer by layer.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.hpp"

namespace hpbench {

struct Shape {
    int inputs, first, second, outputs;

    size_t size() const {
        return static_cast<size_t>(inputs + 1) * first + static_cast<size_t>(first + 1) * second +
               static_cast<size_t>(second + 1) * outputs;
    }
};

struct Tanh {
    static v8 forward(v8 x) { return tanh8(x); }
    static v8 backward(v8 gradient, v8 y) { return gradient * (1.0f - y * y); }
};

struct Relu {
    static v8 forward(v8 x) { return x < all(0.0f) ? all(0.0f) : x; }  // NaN stays NaN
    static v8 backward(v8 gradient, v8 y) { return y > all(0.0f) ? gradient : all(0.0f); }
};

template <class Activation>
class Network {
  public:
    Network(Shape shape, size_t batch)
        : shape_(shape), h1_(batch * shape.first), h2_(batch * shape.second), d1_(batch * shape.first), d2_(batch * shape.second),
          out_(batch * shape.outputs), w2t_(static_cast<size_t>(shape.first) * shape.second),
          w3t_(static_cast<size_t>(shape.second) * shape.outputs), g3t_(static_cast<size_t>(shape.second) * shape.outputs) {}

    // Point at parameters; to be called again whenever they have changed.
    void load_parameters(const float* p) {
        const auto& s = shape_;
        w1_ = p, b1_ = w1_ + static_cast<ptrdiff_t>(s.inputs) * s.first;
        w2_ = b1_ + s.first, b2_ = w2_ + static_cast<ptrdiff_t>(s.first) * s.second;
        w3_ = b2_ + s.second, b3_ = w3_ + static_cast<ptrdiff_t>(s.second) * s.outputs;
        transpose(w3_, s.second, s.outputs, w3t_.data());
    }

    // Outputs [count, outputs] of inputs x [count, inputs]; valid until the next call.
    const float* forward(const float* x, int count) {
        const auto& s = shape_;
        multiply(x, s.inputs, 1, w1_, b1_, h1_.data(), count, s.inputs, s.first);
        activate(h1_.data(), static_cast<size_t>(count) * s.first);
        multiply(h1_.data(), s.first, 1, w2_, b2_, h2_.data(), count, s.first, s.second);
        activate(h2_.data(), static_cast<size_t>(count) * s.second);
        for (int i = 0; i < count; ++i)
            for (int o = 0; o < s.outputs; ++o)
                out_[static_cast<size_t>(i) * s.outputs + o] =
                    b3_[o] + dot(&h2_[static_cast<size_t>(i) * s.second], &w3t_[static_cast<size_t>(o) * s.second], s.second);
        return out_.data();
    }

    // Gradient (same layout as the parameters, overwritten) of a loss with output gradient d [count, outputs], for the inputs
    // of the last forward call.
    void backward(const float* x, const float* d, int count, float* gradient) {
        const auto& s = shape_;
        float *g1 = gradient, *gb1 = g1 + static_cast<ptrdiff_t>(s.inputs) * s.first, *g2 = gb1 + s.first;
        float *gb2 = g2 + static_cast<ptrdiff_t>(s.first) * s.second, *g3 = gb2 + s.second;
        float* gb3 = g3 + static_cast<ptrdiff_t>(s.second) * s.outputs;
        multiply(d, 1, s.outputs, h2_.data(), nullptr, g3t_.data(), s.outputs, count, s.second);
        transpose(g3t_.data(), s.outputs, s.second, g3);
        std::fill(gb3, gb3 + s.outputs, 0.0f);
        for (int i = 0; i < count; ++i)
            for (int o = 0; o < s.outputs; ++o) gb3[o] += d[static_cast<ptrdiff_t>(i) * s.outputs + o];
        multiply(d, s.outputs, 1, w3t_.data(), nullptr, d2_.data(), count, s.outputs, s.second);
        through(h2_, d2_, count, s.second, gb2);
        multiply(h1_.data(), 1, s.first, d2_.data(), nullptr, g2, s.first, count, s.second);
        transpose(w2_, s.first, s.second, w2t_.data());
        multiply(d2_.data(), s.second, 1, w2t_.data(), nullptr, d1_.data(), count, s.second, s.first);
        through(h1_, d1_, count, s.first, gb1);
        multiply(x, 1, s.inputs, d1_.data(), nullptr, g1, s.inputs, count, s.first);
    }

    // Of a network with one output: its gradient with respect to the inputs from `first` on, for some rows of the last forward
    // call, times `d` of each: out [count, inputs - first]. The parameters are taken as constants.
    void input_gradient(const int* rows, int count, const float* d, int first, float* out) {
        const auto& s = shape_;
        for (int i = 0; i < count; ++i)
            for (int j = 0; j < s.second; j += 8)
                store(&d2_[static_cast<size_t>(i) * s.second + j],
                      Activation::backward(load(&w3t_[j]) * d[i], load(&h2_[static_cast<size_t>(rows[i]) * s.second + j])));
        transpose(w2_, s.first, s.second, w2t_.data());
        multiply(d2_.data(), s.second, 1, w2t_.data(), nullptr, d1_.data(), count, s.second, s.first);
        for (int i = 0; i < count; ++i) {
            float* row = &d1_[static_cast<size_t>(i) * s.first];
            for (int j = 0; j < s.first; j += 8)
                store(row + j, Activation::backward(load(row + j), load(&h1_[static_cast<size_t>(rows[i]) * s.first + j])));
            for (int k = first; k < s.inputs; ++k)
                out[static_cast<ptrdiff_t>(i) * (s.inputs - first) + k - first] =
                    dot(row, w1_ + static_cast<ptrdiff_t>(k) * s.first, s.first);
        }
    }

    // Hidden activations of the last forward call, [count, width].
    const float* first_hidden() const { return h1_.data(); }
    const float* second_hidden() const { return h2_.data(); }

  private:
    static void activate(float* x, size_t count) {
        for (size_t i = 0; i < count; i += 8) store(x + i, Activation::forward(load(x + i)));
    }

    // d times the slope of the activation, and the bias gradient: column sums of d.
    static void through(const std::vector<float>& h, std::vector<float>& d, int count, int width, float* bias) {
        for (int j = 0; j < width; j += 8) {
            v8 total = all(0.0f);
            for (int i = 0; i < count; ++i) {
                size_t at = static_cast<size_t>(i) * width + j;
                v8 y = load(&h[at]), g = Activation::backward(load(&d[at]), y);
                store(&d[at], g);
                total += g;
            }
            store(bias + j, total);
        }
    }

    Shape shape_;
    std::vector<float> h1_, h2_, d1_, d2_, out_, w2t_, w3t_, g3t_;
    const float *w1_, *b1_, *w2_, *b2_, *w3_, *b3_;
};

}  // namespace hpbench
