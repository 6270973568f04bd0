// The kernels for vectors of 8 images: what every processor has that the library is built for.
#include <cstring>

#include "images.hpp"

#define LANES 8
namespace hpbench::images::narrow {
typedef int32_t vi8 __attribute__((vector_size(32)));
#include "images_kernels.hpp"
}  // namespace hpbench::images::narrow
