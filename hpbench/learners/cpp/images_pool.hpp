// Pooling and its way back: included by `images_kernels.hpp`.

// Which of 9 pixels it was, as a byte a lane.
inline void store_bytes(int8_t* p, vi x) {
#if defined(__AVX2__) && LANES == 8  // GCC 12 takes the lanes out one by one for the portable way
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
#else
    const vb narrow = __builtin_convertvector(x, vb);
    std::memcpy(p, &narrow, sizeof narrow);
#endif
}
inline vi load_bytes(const int8_t* p) {
#if defined(__AVX2__) && LANES == 8
    return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    vb narrow;
    std::memcpy(&narrow, p, sizeof narrow);
    return __builtin_convertvector(narrow, vi);
#endif
}

// The largest of 3 by 3 pixels, every second row and column; which it was, goes to `index` [row][channel][column][lane].
template <int ROW, int COLUMN, class Put>
inline void largest(const float* const* rows, int64_t x, float* to, int8_t* index, const Put& put) {
    vf best = load(rows[ROW] + x + COLUMN * LANES);
    vi which = vi{} + (ROW * 3 + COLUMN);
    for (int ky = ROW; ky < 3; ++ky)
        for (int kx = COLUMN; kx < 3; ++kx) {
            vf other = load(rows[ky] + x + kx * LANES);
            which = other > best ? vi{} + (ky * 3 + kx) : which;
            best = other > best ? other : best;
        }
    put(to, best);
    store_bytes(index, which);
}

// Row `y` of the output, from three rows of the input.
template <class Put>
inline void pool(const float* above, const float* middle, const float* below, int64_t channel, const Plane& out, int64_t y,
                 int8_t* index, const Put& put) {
    index += y * out.channels * out.side * LANES;
    for (int64_t c = 0; c < out.channels; ++c, above += channel, middle += channel, below += channel) {
        const float* const rows[3] = {above, middle, below};
        float* to = out.at + y * out.row + c * out.channel;
        for (int64_t x = 0; x < out.side; ++x, to += LANES, index += LANES) {
            const int64_t from = (2 * x - 1) * LANES;
            if (y == 0)
                x == 0 ? largest<1, 1>(rows, from, to, index, put) : largest<1, 0>(rows, from, to, index, put);
            else
                x == 0 ? largest<0, 1>(rows, from, to, index, put) : largest<0, 0>(rows, from, to, index, put);
        }
    }
}

// The way back: the gradient of what was pooled, in pairs of rows. Every pixel adds up what comes from the outputs under
// which it lies, from the top left on.
struct Unpooled {
    const Plane &full, &back;
    const int8_t* index;
    int64_t channel, channels, side;
    Unpooled(const Plane& full, const Plane& back, const int8_t* index)
        : full(full), back(back), index(index), channel(full.channel), channels(full.channels), side(full.side) {}

    void all() const {
        for (int64_t y = 0; y < back.side; ++y) pair(y, full.at + 2 * y * full.row);
    }
    // Row `y`, when rows are asked for one after the other; the last pair of them stays.
    const float* operator()(int64_t y) const {
        if (y % 2 == 0) pair(y / 2, full.at);
        return full.at + y % 2 * full.row;
    }

  private:
    void pair(int64_t y, float* to) const { y + 1 < back.side ? pair<false>(y, to) : pair<true>(y, to); }

    template <bool LAST>
    void pair(int64_t y, float* to) const {
        const int64_t step = back.channels * back.side * LANES;
        const int8_t* which = index + y * step;
        for (int64_t c = 0; c < channels; ++c, to += channel) {
            const float *from = back.at + y * back.row + c * back.channel, *below = from + back.row;
            float *upper = to, *lower = to + full.row;
            auto next = [&] { return LAST ? vf{} : load(below); };
            auto next_which = [&] { return LAST ? vi{} : load_bytes(which + step); };
            vf a = load(from), c0 = next();
            vi of_a = load_bytes(which), of_c = next_which();
            for (int64_t x = 0; x < back.side; ++x, upper += 2 * LANES, lower += 2 * LANES) {
                // Behind the last column there are zeros, whatever `which` says of them.
                from += LANES, below += LANES, which += LANES;
                const vf b = load(from), d = next();
                const vi of_b = load_bytes(which), of_d = next_which();
                const vf zero{};
                store(upper, of_a == 4 ? a : zero);
                store(upper + LANES, (of_a == 5 ? a : zero) + (of_b == 3 ? b : zero));
                store(lower, (of_a == 7 ? a : zero) + (of_c == 1 ? c0 : zero));
                store(lower + LANES, (of_a == 8 ? a : zero) + (of_b == 6 ? b : zero) + (of_c == 2 ? c0 : zero) +
                                         (of_d == 0 ? d : zero));
                a = b, c0 = d, of_a = of_b, of_c = of_d;
            }
        }
    }
};
