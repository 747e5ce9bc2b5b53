// rope_store: rotates q in place and k on its way to the cache, and stores k and v as f16 (rope_store_exact: as f32). Halves layout: with a = p * frequency[i],
// out[i] = x[i] cos a - x[i + d/2] sin a, out[i + d/2] = x[i + d/2] cos a + x[i] sin a.
//
//   qkv           (rows, (n_heads + 2 n_kv) * head_dim) f32; q is rotated in place
//   frequency     (head_dim / 2,) f32
//   keys, values  (n_kv, positions_max, padded) f16 or f32 of one layer; padded = head_dim rounded up, zeros behind
//   start         position of the first row; `position` is added to it where it is not null
//   launch        grid = (rows, n_heads + 2 n_kv), block = 64: a block per head
//
// Bound: memory. bytes = rows * (8 * n_heads * head_dim + 12 * n_kv * head_dim).
#include "parts.cuh"

DEVICE void keep(f16 *to, float value) { *to = to_f16(value); }
DEVICE void keep(float *to, float value) { *to = value; }

template <class T>
DEVICE void rotate_and_store(float *qkv, const float *frequency, T *keys, T *values, int n_heads, int n_kv, int head_dim, int padded,
                             int positions_max, int start, const int *position) {
    const int row = blockIdx.x, head = blockIdx.y, half = head_dim / 2;
    const int p = start + row + (position ? *position : 0);
    float *x = qkv + ((size_t)row * (n_heads + 2 * n_kv) + head) * head_dim;
    if (head >= n_heads + n_kv) {
        T *to = values + ((size_t)(head - n_heads - n_kv) * positions_max + p) * padded;
        for (int i = threadIdx.x; i < padded; i += 64) keep(to + i, i < head_dim ? x[i] : 0.0f);
        return;
    }
    T *to = head < n_heads ? nullptr : keys + ((size_t)(head - n_heads) * positions_max + p) * padded;
    for (int i = threadIdx.x; i < half; i += 64) {
        float sine, cosine;
        sine_cosine(p * frequency[i], sine, cosine);
        const float a = x[i], b = x[i + half];
        const float first = a * cosine - b * sine, second = b * cosine + a * sine;
        if (to) {
            keep(to + i, first);
            keep(to + i + half, second);
        } else {
            x[i] = first;
            x[i + half] = second;
        }
    }
    if (to)
        for (int i = head_dim + threadIdx.x; i < padded; i += 64) keep(to + i, 0.0f);
}

KERNEL(rope_store, 64)
(float *qkv, const float *frequency, f16 *keys, f16 *values, int n_heads, int n_kv, int head_dim, int padded, int positions_max, int start,
 const int *position) {
    rotate_and_store(qkv, frequency, keys, values, n_heads, n_kv, head_dim, padded, positions_max, start, position);
}
EXPORT(rope_store)

KERNEL(rope_store_exact, 64)
(float *qkv, const float *frequency, float *keys, float *values, int n_heads, int n_kv, int head_dim, int padded, int positions_max,
 int start, const int *position) {
    rotate_and_store(qkv, frequency, keys, values, n_heads, n_kv, head_dim, padded, positions_max, start, position);
}
EXPORT(rope_store_exact)
