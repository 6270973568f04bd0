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
};

inline Plane plane(float*& memory, int64_t channels, int64_t side) {
    Plane p{memory + LANES, channels * (side + 2) * LANES, (side + 2) * LANES, channels, side};
    memory += p.size();
    return p;
}

// Pixels of a row that are summed together, for 4 output channels. With 3 of them in 16 registers the convolution took
// twice as long (measured, GCC 12).
constexpr int PIXELS = LANES == 16 ? 4 : 2;

// P pixels of a row, 4 output channels: start + sum over inputs, rows and columns of the kernel.
template <int P, int STRIDE>
inline void tile(const float* x, const Plane& in, int64_t top, int64_t bottom, const float* weights, const float* bias,
                 float* y, const Plane& out) {
    vf acc[4][P];
    for (int c = 0; c < 4; ++c)
        for (int p = 0; p < P; ++p) acc[c][p] = bias ? all(bias[c]) : vf{};
    for (int64_t i = 0; i < in.channels; ++i)
        for (int64_t ky = top; ky < bottom; ++ky) {
            const float* from = x + ky * in.row + i * in.channel;
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

// Weights are packed: [outputs / 4][inputs][3][3][4].
template <int STRIDE>
inline void convolve(const Plane& in, const Plane& out, const float* weights, const float* bias) {
    for (int64_t y = 0; y < out.side; ++y) {
        const int64_t above = y * STRIDE - 1;
        const int64_t top = above < 0 ? 1 : 0, bottom = above + 3 > in.side ? 2 : 3;
        for (int64_t c = 0; c < out.channels; c += 4) {
            const float* w = weights + c * in.channels * 9;
            const float* b = bias ? bias + c : nullptr;
            for (int64_t x = 0; x < out.side;) {
                const float* from = in.at + above * in.row + (x * STRIDE - 1) * LANES;
                float* to = out.at + y * out.row + c * out.channel + x * LANES;
                if (out.side - x >= PIXELS) {
                    tile<PIXELS, STRIDE>(from, in, top, bottom, w, b, to, out);
                    x += PIXELS;
                } else {
                    tile<1, STRIDE>(from, in, top, bottom, w, b, to, out);
                    x += 1;
                }
            }
        }
    }
}

// Adds the gradients of the weights of outputs `c` to `c + K`.
template <int K, int STRIDE>
inline void add_gradients_of(const Plane& in, const Plane& out, int64_t c, float* weights) {
    for (int64_t i = 0; i < in.channels; ++i)
        for (int64_t ky = 0; ky < 3; ++ky) {
            vf acc[K][3] = {};
            for (int64_t y = 0; y < out.side; ++y) {
                const int64_t row = y * STRIDE - 1 + ky;
                if (row < 0 || row >= in.side) continue;
                const float* from = in.at + row * in.row + i * in.channel - LANES;
                const float* back = out.at + y * out.row + c * out.channel;
                for (int64_t x = 0; x < out.side; ++x) {
                    vf seen[3];
                    for (int kx = 0; kx < 3; ++kx) seen[kx] = load(from + (x * STRIDE + kx) * LANES);
                    for (int k = 0; k < K; ++k) {
                        vf g = load(back + k * out.channel + x * LANES);
                        for (int kx = 0; kx < 3; ++kx) acc[k][kx] += g * seen[kx];
                    }
                }
            }
            for (int k = 0; k < K; ++k)
                for (int kx = 0; kx < 3; ++kx) add_lanes(weights + ((k * 3 + ky) * 3 + kx) * in.channels + i, acc[k][kx]);
        }
}

// Adds the gradients of weights (outputs, 3, 3, inputs) and biases.
template <int STRIDE>
inline void add_gradients(const Plane& in, const Plane& out, float* weights, float* biases) {
    for (int64_t c = 0; c < out.channels; ++c) {
        vf sum{};
        for (int64_t y = 0; y < out.side; ++y)
            for (int64_t x = 0; x < out.side; ++x) sum += load(out.at + y * out.row + c * out.channel + x * LANES);
        add_lanes(biases + c, sum);
    }
    for (int64_t c = 0; c < out.channels;) {
        const int64_t left = out.channels - c;
        float* to = weights + c * 9 * in.channels;
        if (LANES == 16 ? left >= 4 : false) {
            add_gradients_of<4, STRIDE>(in, out, c, to);
            c += 4;
        } else if (left >= 3 && left != 4) {
            add_gradients_of<3, STRIDE>(in, out, c, to);
            c += 3;
        } else {
            add_gradients_of<2, STRIDE>(in, out, c, to);
            c += 2;
        }
    }
}

// The largest of 3 by 3 pixels, every second row and column; which it was, goes to `index` [row][channel][column][lane].
inline void pool(const Plane& in, const Plane& out, int8_t* index) {
    for (int64_t y = 0; y < out.side; ++y)
        for (int64_t c = 0; c < out.channels; ++c)
            for (int64_t x = 0; x < out.side; ++x, index += LANES) {
                const float* from = in.at + (2 * y - 1) * in.row + c * in.channel + (2 * x - 1) * LANES;
                const int first_row = y == 0, first = x == 0;
                vf best = load(from + first_row * in.row + first * LANES);
                vi which = vi{} + (first_row * 3 + first);
                for (int ky = first_row; ky < 3; ++ky)
                    for (int kx = first; kx < 3; ++kx) {
                        vf other = load(from + ky * in.row + kx * LANES);
                        which = other > best ? vi{} + (ky * 3 + kx) : which;
                        best = other > best ? other : best;
                    }
                store(out.at + y * out.row + c * out.channel + x * LANES, best);
                vb narrow = __builtin_convertvector(which, vb);
                std::memcpy(index, &narrow, sizeof narrow);
            }
}

// Its way back: `in` becomes the gradient of what was pooled.
inline void unpool(const Plane& in, const Plane& out, const int8_t* index) {
    std::memset(in.whole(), 0, in.size() * sizeof(float));
    for (int64_t y = 0; y < out.side; ++y)
        for (int64_t c = 0; c < out.channels; ++c)
            for (int64_t x = 0; x < out.side; ++x, index += LANES) {
                float* to = in.at + (2 * y - 1) * in.row + c * in.channel + (2 * x - 1) * LANES;
                vf g = load(out.at + y * out.row + c * out.channel + x * LANES);
                vb narrow;
                std::memcpy(&narrow, index, sizeof narrow);
                vi which = __builtin_convertvector(narrow, vi);
                for (int ky = y == 0; ky < 3; ++ky)
                    for (int kx = x == 0; kx < 3; ++kx) {
                        float* p = to + ky * in.row + kx * LANES;
                        store(p, load(p) + (which == ky * 3 + kx ? g : vf{}));
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
    float* tape;
    Scratch(const Arguments& a, const Sizes& sizes, float* memory) {
        image = plane(memory, a.colours, a.side);
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

// Bytes of 8 images, 8 bytes each from `step` to `step`, side by side: [byte][image].
inline void transpose(const uint8_t* from, int64_t step, uint8_t* to) {
    b16 rows[4], pairs[4], fours[4];
    for (int i = 0; i < 4; ++i) {
        std::memcpy(&rows[i], from + 2 * i * step, 8);
        std::memcpy(reinterpret_cast<uint8_t*>(&rows[i]) + 8, from + (2 * i + 1) * step, 8);
        pairs[i] = __builtin_shuffle(rows[i], (b16{0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15}));
    }
    for (int i = 0; i < 4; i += 2) {
        fours[i] = __builtin_shuffle(pairs[i], pairs[i + 1], (b16{0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23}));
        fours[i + 1] =
            __builtin_shuffle(pairs[i], pairs[i + 1], (b16{8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31}));
    }
    for (int i = 0; i < 2; ++i) {
        b16 low = __builtin_shuffle(fours[i], fours[i + 2], (b16{0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23}));
        b16 high =
            __builtin_shuffle(fours[i], fours[i + 2], (b16{8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31}));
        std::memcpy(to + 32 * i, &low, sizeof low);
        std::memcpy(to + 32 * i + 16, &high, sizeof high);
    }
}

// Pixels of the images from `first` on; where there are none any more, zeros.
inline void read_images(const Arguments& a, const Plane& image, int64_t first) {
    const int64_t line = a.side * a.colours, size = a.side * line;
    for (int64_t y = 0; y < a.side; ++y)
        for (int half = 0; half < LANES; half += 8) {
            const int64_t there = std::min<int64_t>(8, a.batch - first - half);
            const uint8_t* from = a.pixels + (first + half) * size + y * line;
            float* to = image.at + y * image.row + half;
            int64_t place = 0, c = 0;
            for (int64_t k = 0; k < line; k += 8) {
                uint8_t block[64];
                if (there >= 8) {
                    transpose(from + k, size, block);
                } else {
                    uint8_t some[64] = {};
                    for (int64_t lane = 0; lane < there; ++lane) std::memcpy(some + 8 * lane, from + lane * size + k, 8);
                    transpose(some, 8, block);
                }
                for (int j = 0; j < 8; ++j) {
                    v8 numbers = eight_numbers(block + 8 * j);
                    std::memcpy(to + place, &numbers, sizeof numbers);
                    place += image.channel;
                    if (++c == a.colours) c = 0, place += LANES - a.colours * image.channel;
                }
            }
        }
}

inline void first_convolution(const Arguments& a, const Plane& in, const Plane& out, const float* w, const float* b) {
    a.stride == 2 ? convolve<2>(in, out, w, b) : convolve<1>(in, out, w, b);
}

void forward(const Work& work) {
    const Arguments& a = work.a;
    const Scratch scratch(a, work.sizes, work.scratch);
    for (int64_t first = work.first * UNIT; first < work.last * UNIT; first += LANES) {
        const Tape tape(a, work.sizes, a.tape ? a.tape + first * work.sizes.tape : scratch.tape);
        read_images(a, scratch.image, first);
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
                first_convolution(a, scratch.image, scratch.full[s], w, bias(outputs));
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
        read_images(a, scratch.image, first);
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
            image && a.stride == 2 ? add_gradients<2>(in, out, to, biases) : add_gradients<1>(in, out, to, biases);
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
