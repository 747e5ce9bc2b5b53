// layer_norm: out[r, c] = act((x[r, c] - mean_c) * rsqrt(var_c + eps) * gain[c] + bias[c]), population variance
// rms_norm:   out[r, c] = x[r, c] * rsqrt(mean_c(x[r, c]^2) + eps) * gain[c]
// rms_norm_quantised: one row of it, and the row as `quantise` leaves it; cols is a multiple of 32
//
//   x, out      (rows, cols) f32, row-major; out may be x
//   gain, bias  (cols,) f32
//   launch      grid = rows, block = 128
//
// Bound: memory. bytes = 4 * (2 * rows * cols + cols), flops = 7 * rows * cols (4 for rms_norm).
#include "parts.cuh"

KERNEL(layer_norm, 128)
(const float *x, const float *gain, const float *bias, float *out, int cols, float eps, int act) {
    SHARED(float, room, 4);
    x += (size_t)blockIdx.x * cols;
    out += (size_t)blockIdx.x * cols;
    float sum = 0.0f;
    for (int c = threadIdx.x; c < cols; c += 128) sum += x[c];
    const float mean = block_sum(sum, room) / cols;
    float square = 0.0f;
    for (int c = threadIdx.x; c < cols; c += 128) square = fmaf(x[c] - mean, x[c] - mean, square);
    const float scale = inverse_root(block_sum(square, room) / cols + eps);
    for (int c = threadIdx.x; c < cols; c += 128)
        out[c] = activate(act, (x[c] - mean) * scale * gain[c] + bias[c]);
}
EXPORT(layer_norm)

KERNEL(rms_norm, 128)
(const float *x, const float *gain, float *out, int cols, float eps) {
    SHARED(float, room, 4);
    x += (size_t)blockIdx.x * cols;
    out += (size_t)blockIdx.x * cols;
    float square = 0.0f;
    for (int c = threadIdx.x; c < cols; c += 128) square = fmaf(x[c], x[c], square);
    const float scale = inverse_root(block_sum(square, room) / cols + eps);
    for (int c = threadIdx.x; c < cols; c += 128) out[c] = x[c] * scale * gain[c];
}
EXPORT(rms_norm)

KERNEL(rms_norm_quantised, 128)
(const float *x, const float *gain, float *out, i8 *q, float *s, int cols, float eps) {
    SHARED(float, room, 4);
    float square = 0.0f;
    for (int c = threadIdx.x; c < cols; c += 128) square = fmaf(x[c], x[c], square);
    const float scale = inverse_root(block_sum(square, room) / cols + eps);
    for (int c = threadIdx.x; c < cols; c += 128) {
        const float y = x[c] * scale * gain[c];
        out[c] = y;
        quantise_group(y, q, s, c);
    }
}
EXPORT(rms_norm_quantised)
