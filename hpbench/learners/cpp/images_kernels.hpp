// The kernels, for vectors of LANES images: included once for each width, in a namespace of its own.
//
// A plane is [row][channel][column][lane] with a zero column on either side, so that kernels need not look for the edge.
#ifndef LANES
#error "define LANES first"
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef int8_t vb __attribute__((vector_size(LANES)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));
typedef int32_t vi8 __attribute__((vector_size(32)));
typedef uint8_t b8 __attribute__((vector_size(8)));
typedef uint8_t b16 __attribute__((vector_size(16)));

inline vf load(const float* p) {
    vf x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }
inline vf all(float x) { return x - vf{}; }
// A vector for several uses. GCC 12 else loads it anew for each of them, or keeps what it has seen for the next turn of a
// loop, and puts sums into memory to have a register for that.
inline vf load_once(const float* p) {
#ifdef __x86_64__
    asm("" : "+r"(p));
#endif
    return load(p);
}
inline vf rectified(vf x) { return x < 0.0f ? vf{} : x; }  // NaN stays NaN

struct Plane {
    float* at;  // the first pixel, behind the zero column
    int64_t row, channel, channels, side;
    float* whole() const { return at - LANES; }
    int64_t size() const { return side * row; }
    const float* operator()(int64_t y) const { return at + y * row; }
};

inline Plane plane(float*& memory, int64_t channels, int64_t side, int64_t rows = 0) {
    Plane p{memory + LANES, channels * (side + 2) * LANES, (side + 2) * LANES, channels, side};
    memory += (rows ? rows : side) * p.row;
    return p;
}

// Pixels of a row that are summed together, for 4 output channels. With 3 of them in 16 registers the convolution took
// twice as long (measured, GCC 12).
constexpr int PIXELS = LANES == 16 ? 4 : 2;

// P pixels of a row, 4 output channels: start + sum over inputs, rows and columns of the kernel. `x`: how far the first
// pixel is into the `rows`.
template <int P, int STRIDE>
inline void tile(const float* const* rows, int64_t x, int64_t channels, int64_t channel, int64_t top, int64_t bottom,
                 const float* weights, const float* bias, float* y, const Plane& out) {
    vf acc[4][P];
    for (int c = 0; c < 4; ++c)
        for (int p = 0; p < P; ++p) acc[c][p] = bias ? all(bias[c]) : vf{};
    for (int64_t i = 0; i < channels; ++i)
        for (int64_t ky = top; ky < bottom; ++ky) {
            const float* from = rows[ky] + x + i * channel;
            const float* w = weights + (i * 3 + ky) * 12;
            for (int kx = 0; kx < 3; ++kx) {
                vf seen[P];
                for (int p = 0; p < P; ++p) seen[p] = load(from + (p * STRIDE + kx) * LANES);
                for (int c = 0; c < 4; ++c) {
                    vf weight = all(w[kx * 4 + c]);
                    for (int p = 0; p < P; ++p) acc[c][p] += weight * seen[p];
                }
            }
        }
    for (int c = 0; c < 4; ++c)
        for (int p = 0; p < P; ++p) store(y + c * out.channel + p * LANES, acc[c][p]);
}

// The rows of the input under the kernel for row `y` of the output: those from `top` to `bottom` of three.
struct Under {
    const float* rows[3];
    int64_t top, bottom;
    template <class In>
    Under(In& in, int64_t y, int64_t stride) : rows{}, top(y == 0), bottom(y * stride + 2 > in.side ? 2 : 3) {
        for (int64_t ky = top; ky < bottom; ++ky) rows[ky] = in(y * stride - 1 + ky);
    }
};

// Weights are packed: [outputs / 4][inputs][3][3][4].
template <int STRIDE, class In>
inline void convolve(In&& in, const Plane& out, const float* weights, const float* bias) {
    for (int64_t y = 0; y < out.side; ++y) {
        const Under under(in, y, STRIDE);
        for (int64_t c = 0; c < out.channels; c += 4) {
            const float* w = weights + c * in.channels * 9;
            const float* b = bias ? bias + c : nullptr;
            for (int64_t x = 0; x < out.side;) {
                const int64_t from = (x * STRIDE - 1) * LANES;
                float* to = out.at + y * out.row + c * out.channel + x * LANES;
                if (out.side - x >= PIXELS) {
                    tile<PIXELS, STRIDE>(under.rows, from, in.channels, in.channel, under.top, under.bottom, w, b, to, out);
                    x += PIXELS;
                } else {
                    tile<1, STRIDE>(under.rows, from, in.channels, in.channel, under.top, under.bottom, w, b, to, out);
                    x += 1;
                }
            }
        }
    }
}

