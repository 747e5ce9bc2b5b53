// ceiling: what a device can do at most, to be set beside what it does: reading memory, and products on registers.
//
//   ceiling_read   adds up `count` pieces of 16 bytes
//   ceiling_f32    8 chains of fused multiply-adds a thread, ceiling_int8 8 chains of dot4, ceiling_f16 8 chains of 16 x 8 x 16 products a warp
//   out            gets a value that never comes, so that nothing can be left out
//   launch         grid = 4 blocks for each multiprocessor (read: 8), block = 256
//
// Bound: ceiling_read memory, bytes = 16 * count; the others arithmetic: ops = 16 a thread and round (f32), 64 (int8), 1024 (f16).
#include "parts.cuh"

KERNEL(ceiling_read, 256)
(const uint4 *from, long long count, float *out) {
    unsigned all = 0;
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < count; i += (long long)gridDim.x * 256) {
        const uint4 v = load_once(from + i);
        all += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (all == 0x5a5a1234u) *out = 1.0f;
}
EXPORT(ceiling_read)

KERNEL(ceiling_f32, 256)
(float *out, int rounds) {
    float sums[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = i + threadIdx.x;
    const float a = blockIdx.x * 1e-9f + 0.5f;
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] = fmaf(sums[i], a, 0.25f);
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) all += sums[i];
    if (all == -1.0f) *out = all;
}
EXPORT(ceiling_f32)

KERNEL(ceiling_int8, 256)
(float *out, int rounds) {
    int sums[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) sums[i] = i;
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] = dot4(sums[i], (int)threadIdx.x, sums[i]);
    int all = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) all ^= sums[i];
    if (all == 0x5a5a1234) *out = 1.0f;
}
EXPORT(ceiling_int8)

KERNEL(ceiling_f16, 256)
(float *out, int rounds) {
    float sums[8][4];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i / 4][i % 4] = 0.0f;
    const unsigned half = pack_f16(0.5f, threadIdx.x * 1e-4f);
    const unsigned a[4] = {half, half, half, half};
    for (int r = 0; r < rounds; ++r)
#pragma unroll
        for (int i = 0; i < 8; ++i) multiply(sums[i], a, half, half);
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < 32; ++i) all += sums[i / 4][i % 4];
    if (all == -1.0f) *out = all;
}
EXPORT(ceiling_f16)
