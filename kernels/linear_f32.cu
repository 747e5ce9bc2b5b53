// linear_f32: many rows through an f32 matrix without rounding its values, y[m, n] = sum_c x[m, c] * W[n, c], modes as linear_tile.
// For bundles that are packed as f32 to be compared, not to be fast.
//
//   x       (rows, cols) f32
//   w       F32 as in parts.cuh
//   launch  grid = (ceil(outputs / 32), ceil(rows / 32)), block = 256: a thread makes 2 x 2 values (gated: and 2 x 2 of up)
//
// Bound: arithmetic. flops = 2 * rows * rows of W * cols.
#include "parts.cuh"

enum { F32_DEPTH = 32, F32_PITCH = 33 };

KERNEL(linear_f32, 256)
(const float *x, const Weights w, const float *bias, float *out, int rows, int mode, int act) {
    SHARED(float, left, 32 * F32_PITCH);
    SHARED(float, right, 2 * 32 * F32_PITCH);
    const int outputs = mode == MODE_GATED ? w.rows / 2 : w.rows, parts = mode == MODE_GATED ? 2 : 1;
    const int row0 = blockIdx.y * 32, column0 = blockIdx.x * 32;
    const int down = threadIdx.x / 16 * 2, across = threadIdx.x % 16 * 2;
    float sums[2][2][2];
    for (int i = 0; i < 8; ++i) sums[i / 4][i / 2 % 2][i % 2] = 0.0f;
    for (int k = 0; k < w.cols; k += F32_DEPTH) {
        for (int i = threadIdx.x; i < 32 * F32_DEPTH; i += 256) {
            const int r = i / F32_DEPTH, c = i % F32_DEPTH;
            const bool inside = k + c < w.cols;
            left[r * F32_PITCH + c] = inside && row0 + r < rows ? x[(size_t)(row0 + r) * w.cols + k + c] : 0.0f;
            for (int p = 0; p < parts; ++p)
                right[(p * 32 + r) * F32_PITCH + c] =
                    inside && column0 + r < outputs
                        ? ((const float *)w.values)[(size_t)(p * outputs + column0 + r) * w.width + k + c]
                        : 0.0f;
        }
        __syncthreads();
        for (int c = 0; c < F32_DEPTH; ++c)
            for (int p = 0; p < parts; ++p)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    sums[p][i / 2][i % 2] = fmaf(left[(down + i / 2) * F32_PITCH + c],
                                                 right[(p * 32 + across + i % 2) * F32_PITCH + c], sums[p][i / 2][i % 2]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = row0 + down + i / 2, n = column0 + across + i % 2;
        if (row >= rows || n >= outputs) continue;
        float *to = out + (size_t)row * outputs + n;
        const float value = sums[0][i / 2][i % 2] + (bias ? bias[n] : 0.0f);
        if (mode == MODE_GATED) *to = activate(ACT_SILU, value) * sums[1][i / 2][i % 2];
        else *to = mode == MODE_ADD ? *to + value : activate(act, value);
    }
}
EXPORT(linear_f32)
