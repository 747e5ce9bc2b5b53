// narrow: out[r, c] = f16(x[r, c] * 2^-e[r]), scale[r] = 2^e[r], so that the largest value of a row lies in [2^13, 2^14): no row
// overflows f16 whatever its size, and none loses more than f16's rounding.
//
//   x      (rows, cols) f32
//   out    (rows, width) f16 in the order of fragment.cuh, width = cols rounded up to 128, zeros behind
//   scale  (rows,) f32; 1 where the row is all zeros or not finite
//   launch grid = rows, block = 128
//
// Bound: memory. bytes = rows * (8 * cols + 2 * width + 4): the row is read twice, once from cache.
#include "fragment.cuh"

KERNEL(narrow, 128)
(const float *x, f16 *out, float *scale, int cols, int width) {
    SHARED(float, room, 4);
    x += (size_t)blockIdx.x * cols;
    out += (size_t)blockIdx.x * width;
    float top = 0.0f;
    for (int c = threadIdx.x; c < cols; c += 128) top = fmaxf(top, fabsf(x[c]));
    top = block_max(top, room);
    // The exponent bits of `top`, kept in a range where both powers of two are normal numbers.
    int exponent = (__float_as_int(top) >> 23) - 127 - 13;
    if (top == 0.0f || !(top < INFINITY_F)) exponent = 0;
    exponent = min(max(exponent, -120), 120);
    const float down = __int_as_float((127 - exponent) << 23);
    for (int p = threadIdx.x * 2; p < width; p += 256) {
        const int c = p / GROUP * GROUP + column_at(p % GROUP);
        ((unsigned *)out)[p / 2] = pack_f16(c < cols ? x[c] * down : 0.0f, c + 1 < cols ? x[c + 1] * down : 0.0f);
    }
    if (threadIdx.x == 0) scale[blockIdx.x] = __int_as_float((127 + exponent) << 23);
}
EXPORT(narrow)