template <class Function>
inline void each(const Plane& p, Function function) {
    float* at = p.whole();
    for (int64_t k = 0; k < p.size(); k += LANES) function(at + k, k);
}

// What one vector of images leaves on the tape: per stage, where the largest pixels were, what its blocks' convolutions
// read, and what the stage gives.
struct Tape {
    int8_t* index[LARGEST];
    Plane read[LARGEST][2 * LARGEST], output[LARGEST];
    Tape(const Arguments& a, const Sizes& sizes, float* memory) {
        for (int64_t s = 0; s < a.stages; ++s) {
            const int64_t side = sizes.side[s + 1], channels = a.channels[s];
            index[s] = reinterpret_cast<int8_t*>(memory);
            memory += channels * side * side * LANES / 4;
            for (int64_t b = 0; b < 2 * a.blocks; ++b) read[s][b] = plane(memory, channels, side);
            output[s] = plane(memory, channels, side);
        }
    }
};

struct Scratch {
    Plane image, full[LARGEST], back[LARGEST][3];
    float *sums, *tape;
    Scratch(const Arguments& a, const Sizes& sizes, float* memory) {
        image = plane(memory, a.colours, a.side, ROWS);
        sums = memory;
        memory += sizes.sums * LANES;
        for (int64_t s = 0; s < a.stages; ++s) {
            full[s] = plane(memory, a.channels[s], s == 0 ? a.side / a.stride : sizes.side[s]);
            for (Plane& p : back[s]) p = plane(memory, a.channels[s], sizes.side[s + 1]);
        }
        tape = memory;
    }
};

#include "images_gradients.hpp"
#include "images_pool.hpp"
#include "images_read.hpp"

inline void first_convolution(Image in, const Plane& out, const float* w, const float* b) {
    in.a.stride == 2 ? convolve<2>(in, out, w, b) : convolve<1>(in, out, w, b);
}
inline void first_gradients(Image in, const Plane& out, float* weights, float* biases, float* sums) {
    in.a.stride == 2 ? add_image_gradients<2>(in, out, weights, biases, sums)
                     : add_image_gradients<1>(in, out, weights, biases, sums);
}

// Means over the image of each channel, of those images that are there; where the next stage's go.
inline float* average(const Arguments& a, const Plane& output, int64_t first, float* means) {
    int64_t width = 0;
    for (int64_t s = 0; s < a.stages; ++s) width += a.channels[s];
    for (int64_t c = 0; c < output.channels; ++c) {
        vf sum{};
        for (int64_t y = 0; y < output.side; ++y)
            for (int64_t x = 0; x < output.side; ++x) sum += load(output(y) + c * output.channel + x * LANES);
        for (int lane = 0; lane < LANES && first + lane < a.batch; ++lane)
            means[(first + lane) * width + c] = sum[lane] / static_cast<float>(output.side * output.side);
    }
    return means + output.channels;
}

