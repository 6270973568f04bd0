// The kernels for vectors of 16 images, for processors with AVX-512; chosen when the program runs.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "images.hpp"
#ifdef __x86_64__
#include <immintrin.h>
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define LANES 16
namespace hpbench::images::wide {
#include "images_kernels.hpp"
bool available() { return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"); }
}  // namespace hpbench::images::wide
#else
namespace hpbench::images::wide {
bool available() { return false; }
void forward(const Work& work) { narrow::forward(work); }
void backward(const Work& work) { narrow::backward(work); }
}  // namespace hpbench::images::wide
#endif
