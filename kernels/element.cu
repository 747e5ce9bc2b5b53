// element: add: out[i] = act(a[i] + b[i % repeat]); mix: out[i] = g0 p0[i] + g1 p1[i] + g2 p2[i].
//
//   a, p0 .. p2, out  (count,) f32; out may be any of them
//   b                 (repeat,) f32
//   launch            grid = ceil(count / 256), block = 256
//
// Bound: memory. bytes = 4 * (values read + values written).
#include "parts.cuh"

KERNEL(add, 256)
(const float *a, const float *b, float *out, int act, long long repeat, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i < count) out[i] = activate(act, a[i] + b[i % repeat]);
}
EXPORT(add)

KERNEL(mix, 256)
(const float *p0, const float *p1, const float *p2, float g0, float g1, float g2, float *out, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i < count) out[i] = fmaf(g2, p2[i], fmaf(g1, p1[i], g0 * p0[i]));
}
EXPORT(mix)
