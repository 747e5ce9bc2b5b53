// quantise: q[g, i] = round(x[32 g + i] / s[g]), s[g] = max_i |x[32 g + i]| / 127, for one row.
//
//   x      (cols,) f32
//   q      (width,) i8, width = cols rounded up to 32, zeros behind
//   s      (width / 32,) f32; NaN where a value of the group is not finite, so that what is made of it shows it
//   launch grid = ceil(width / 128), block = 128: one warp per group
//
// Bound: latency (a few kilobytes). bytes = 5 * width + width / 8.
#include "parts.cuh"

KERNEL(quantise, 128)
(const float *x, i8 *q, float *s, int cols, int width) {
    const int i = blockIdx.x * 128 + threadIdx.x;
    if (i >= width) return; // whole warps: width is a multiple of 32
    quantise_group(i < cols ? x[i] : 0.0f, q, s, i);
}
EXPORT(quantise)
