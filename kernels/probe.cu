// probe: single instructions of ptx.cuh on given bits, one warp a block, so that what a GPU answers can be kept and the emulated device be
// held to it.
//
//   probe_multiply  a (n, 32, 4), b (n, 32, 2) halves in pairs, d (n, 32, 4) f32: d += a b as the lanes of a warp hold them
//   probe_matrices  rows (n, 32, 4) words: 32 rows of 16 bytes; out (n, 2, 32, 4) words: loaded as they are, then transposed
//   probe_exp2      x (n, 32) f32, out (n, 32) f32
//   launch          grid = n, block = 32
//
// Bound: none; it is not timed.
#include "parts.cuh"

KERNEL(probe_multiply, 32)
(const unsigned *a, const unsigned *b, float *d) {
    const size_t lane = (size_t)blockIdx.x * 32 + threadIdx.x;
    float sums[4];
    unsigned left[4];
    for (int i = 0; i < 4; ++i) {
        sums[i] = d[lane * 4 + i];
        left[i] = a[lane * 4 + i];
    }
    multiply(sums, left, b[lane * 2], b[lane * 2 + 1]);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}
EXPORT(probe_multiply)

KERNEL(probe_matrices, 32)
(const uint4 *rows, unsigned *out) {
    SHARED(uint4, room, 32);
    room[threadIdx.x] = rows[blockIdx.x * 32 + threadIdx.x];
    __syncwarp();
    unsigned plain[4], turned[4];
    load_matrix(plain, shared_at(room + threadIdx.x));
    load_matrix_transposed(turned, shared_at(room + threadIdx.x));
    for (int i = 0; i < 4; ++i) {
        out[((size_t)blockIdx.x * 64 + threadIdx.x) * 4 + i] = plain[i];
        out[((size_t)blockIdx.x * 64 + 32 + threadIdx.x) * 4 + i] = turned[i];
    }
}
EXPORT(probe_matrices)

KERNEL(probe_exp2, 32)
(const float *x, float *out) {
    const size_t i = (size_t)blockIdx.x * 32 + threadIdx.x;
    out[i] = exp2_fast(x[i]);
}
EXPORT(probe_exp2)
