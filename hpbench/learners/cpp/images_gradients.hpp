// Gradients of the weights and biases of a convolution: included by `images_kernels.hpp`.

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

inline v8 load8(const float* p) {
    v8 x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline v8 first_halves(v8 x, v8 y) { return __builtin_shuffle(x, y, (vi8{0, 1, 2, 3, 8, 9, 10, 11})); }
inline v8 second_halves(v8 x, v8 y) { return __builtin_shuffle(x, y, (vi8{4, 5, 6, 7, 12, 13, 14, 15})); }

// Adds to 12 sums those over lanes of 12 vectors, each in the order of `eight`.
inline void add_lanes_of_12(const float* sums, float* to) {
    for (int j = 0; j < 12; j += 4) {
        v4 total;
        std::memcpy(&total, to + j, sizeof total);
#pragma GCC unroll 2
        for (int half = 0; half < LANES; half += 8) {
            const float* from = sums + j * LANES + half;
            const v8 a = load8(from), b = load8(from + LANES), c = load8(from + 2 * LANES), d = load8(from + 3 * LANES);
            const v8 ab = first_halves(a, b) + second_halves(a, b), cd = first_halves(c, d) + second_halves(c, d);
            const v8 acbd = __builtin_shuffle(ab, cd, (vi8{0, 1, 8, 9, 4, 5, 12, 13})) +
                            __builtin_shuffle(ab, cd, (vi8{2, 3, 10, 11, 6, 7, 14, 15}));
            v4 ac, bd;
            std::memcpy(&ac, &acbd, sizeof ac);
            std::memcpy(&bd, reinterpret_cast<const float*>(&acbd) + 4, sizeof bd);
            total += __builtin_shuffle(ac, bd, (vi4{0, 4, 2, 6})) + __builtin_shuffle(ac, bd, (vi4{1, 5, 3, 7}));
        }
        std::memcpy(to + j, &total, sizeof total);
    }
}

constexpr int64_t SUMS = 12 * LANES;
// Pixels of an output that are gone through for all weights before the next ones: 4 channels of them should stay in the
// processor's first cache. With twice as many, a layer of 16 by 16 pixels took 1.1 times as long
// (measured).
constexpr int64_t TOGETHER = 1024 / LANES;

// Goes on with the sums [4 outputs][3 columns of the kernel] of input times gradient of the output, over some rows, or begins
// with them. The loops end at their ends, and are not in line: GCC 12 else kept the sums in memory.
template <int STRIDE>
__attribute__((noinline)) void add_rows(float* sums, bool begin, int64_t rows, const float* seen, int64_t seen_row,
                                        const float* back, int64_t back_row, int64_t channel, int64_t side) {
    vf acc[4][3];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
#pragma GCC unroll 3
        for (int kx = 0; kx < 3; ++kx) acc[k][kx] = begin ? vf{} : load(sums + (3 * k + kx) * LANES);
    do {
        const float *pixels = seen - LANES, *gradients = back;
        int64_t left = side;
        do {
            vf pixel[3];
#pragma GCC unroll 3
            for (int kx = 0; kx < 3; ++kx) pixel[kx] = load_once(pixels + kx * LANES);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                const vf g = load_once(gradients + k * channel);
#pragma GCC unroll 3
                for (int kx = 0; kx < 3; ++kx) acc[k][kx] += g * pixel[kx];
            }
            pixels += STRIDE * LANES;
            gradients += LANES;
        } while (--left);
        seen += seen_row;
        back += back_row;
    } while (--rows);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k)
#pragma GCC unroll 3
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

// Adds the gradients of weights, [outputs / 4][inputs][3 rows][4][3 columns], and biases. `sums` is room for those of all.
inline void add_gradients(const Plane& in, const Plane& out, float* weights, float* biases, float* sums) {
    add_bias_gradients(out, biases);
    const int64_t together = std::clamp<int64_t>(TOGETHER / out.side, 1, out.side);
    const int64_t apart = together < out.side ? SUMS : 0;  // sums that need not wait are all made in one place
    for (int64_t y = 0; y < out.side; y += together) {
        const bool end = y + together >= out.side;
        float *sum = sums, *to = weights;
        for (int64_t c = 0; c < out.channels; c += 4)
            for (int64_t i = 0; i < in.channels; ++i)
                for (int64_t ky = 0; ky < 3; ++ky, sum += apart, to += 12) {
                    const int64_t first = std::max<int64_t>(y, ky == 0), last = std::min(y + together, out.side - (ky == 2));
                    if (first < last)
                        add_rows<1>(sum, y == 0, last - first, in(first - 1 + ky) + i * in.channel, in.row,
                                    out(first) + c * out.channel, out.row, out.channel, out.side);
                    else if (y == 0)
                        std::fill_n(sum, SUMS, 0.0f);
                    if (end) add_lanes_of_12(sum, to);
                }
    }
}

// The same for the first convolution, row by row.
template <int STRIDE, class Image, class Out>
inline void add_image_gradients(Image&& in, Out&& out, float* weights, float* biases, float* sums) {
    float* const of_biases = sums + out.channels / 4 * in.channels * 3 * SUMS;
    std::fill(sums, of_biases + out.channels * LANES, 0.0f);
    for (int64_t y = 0; y < out.side; ++y) {
        const Under under(in, y, STRIDE);
        const float* back = out(y);
        float* sum = sums;
        for (int64_t c = 0; c < out.channels; c += 4)
            for (int64_t i = 0; i < in.channels; ++i)
                for (int64_t ky = 0; ky < 3; ++ky, sum += SUMS)
                    if (under.rows[ky])
                        add_rows<STRIDE>(sum, false, 1, under.rows[ky] + i * in.channel, 0, back + c * out.channel, 0, out.channel,
                                         out.side);
        for (int64_t c = 0; c < out.channels; ++c, sum += LANES) {
            vf total = load(sum);
            for (int64_t x = 0; x < out.side; ++x) total += load(back + c * out.channel + x * LANES);
            store(sum, total);
        }
    }
    for (int64_t k = 0; k < out.channels / 4 * in.channels * 3; ++k) add_lanes_of_12(sums + k * SUMS, weights + 12 * k);
    for (int64_t c = 0; c < out.channels; ++c) add_lanes(biases + c, load(of_biases + c * LANES));
}
