// element: add: out[i] = act(a[i] + b[i % repeat]); mix: out[i] = weight part[i], plus out[i] unless first.
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
(const float *part, float weight, float *out, int first, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i < count) out[i] = first ? weight * part[i] : fmaf(weight, part[i], out[i]);
}
EXPORT(mix)
