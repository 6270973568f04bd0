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

// Sum over lanes, eight by eight.
inline float eight(v8 x) {
    v8 y = x + __builtin_shuffle(x, (vi8{4, 5, 6, 7, 0, 1, 2, 3}));
    v8 z = y + __builtin_shuffle(y, (vi8{2, 3, 0, 1, 6, 7, 4, 5}));
    return z[0] + z[1];
}
inline void add_lanes(float* to, const vf& x) {
    v8 part;
    for (int i = 0; i < LANES; i += 8) {
        std::memcpy(&part, reinterpret_cast<const float*>(&x) + i, sizeof part);
        *to += eight(part);
    }
}

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

constexpr int64_t SUMS = 12 * LANES;

// Goes on with the sums [4 outputs][3 columns of the kernel] of input times gradient of the output, over some rows. In line,
// GCC 12 kept the sums in memory.
template <int STRIDE>
__attribute__((noinline)) void add_rows(float* sums, int64_t rows, const float* seen, int64_t seen_row, const float* back, int64_t back_row,
                     int64_t channel, int64_t side) {
    vf acc[4][3];
    for (int k = 0; k < 4; ++k)
        for (int kx = 0; kx < 3; ++kx) acc[k][kx] = load(sums + (3 * k + kx) * LANES);
    for (int64_t y = 0; y < rows; ++y, seen += seen_row, back += back_row) {
        for (int64_t x = 0; x < side; ++x) {
            vf pixel[3];
            for (int kx = 0; kx < 3; ++kx) pixel[kx] = load_once(seen + (STRIDE * x + kx - 1) * LANES);
            for (int k = 0; k < 4; ++k) {
                const vf g = load_once(back + k * channel + x * LANES);
                for (int kx = 0; kx < 3; ++kx) acc[k][kx] += g * pixel[kx];
            }
        }
    }
    for (int k = 0; k < 4; ++k)
        for (int kx = 0; kx < 3; ++kx) store(sums + (3 * k + kx) * LANES, acc[k][kx]);
}

inline void add_bias_gradients(const Plane& out, float* biases) {
    for (int64_t c = 0; c < out.channels; c += 4) {
        vf sum[4] = {};
        for (int64_t y = 0; y < out.side; ++y)
            for (int64_t x = 0; x < out.side; ++x)
                for (int k = 0; k < 4; ++k) sum[k] += load(out(y) + (c + k) * out.channel + x * LANES);
        for (int k = 0; k < 4; ++k) add_lanes(biases + c + k, sum[k]);
    }
}

// To the gradients of the weights (outputs, 3, 3, inputs) that row `ky` of the kernel has for input `i` and 4 outputs.
inline void add_sums(const float* sums, int64_t ky, int64_t i, int64_t inputs, float* weights) {
    for (int k = 0; k < 4; ++k)
        for (int kx = 0; kx < 3; ++kx) add_lanes(weights + ((k * 3 + ky) * 3 + kx) * inputs + i, load(sums + (3 * k + kx) * LANES));
}

// Adds the gradients of weights and biases.
inline void add_gradients(const Plane& in, const Plane& out, float* weights, float* biases) {
    add_bias_gradients(out, biases);
    for (int64_t c = 0; c < out.channels; c += 4)
        for (int64_t i = 0; i < in.channels; ++i)
            for (int64_t ky = 0; ky < 3; ++ky) {
                float sums[SUMS] = {};
                const int64_t y = ky == 0, rows = out.side - (ky != 1);
                add_rows<1>(sums, rows, in(y - 1 + ky) + i * in.channel, in.row, out(y) + c * out.channel, out.row,
                            out.channel, out.side);
                add_sums(sums, ky, i, in.channels, weights + c * 9 * in.channels);
            }
}

// The same for the first convolution, row by row of the image, which is too large for the processor's caches: the sums
// wait in `sums`.
template <int STRIDE, class Image>
inline void add_image_gradients(Image&& in, const Plane& out, float* weights, float* biases, float* sums) {
    add_bias_gradients(out, biases);
    std::fill(sums, sums + out.channels / 4 * in.channels * 3 * SUMS, 0.0f);
    for (int64_t y = 0; y < out.side; ++y) {
        const Under under(in, y, STRIDE);
        float* sum = sums;
        for (int64_t c = 0; c < out.channels; c += 4)
            for (int64_t i = 0; i < in.channels; ++i)
                for (int64_t ky = 0; ky < 3; ++ky, sum += SUMS)
                    if (under.rows[ky])
                        add_rows<STRIDE>(sum, 1, under.rows[ky] + i * in.channel, 0, out(y) + c * out.channel, 0, out.channel,
                                         out.side);
    }
    for (int64_t c = 0; c < out.channels; c += 4)
        for (int64_t i = 0; i < in.channels; ++i)
            for (int64_t ky = 0; ky < 3; ++ky, sums += SUMS) add_sums(sums, ky, i, in.channels, weights + c * 9 * in.channels);
}

