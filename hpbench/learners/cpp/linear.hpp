// Small dense linear algebra, written so that every output element is summed in one fixed order: a row's result does not
// depend on how many rows are computed with it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hpbench {

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

inline v8 load(const float* p) {
    v8 x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store(float* p, v8 x) { std::memcpy(p, &x, sizeof x); }
inline v8 all(float x) { return v8{x, x, x, x, x, x, x, x}; }
inline float sum(v8 x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

// 2^n and expm1(r), with x = n ln 2 + r and |r| <= ln 2 / 2, to a few units in the last place; |x| is to be below 88.
struct Exponential {
    v8 power, rest;
};
inline Exponential exponential(v8 x) {
    v8 scaled = x * 1.44269504f;
    const v8 magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest whole number
    v8 n = (scaled + magic) - magic;
    v8 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    v8 p = all(1.0f / 5040.0f);
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r * r + r;
    i8 exponent = (__builtin_convertvector(n, i8) + 127) << 23;
    v8 power;
    std::memcpy(&power, &exponent, sizeof power);
    return {power, p};
}

// exp(x) for x from -87 to 88; below that 0 or as good as, above that exp(88); NaN stays NaN.
inline v8 exp8(v8 x) {
    const v8 limit = all(88.0f);
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const Exponential e = exponential(x);
    return e.power * (e.rest + 1.0f);
}

// tanh(x) = e / (e + 2) with e = expm1(2x) = 2^n expm1(r) + 2^n - 1. Exact to a few units in the last place over the whole
// range, near zero too; NaN stays NaN.
inline v8 tanh8(v8 x) {
    const v8 limit = all(9.5f);
    x = x > limit ? limit : x;
    x = x < -limit ? -limit : x;
    const Exponential parts = exponential(x + x);
    v8 e = parts.power * parts.rest + (parts.power - 1.0f);
    return e / (e + 2.0f);
}

// One tile: C[r, 8v..] = start + sum_k A[r, k] B[k, 8v..], with A[r, k] = a[r * row + k * column].
template <int R, int V>
inline void tile(const float* a, ptrdiff_t row, ptrdiff_t column, const float* b, ptrdiff_t ldb, const float* bias, float* c,
                 ptrdiff_t ldc, int depth) {
    v8 acc[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = bias ? load(bias + 8 * v) : all(0.0f);
    for (int k = 0; k < depth; ++k) {
        v8 right[V];
        for (int v = 0; v < V; ++v) right[v] = load(b + k * ldb + 8 * v);
        for (int r = 0; r < R; ++r) {
            v8 left = all(a[r * row + k * column]);
            for (int v = 0; v < V; ++v) acc[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(c + r * ldc + 8 * v, acc[r][v]);
}

template <int V>
inline void rows(const float* a, ptrdiff_t row, ptrdiff_t column, const float* b, ptrdiff_t ldb, const float* bias, float* c,
                 ptrdiff_t ldc, int count, int depth) {
    int r = 0;
    for (; r + 6 <= count; r += 6) tile<6, V>(a + r * row, row, column, b, ldb, bias, c + r * ldc, ldc, depth);
    const float* rest = a + r * row;
    float* out = c + r * ldc;
    switch (count - r) {
        case 5: tile<5, V>(rest, row, column, b, ldb, bias, out, ldc, depth); break;
        case 4: tile<4, V>(rest, row, column, b, ldb, bias, out, ldc, depth); break;
        case 3: tile<3, V>(rest, row, column, b, ldb, bias, out, ldc, depth); break;
        case 2: tile<2, V>(rest, row, column, b, ldb, bias, out, ldc, depth); break;
        case 1: tile<1, V>(rest, row, column, b, ldb, bias, out, ldc, depth); break;
        default: break;
    }
}

// C[count, width] = A[count, depth] B[depth, width] (+ bias[width]); width is a multiple of 8, B and C are dense rows.
inline void multiply(const float* a, ptrdiff_t row, ptrdiff_t column, const float* b, const float* bias, float* c, int count,
                     int depth, int width) {
    int j = 0;
    for (; j + 16 <= width; j += 16)
        rows<2>(a, row, column, b + j, width, bias ? bias + j : nullptr, c + j, width, count, depth);
    for (; j + 8 <= width; j += 8)
        rows<1>(a, row, column, b + j, width, bias ? bias + j : nullptr, c + j, width, count, depth);
}

inline void transpose(const float* a, int count, int width, float* out) {
    constexpr int BLOCK = 8;  // rows and columns that are read and written while their cache lines are near
    int i = 0;
    for (; i + BLOCK <= count && width % BLOCK == 0; i += BLOCK)
        for (int j = 0; j < width; j += BLOCK)
            for (int c = 0; c < BLOCK; ++c) {
                const float* from = a + static_cast<ptrdiff_t>(i) * width + j + c;
                v8 column = {from[0], from[width], from[2 * width], from[3 * width], from[4 * width], from[5 * width],
                             from[6 * width], from[7 * width]};
                store(out + static_cast<ptrdiff_t>(j + c) * count + i, column);
            }
    for (; i < count; ++i)
        for (int j = 0; j < width; ++j) out[static_cast<ptrdiff_t>(j) * count + i] = a[static_cast<ptrdiff_t>(i) * width + j];
}

// width is a multiple of 8.
inline float dot(const float* a, const float* b, int width) {
    v8 acc = all(0.0f);
    for (int i = 0; i < width; i += 8) acc += load(a + i) * load(b + i);
    return sum(acc);
}

inline double square_sum(const float* a, size_t count) {
    v8 acc = all(0.0f);
    size_t i = 0;
    for (; i + 8 <= count; i += 8) acc += load(a + i) * load(a + i);
    double total = sum(acc);
    for (; i < count; ++i) total += static_cast<double>(a[i]) * a[i];
    return total;
}

}  // namespace hpbench
