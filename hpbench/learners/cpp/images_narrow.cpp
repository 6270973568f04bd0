// The kernels for vectors of 8 images: what every processor has that the library is built for.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "images.hpp"
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define LANES 8
namespace hpbench::images::narrow {
#include "images_kernels.hpp"
}  // namespace hpbench::images::narrow