// The largest of 3 by 3 pixels, every second row and column; which it was, goes to `index` [row][channel][column][lane].
template <int ROW, int COLUMN>
inline void largest(const float* from, const Plane& in, float* to, int8_t* index) {
    vf best = load(from + ROW * in.row + COLUMN * LANES);
    vi which = vi{} + (ROW * 3 + COLUMN);
    for (int ky = ROW; ky < 3; ++ky)
        for (int kx = COLUMN; kx < 3; ++kx) {
            vf other = load(from + ky * in.row + kx * LANES);
            which = other > best ? vi{} + (ky * 3 + kx) : which;
            best = other > best ? other : best;
        }
    store(to, best);
    vb narrow = __builtin_convertvector(which, vb);
    std::memcpy(index, &narrow, sizeof narrow);
}
inline void pool(const Plane& in, const Plane& out, int8_t* index) {
    for (int64_t y = 0; y < out.side; ++y)
        for (int64_t c = 0; c < out.channels; ++c)
            for (int64_t x = 0; x < out.side; ++x, index += LANES) {
                const float* from = in.at + (2 * y - 1) * in.row + c * in.channel + (2 * x - 1) * LANES;
                float* to = out.at + y * out.row + c * out.channel + x * LANES;
                if (y == 0)
                    x == 0 ? largest<1, 1>(from, in, to, index) : largest<1, 0>(from, in, to, index);
                else
                    x == 0 ? largest<0, 1>(from, in, to, index) : largest<0, 0>(from, in, to, index);
            }
}

// Its way back: `in` becomes the gradient of what was pooled.
template <int ROW, int COLUMN>
inline void spread(float* to, const Plane& in, vf g, const int8_t* index) {
    vb narrow;
    std::memcpy(&narrow, index, sizeof narrow);
    vi which = __builtin_convertvector(narrow, vi);
    for (int ky = ROW; ky < 3; ++ky)
        for (int kx = COLUMN; kx < 3; ++kx) {
            float* p = to + ky * in.row + kx * LANES;
            store(p, load(p) + (which == ky * 3 + kx ? g : vf{}));
        }
}
inline void unpool(const Plane& in, const Plane& out, const int8_t* index) {
    std::memset(in.whole(), 0, in.size() * sizeof(float));
    for (int64_t y = 0; y < out.side; ++y)
        for (int64_t c = 0; c < out.channels; ++c)
            for (int64_t x = 0; x < out.side; ++x, index += LANES) {
                float* to = in.at + (2 * y - 1) * in.row + c * in.channel + (2 * x - 1) * LANES;
                const vf g = load(out.at + y * out.row + c * out.channel + x * LANES);
                if (y == 0)
                    x == 0 ? spread<1, 1>(to, in, g, index) : spread<1, 0>(to, in, g, index);
                else
                    x == 0 ? spread<0, 1>(to, in, g, index) : spread<0, 0>(to, in, g, index);
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
        memory += a.channels[0] / 4 * a.colours * 3 * SUMS;
        for (int64_t s = 0; s < a.stages; ++s) {
            full[s] = plane(memory, a.channels[s], s == 0 ? a.side / a.stride : sizes.side[s]);
            for (Plane& p : back[s]) p = plane(memory, a.channels[s], sizes.side[s + 1]);
        }
        tape = memory;
    }
};

inline v8 eight_numbers(const uint8_t* bytes) {
#ifdef __AVX2__  // GCC 12 takes many instructions for the portable way
    return (v8)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#else
    b8 some;
    std::memcpy(&some, bytes, sizeof some);
    return __builtin_convertvector(__builtin_convertvector(some, vi8), v8);
#endif
}

