// Pooling and its way back: included by `images_kernels.hpp`.

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
