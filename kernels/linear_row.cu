// linear_row: one row through a matrix, y[n] = sum_c x[c] * W[n, c], then one of
//   mode 0   out[n] = act(y[n] + bias[n])
//   mode 1   out[n] += y[n] + bias[n]
//   mode 2   out[n] = silu(y[n]) * y[half + n], n < half = rows / 2
//
//   linear_row_q8, linear_row_q4   x as `quantise` leaves it: i8 (width,), scales f32 (width / 32,)
//   linear_row_f16, linear_row_f32 x (cols,) f32
//   w       as in parts.cuh
//   bias    (rows,) f32 or null
//   launch  grid = ceil(outputs / 8), block = 128: a warp makes two outputs and reads 16 bytes a lane at a time
//
// gated_row_q8, gated_row_q4: mode 2 for a multiple of 32 outputs, which also leave their row as `quantise` would: to, to_s
//   launch  grid = outputs / 32, block = 512
//
// Bound: memory. bytes = weights (34 / 32, 18 / 32, 2 or 4 per value) + a row of x per warp, from cache; flops = 2 * rows * cols.
#include "parts.cuh"

enum { MODE_STORE, MODE_ADD, MODE_GATED };

// Calls dot(row of W) for the warp's two rows and stores what the mode makes of the two sums. `share` gets a copy where it is not null.
template <class Dot>
DEVICE void two_rows(const Weights w, const float *bias, float *out, int mode, int act, float *share, Dot dot) {
    const int outputs = mode == MODE_GATED ? w.rows / 2 : w.rows;
    const int n = blockIdx.x * (blockDim.x / 16) + threadIdx.x / 32 * 2;
    if (n >= outputs) return; // whole warps
    const bool two = n + 1 < outputs;
    float y[2], up[2] = {0.0f, 0.0f};
    // A missing second row is computed as the first again: the warp stays together.
    dot(n, two ? n + 1 : n, y);
    if (mode == MODE_GATED) dot(outputs + n, outputs + (two ? n + 1 : n), up);
    for (int i = 0; i < 2; ++i) {
        y[i] = warp_sum(y[i]);
        if (mode == MODE_GATED) up[i] = warp_sum(up[i]);
    }
    const int lane = threadIdx.x % 32;
    if (lane > (two ? 1 : 0)) return;
    float value = lane ? y[1] : y[0];
    if (bias) value += bias[n + lane];
    if (mode == MODE_STORE) value = activate(act, value);
    if (mode == MODE_ADD) value += out[n + lane];
    if (mode == MODE_GATED) value = activate(ACT_SILU, value) * (lane ? up[1] : up[0]);
    out[n + lane] = value;
    if (share) share[threadIdx.x / 32 * 2 + lane] = value;
}

DEVICE void row_q8(const Weights &w, const i8 *q, const float *s, const float *bias, float *out, int mode, int act, float *share) {
    two_rows(w, bias, out, mode, act, share, [&](int a, int b, float (&y)[2]) {
        const int lane = threadIdx.x % 32, groups = w.width / 32;
        const int row[2] = {a, b};
        y[0] = y[1] = 0.0f;
        for (int half = lane; half < groups * 2; half += 32) { // 16 values
            const int4 x = ((const int4 *)q)[half];
            const float scale = s[half / 2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const uint4 v = load_once((const uint4 *)w.values + (size_t)row[i] * groups * 2 + half);
                const int sum = dot4(v.x, x.x, dot4(v.y, x.y, dot4(v.z, x.z, dot4(v.w, x.w, 0))));
                y[i] = fmaf(from_f16(w.scales[(size_t)row[i] * groups + half / 2]) * scale, (float)sum, y[i]);
            }
        }
    });
}

KERNEL(linear_row_q8, 128)
(const Weights w, const i8 *q, const float *s, const float *bias, float *out, int mode, int act) {
    row_q8(w, q, s, bias, out, mode, act, nullptr);
}
EXPORT(linear_row_q8)