// Bytes of two vectors in turn: of their first halves, and of their second.
inline b16 low_bytes(b16 x, b16 y) {
    return __builtin_shuffle(x, y, (b16{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}));
}
inline b16 high_bytes(b16 x, b16 y) {
    return __builtin_shuffle(x, y, (b16{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}));
}

// Bytes of 8 images, 16 bytes each from `step` to `step`, side by side: [byte][image].
inline void transpose(const uint8_t* from, int64_t step, uint8_t* to) {
    b16 x[8], y[8];
    for (int i = 0; i < 8; ++i) std::memcpy(&x[i], from + i * step, sizeof x[i]);
    for (int i = 0; i < 4; ++i) y[2 * i] = low_bytes(x[i], x[i + 4]), y[2 * i + 1] = high_bytes(x[i], x[i + 4]);
    for (int i = 0; i < 4; ++i) x[2 * i] = low_bytes(y[i], y[i + 4]), x[2 * i + 1] = high_bytes(y[i], y[i + 4]);
    for (int i = 0; i < 4; ++i) y[2 * i] = low_bytes(x[i], x[i + 4]), y[2 * i + 1] = high_bytes(x[i], x[i + 4]);
    std::memcpy(to, y, sizeof y);
}

// A row of the images from `first` on; where there are none any more, zeros.
inline void read_row(const Arguments& a, const Plane& image, int64_t first, int64_t y, float* row) {
    const int64_t line = a.side * a.colours, size = a.side * line;
    for (int half = 0; half < LANES; half += 8) {
        const int64_t there = std::min<int64_t>(8, a.batch - first - half);
        const uint8_t* from = a.pixels + (first + half) * size + y * line;
        float* to = row + half;
        int64_t place = 0, c = 0;
        for (int64_t k = 0; k < line; k += 16) {
            uint8_t block[128];
            const int64_t bytes = std::min<int64_t>(16, line - k);
            if (there >= 8 && bytes == 16) {
                transpose(from + k, size, block);
            } else {
                uint8_t some[128] = {};
                for (int64_t lane = 0; lane < there; ++lane) std::memcpy(some + 16 * lane, from + lane * size + k, bytes);
                transpose(some, 16, block);
            }
            for (int64_t j = 0; j < bytes; ++j) {
                v8 numbers = eight_numbers(block + 8 * j);
                std::memcpy(to + place, &numbers, sizeof numbers);
                place += image.channel;
                if (++c == a.colours) c = 0, place += LANES - a.colours * image.channel;
            }
        }
    }
}

// Images that are read row by row, from the top on, when a row is asked for; the last ROWS of them stay.
struct Image {
    const Arguments& a;
    const Plane& memory;
    int64_t first, row, channel, channels, side, read = 0;
    Image(const Arguments& a, const Plane& memory, int64_t first)
        : a(a), memory(memory), first(first), row(memory.row), channel(memory.channel), channels(memory.channels),
          side(a.side) {}
    const float* operator()(int64_t y) {
        for (; read <= y; ++read) read_row(a, memory, first, read, memory.at + read % ROWS * row);
        return memory.at + y % ROWS * row;
    }
};

inline void first_convolution(Image in, const Plane& out, const float* w, const float* b) {
    in.a.stride == 2 ? convolve<2>(in, out, w, b) : convolve<1>(in, out, w, b);
}
inline void first_gradients(Image in, const Plane& out, float* weights, float* biases, float* sums) {
    in.a.stride == 2 ? add_image_gradients<2>(in, out, weights, biases, sums)
                     : add_image_gradients<1>(in, out, weights, biases, sums);
}

void forward(const Work& work) {
    const Arguments& a = work.a;
    const Scratch scratch(a, work.sizes, work.scratch);
    for (int64_t first = work.first * UNIT; first < work.last * UNIT; first += LANES) {
        const Tape tape(a, work.sizes, a.tape ? a.tape + first * work.sizes.tape : scratch.tape);
        const float *w = work.packed, *from = a.parameters;
        int64_t inputs = a.colours;
        auto bias = [&](int64_t outputs) {  // and on to the next layer
            from += outputs * inputs * 9;
            const float* here = from;
            from += outputs;
            return here;
        };
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
    for (int64_t first = work.first * UNIT; first < work.last * UNIT; first += LANES) {
        const Tape tape(a, work.sizes, a.tape + first * work.sizes.tape);
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
            image ? first_gradients(Image(a, in, first), out, to, biases, scratch.sums) : add_gradients(in, out, to, biases);
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
