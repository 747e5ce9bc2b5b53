// likelihood: out[i] = log softmax(row)[place] of pick i; NaN where a value of the row is not finite.
//
//   values  (rows, len) f32
//   picks   (picks, 2): row and place
//   out     (picks,) f32
//   launch  grid = picks, block = 512
//
// Bound: memory. bytes = 8 * len * picks, half of it from cache.
#include "parts.cuh"

KERNEL(likelihood, 512)
(const float *values, const int *picks, float *out, int len) {
    SHARED(float, room, 16);
    const float *row = values + (size_t)picks[blockIdx.x * 2] * len;
    float top = -INFINITY_F;
#pragma unroll 8
    for (int i = threadIdx.x; i < len; i += 512) top = fmaxf(top, row[i]);
    top = block_max(top, room);
    float sum = 0.0f;
#pragma unroll 8
    for (int i = threadIdx.x; i < len; i += 512) sum += expf(row[i] - top) + taint(row[i]);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) out[blockIdx.x] = row[picks[blockIdx.x * 2 + 1]] - top - logf(sum);
}
EXPORT(likelihood)
