// Reading images into vectors: included by `images_kernels.hpp`.

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

// Bytes of 8 images, 16 bytes each from place `k` on, side by side: [byte][image].
inline void transpose(const uint8_t* const* from, int64_t k, uint8_t* to) {
    b16 x[8], y[8];
    for (int i = 0; i < 8; ++i) std::memcpy(&x[i], from[i] + k, sizeof x[i]);
    for (int i = 0; i < 4; ++i) y[2 * i] = low_bytes(x[i], x[i + 4]), y[2 * i + 1] = high_bytes(x[i], x[i + 4]);
    for (int i = 0; i < 4; ++i) x[2 * i] = low_bytes(y[i], y[i + 4]), x[2 * i + 1] = high_bytes(y[i], y[i + 4]);
    for (int i = 0; i < 4; ++i) y[2 * i] = low_bytes(x[i], x[i + 4]), y[2 * i + 1] = high_bytes(x[i], x[i + 4]);
    std::memcpy(to, y, sizeof y);
}

// A row of the images from `first` on, 16 pixels after 16; where there are no images any more, zeros.
inline void read_row(const Arguments& a, const Plane& image, int64_t first, int64_t y, float* row) {
    const int64_t line = a.side * a.colours, size = a.side * line;
    for (int half = 0; half < LANES; half += 8) {
        const int64_t there = std::clamp<int64_t>(a.batch - first - half, 0, 8);
        const uint8_t* from[8];
        for (int64_t i = 0; i < there; ++i) from[i] = a.pixels + a.row(first + half + i) * size + y * line;
        for (int64_t x = 0; x < a.side; x += 16) {
            const int64_t pixels = std::min<int64_t>(16, a.side - x), start = x * a.colours;
            uint8_t block[LARGEST * 128];
            for (int64_t k = 0; k < pixels * a.colours; k += 16) {
                const int64_t bytes = std::min<int64_t>(16, pixels * a.colours - k);
                if (there == 8 && bytes == 16) {
                    transpose(from, start + k, block + 8 * k);
                } else {
                    uint8_t some[8][16] = {};
                    const uint8_t* all[8];
                    for (int64_t i = 0; i < 8; ++i) all[i] = some[i];
                    for (int64_t i = 0; i < there; ++i) std::memcpy(some[i], from[i] + start + k, bytes);
                    transpose(all, 0, block + 8 * k);
                }
            }
            for (int64_t c = 0; c < a.colours; ++c) {
                float* to = row + half + c * image.channel + x * LANES;
                for (int64_t i = 0; i < pixels; ++i) {
                    const v8 numbers = eight_numbers(block + 8 * (i * a.colours + c));
                    std::memcpy(to + i * LANES, &numbers, sizeof numbers);
                }
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