void forward(const Work& work) {
    const Arguments& a = work.a;
    const Scratch scratch(a, work.sizes, work.scratch);
    for (int64_t k = 0; k < UNIT; k += LANES) {
        const int64_t first = work.unit * UNIT + k;
        const Tape tape(a, work.sizes, work.tape ? work.tape + k * work.sizes.tape : scratch.tape);
        const float *w = work.packed, *from = a.parameters;
        int64_t inputs = a.colours;
        auto bias = [&](int64_t outputs) {  // and on to the next layer
            from += outputs * inputs * 9;
            const float* here = from;
            from += outputs;
            return here;
        };
        float* means = a.means;
        for (int64_t s = 0; s < a.stages; ++s) {
            const int64_t outputs = a.channels[s];
            const Plane &output = tape.output[s], &more = scratch.back[s][0];
            if (s == 0)
                first_convolution(Image(a, scratch.image, first), scratch.full[s], w, bias(outputs));
            else
                convolve<1>(tape.output[s - 1], scratch.full[s], w, bias(outputs));
            w += outputs * inputs * 9;
            inputs = outputs;
            pool(scratch.full[s], output, tape.index[s]);
            for (int64_t b = 0; b < a.blocks; ++b) {
                const Plane &one = tape.read[s][2 * b], &two = tape.read[s][2 * b + 1];
                each(output, [&](float* p, int64_t k) { store(one.whole() + k, rectified(load(p))); });
                convolve<1>(one, two, w, bias(outputs));
                w += outputs * outputs * 9;
                each(two, [&](float* p, int64_t) { store(p, rectified(load(p))); });
                convolve<1>(two, more, w, bias(outputs));
                w += outputs * outputs * 9;
                each(output, [&](float* p, int64_t k) { store(p, load(p) + load(more.whole() + k)); });
            }
            if (means) means = average(a, output, first, means);
        }
        const Plane& last = tape.output[a.stages - 1];
        const int64_t width = last.side * last.side * last.channels;
        for (int64_t y = 0; y < last.side; ++y)
            for (int64_t x = 0; x < last.side; ++x)
                for (int64_t c = 0; c < last.channels; ++c) {
                    vf value = rectified(load(last.at + y * last.row + x * LANES + c * last.channel));
                    for (int lane = 0; lane < LANES && first + lane < a.batch; ++lane)
                        a.flat[(first + lane) * width + (y * last.side + x) * last.channels + c] = value[lane];
                }
    }
}

void backward(const Work& work) {
    const Arguments& a = work.a;
    const Scratch scratch(a, work.sizes, work.scratch);
    for (int64_t k = 0; k < UNIT; k += LANES) {
        const int64_t first = work.unit * UNIT + k;
        const Tape tape(a, work.sizes, work.tape + k * work.sizes.tape);
        const Plane &last = tape.output[a.stages - 1], &start = scratch.back[a.stages - 1][0];
        const int64_t width = last.side * last.side * last.channels;
        for (int64_t y = 0; y < last.side; ++y)
            for (int64_t x = 0; x < last.side; ++x)
                for (int64_t c = 0; c < last.channels; ++c) {
                    const int64_t at = y * last.row + x * LANES + c * last.channel;
                    vf g{};
                    for (int lane = 0; lane < LANES && first + lane < a.batch; ++lane)
                        g[lane] = a.flat_gradient[(first + lane) * width + (y * last.side + x) * last.channels + c];
                    store(start.at + at, load(last.at + at) > 0.0f ? g : vf{});
                }
        const float* w = work.turned + work.sizes.packed;
        float* to = work.gradient + work.sizes.parameters;
        auto gradients = [&](const Plane& in, const Plane& out, bool image = false) {
            float* biases = to - out.channels;
            to = biases - out.channels * in.channels * 9;
            w -= out.channels * in.channels * 9;
            image ? first_gradients(Image(a, in, first), out, to, biases, scratch.sums) : add_gradients(in, out, to, biases, scratch.sums);
        };
        for (int64_t s = a.stages; s-- > 0;) {
            const Plane &back = scratch.back[s][0], &inner = scratch.back[s][1], &more = scratch.back[s][2];
            for (int64_t b = a.blocks; b-- > 0;) {
                const Plane &one = tape.read[s][2 * b], &two = tape.read[s][2 * b + 1];
                gradients(two, back);
                convolve<1>(back, inner, w, nullptr);
                each(inner, [&](float* p, int64_t k) { store(p, load(two.whole() + k) > 0.0f ? load(p) : vf{}); });
                gradients(one, inner);
                convolve<1>(inner, more, w, nullptr);
                each(back, [&](float* p, int64_t k) {
                    store(p, load(p) + (load(one.whole() + k) > 0.0f ? load(more.whole() + k) : vf{}));
                });
            }
            unpool(scratch.full[s], back, tape.index[s]);
            gradients(s == 0 ? scratch.image : tape.output[s - 1], scratch.full[s], s == 0);
            if (s > 0) convolve<1>(scratch.full[s], scratch.back[s - 1][0], w, nullptr);
        }
    }
}
