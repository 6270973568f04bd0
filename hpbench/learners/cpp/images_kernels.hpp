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
// pixel is into the `rows`. What comes out, `put(place, numbers)` puts away, `channel_out` floats from channel to channel.
template <int P, int STRIDE, class Put>
inline void tile(const float* const* rows, int64_t x, int64_t channels, int64_t channel, int64_t top, int64_t bottom,
                 const float* weights, const float* bias, float* y, int64_t channel_out, const Put& put) {
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
        for (int p = 0; p < P; ++p) put(y + c * channel_out + p * LANES, acc[c][p]);
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

// Row `y` of the output, that begins at `row`. Weights are packed: [outputs / 4][inputs][3][3][4]. In line,
// GCC 12 takes a fifth longer for it.
template <int STRIDE, class In, class Put>
__attribute__((noinline)) void convolve_row(In&& in, const Plane& out, int64_t y, float* row, const float* weights,
                                            const float* bias, const Put& put) {
    const Under under(in, y, STRIDE);
    for (int64_t c = 0; c < out.channels; c += 4, weights += 36 * in.channels) {
        const float* b = bias ? bias + c : nullptr;
        for (int64_t x = 0; x < out.side;) {
            const int64_t from = (x * STRIDE - 1) * LANES;
            float* to = row + c * out.channel + x * LANES;
            auto pixels = [&](auto count) {
                tile<count, STRIDE>(under.rows, from, in.channels, in.channel, under.top, under.bottom, weights, b, to,
                                    out.channel, put);
                x += count;
            };
            if (out.side - x >= PIXELS)
                pixels(std::integral_constant<int, PIXELS>());
            else
                pixels(std::integral_constant<int, 1>());
        }
    }
}

template <class Put>
inline void convolve(const Plane& in, const Plane& out, const float* weights, const float* bias, const Put& put) {
    for (int64_t y = 0; y < out.side; ++y) convolve_row<1>(in, out, y, out.at + y * out.row, weights, bias, put);
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
    Plane image, full[LARGEST], back[LARGEST][2];
    float *sums, *tape;
    Scratch(const Arguments& a, const Sizes& sizes, float* memory) {
        image = plane(memory, a.colours, a.side, ROWS);
        sums = memory;
        memory += sizes.sums * LANES;
        for (int64_t s = 0; s < a.stages; ++s) {
            full[s] = s == 0 ? plane(memory, a.channels[0], a.side / a.stride, ROWS)
                             : plane(memory, a.channels[s], sizes.side[s]);
            for (Plane& p : back[s]) p = plane(memory, a.channels[s], sizes.side[s + 1]);
        }
        tape = memory;
    }
};

#include "images_gradients.hpp"
#include "images_pool.hpp"
#include "images_read.hpp"

// The convolution before a stage and its pooling, row by row: what is pooled stays near.
template <int STRIDE, class In, class Put>
inline void convolve_and_pool(In&& in, const Plane& full, const Plane& out, int8_t* index, const float* weights, const float* bias,
                              const Put& put) {
    int64_t made = 0;
    auto row = [&](int64_t y) { return full.at + (y & (ROWS - 1)) * full.row; };  // `full` need not have more
    for (int64_t y = 0; y < out.side; ++y) {
        for (; made < 2 * y + 2; ++made)
            convolve_row<STRIDE>(in, full, made, row(made), weights, bias, [](float* p, vf x) { store(p, x); });
        pool(row(2 * y - 1), row(2 * y), row(2 * y + 1), full.channel, out, y, index, put);
    }
}

inline void first_gradients(Image in, Unpooled out, float* weights, float* biases, float* sums) {
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
            const Plane &output = tape.output[s], &full = scratch.full[s];
            int8_t* const index = tape.index[s];
            // What the first convolution of block `b` reads, the output rectified, is put away with it.
            auto put_output = [&](int64_t b) {
                float* const rectified_too = b < a.blocks ? tape.read[s][2 * b].at : nullptr;
                return [=, start = output.at](float* p, vf x) {
                    store(p, x);
                    if (rectified_too) store(rectified_too + (p - start), rectified(x));
                };
            };
            const float* const b0 = bias(outputs);
            if (s > 0)
                convolve_and_pool<1>(tape.output[s - 1], full, output, index, w, b0, put_output(0));
            else if (a.stride == 2)
                convolve_and_pool<2>(Image(a, scratch.image, first), full, output, index, w, b0, put_output(0));
            else
                convolve_and_pool<1>(Image(a, scratch.image, first), full, output, index, w, b0, put_output(0));
            w += outputs * inputs * 9;
            inputs = outputs;
            for (int64_t b = 0; b < a.blocks; ++b) {
                const Plane &one = tape.read[s][2 * b], &two = tape.read[s][2 * b + 1];
                convolve(one, two, w, bias(outputs), [](float* p, vf x) { store(p, rectified(x)); });
                w += outputs * outputs * 9;
                convolve(two, output, w, bias(outputs), [put = put_output(b + 1)](float* p, vf x) { put(p, load(p) + x); });
                w += outputs * outputs * 9;
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
        auto layer = [&](const Plane& in, const Plane& out) {  // on to that
            to -= out.channels * (in.channels * 9 + 1);
            w -= out.channels * in.channels * 9;
        };
        auto gradients = [&](const Plane& in, const Plane& out) {
            layer(in, out);
            add_gradients(in, out, to, to + out.channels * in.channels * 9, scratch.sums);
        };
        for (int64_t s = a.stages; s-- > 0;) {
            const Plane &back = scratch.back[s][0], &inner = scratch.back[s][1], &full = scratch.full[s];
            for (int64_t b = a.blocks; b-- > 0;) {
                const Plane &one = tape.read[s][2 * b], &two = tape.read[s][2 * b + 1];
                gradients(two, back);
                convolve(back, inner, w, nullptr, [start = inner.at, read = two.at](float* p, vf x) {
                    store(p, load(read + (p - start)) > 0.0f ? x : vf{});
                });
                gradients(one, inner);
                convolve(inner, back, w, nullptr, [start = back.at, read = one.at](float* p, vf x) {
                    store(p, load(p) + (load(read + (p - start)) > 0.0f ? x : vf{}));
                });
            }
            const Unpooled unpooled(full, back, tape.index[s]);
            if (s == 0) {
                layer(scratch.image, full);
                first_gradients(Image(a, scratch.image, first), unpooled, to, to + full.channels * a.colours * 9, scratch.sums);
            } else {
                unpooled.all();
                gradients(tape.output[s - 1], full);
                convolve(full, scratch.back[s - 1][0], w, nullptr, [](float* p, vf x) { store(p, x); });
            }
        }
    }
}