KERNEL(gated_row_q8, 512)
(const Weights w, const i8 *q, const float *s, float *out, i8 *to, float *to_s) {
    SHARED(float, room, 32);
    row_q8(w, q, s, nullptr, out, MODE_GATED, ACT_NONE, room);
    __syncthreads();
    if (threadIdx.x < 32) quantise_group(room[threadIdx.x], to, to_s, blockIdx.x * 32 + threadIdx.x);
}
EXPORT(gated_row_q8)

DEVICE void row_q4(const Weights &w, const i8 *q, const float *s, const float *bias, float *out, int mode, int act, float *share) {
    two_rows(w, bias, out, mode, act, share, [&](int a, int b, float (&y)[2]) {
        const int lane = threadIdx.x % 32, groups = w.width / 32;
        const int row[2] = {a, b};
        y[0] = y[1] = 0.0f;
        for (int group = lane; group < groups; group += 32) { // 32 values
            const int4 low = ((const int4 *)q)[group * 2], high = ((const int4 *)q)[group * 2 + 1];
            const int x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            const float scale = s[group];
            int all = 0; // sum of x: the nibbles carry an offset of 8
#pragma unroll
            for (int i = 0; i < 8; ++i) all = dot4(x[i], 0x01010101, all);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const uint4 v = load_once((const uint4 *)w.values + (size_t)row[i] * groups + group);
                const unsigned words[4] = {v.x, v.y, v.z, v.w};
                int sum = -8 * all;
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    sum = dot4(words[j] & 0x0f0f0f0f, x[j], sum);
                    sum = dot4(words[j] >> 4 & 0x0f0f0f0f, x[j + 4], sum);
                }
                y[i] = fmaf(from_f16(w.scales[(size_t)row[i] * groups + group]) * scale, (float)sum, y[i]);
            }
        }
    });
}

KERNEL(linear_row_q4, 128)
(const Weights w, const i8 *q, const float *s, const float *bias, float *out, int mode, int act) {
    row_q4(w, q, s, bias, out, mode, act, nullptr);
}
EXPORT(linear_row_q4)

KERNEL(gated_row_q4, 512)
(const Weights w, const i8 *q, const float *s, float *out, i8 *to, float *to_s) {
    SHARED(float, room, 32);
    row_q4(w, q, s, nullptr, out, MODE_GATED, ACT_NONE, room);
    __syncthreads();
    if (threadIdx.x < 32) quantise_group(room[threadIdx.x], to, to_s, blockIdx.x * 32 + threadIdx.x);
}
EXPORT(gated_row_q4)

KERNEL(linear_row_f16, 128)
(const Weights w, const float *x, const float *bias, float *out, int mode, int act) {
    two_rows(w, bias, out, mode, act, nullptr, [&](int a, int b, float (&y)[2]) {
        const int row[2] = {a, b};
        y[0] = y[1] = 0.0f;
        for (int c = threadIdx.x % 32 * 8; c < w.width; c += 256) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const uint4 v = load_once((const uint4 *)((const f16 *)w.values + (size_t)row[i] * w.width + c));
                const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    if (c + j < w.cols) y[i] = fmaf(from_f16(words[j / 2] >> (j % 2 * 16)), x[c + j], y[i]);
            }
        }
    });
}
EXPORT(linear_row_f16)

KERNEL(linear_row_f32, 128)
(const Weights w, const float *x, const float *bias, float *out, int mode, int act) {
    two_rows(w, bias, out, mode, act, nullptr, [&](int a, int b, float (&y)[2]) {
        const int row[2] = {a, b};
        y[0] = y[1] = 0.0f;
        for (int c = threadIdx.x % 32; c < w.cols; c += 32)
            for (int i = 0; i < 2; ++i) y[i] = fmaf(((const float *)w.values)[(size_t)row[i] * w.width + c], x[c], y[i]);
    });
}
EXPORT(linear_row_f32)
