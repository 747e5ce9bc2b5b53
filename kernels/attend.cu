// attend: out = softmax(q k^T head_dim^-1/2) v for many queries, flash style: scores live in registers, f16 in, f32 sums.
//
//   qkv           (batch * rows, stride) f32, q first; head h of n_heads uses key/value head h / group
//   keys, values  (batch, n_kv, pitch, padded) f16 as `heads` or `rope_store` leaves them; the template is `padded`: 16, 32, 64, 128
//   start         causal: row r sees keys 0 .. start + r + 1. Negative: every row sees the first -start keys
//   out           (batch * rows, n_heads * head_dim) f32
//   launch        grid = (ceil(rows * group / 64), n_kv, batch), block = 128: four warps of 16 queries, a query is (row, head of the group)
//
// Bound: arithmetic. flops = 4 * queries * keys seen * head_dim; bytes = queries * 8 * head_dim + keys and values once per 64 queries, from cache.
#include "attention.cuh"

template <int padded, int keys>
DEVICE void attend(const float *qkv, const f16 *key, const f16 *value, float *out, int rows, int n_heads, int n_kv, int head_dim, int pitch,
                   int start, float scale) {
    SHARED(f16, tiles, 4 * keys * (padded + 8)); // two buffers of keys and values
    const int lane = threadIdx.x % 32, group = n_heads / n_kv, kv = blockIdx.y;
    const int stride = (n_heads + 2 * n_kv) * head_dim, first = blockIdx.x * 64 + threadIdx.x / 32 * 16;
    const Rows queries = {qkv + (size_t)blockIdx.z * rows * stride + kv * group * head_dim, stride, head_dim, group, rows * group, 0, nullptr};
    const f16 *k = key + (size_t)(blockIdx.z * n_kv + kv) * pitch * padded, *v = value + (size_t)(blockIdx.z * n_kv + kv) * pitch * padded;
    // Keys that the block's last query sees, and each of the lane's two.
    const int last = min((int)blockIdx.x * 64 + 63, queries.count - 1) / group;
    const int count = start < 0 ? -start : start + last + 1;
    int seen[2];
    for (int h = 0; h < 2; ++h) seen[h] = start < 0 ? -start : start + (first + lane / 4 + h * 8) / group + 1;

    const int value_at = keys * (padded + 8); // in a buffer; a buffer is twice as long
    bring<padded, keys>(tiles, k, 0, count, threadIdx.x, 128);
    bring<padded, keys>(tiles + value_at, v, 0, count, threadIdx.x, 128);
    copy_commit();
    Queries<padded> state;
    begin(state, queries, first);
    for (int at = 0, buffer = 0; at < count; at += keys, buffer ^= 1) {
        copy_wait<0>();
        __syncthreads();
        if (at + keys < count) {
            f16 *next = tiles + (buffer ^ 1) * 2 * value_at;
            bring<padded, keys>(next, k, at + keys, count, threadIdx.x, 128);
            bring<padded, keys>(next + value_at, v, at + keys, count, threadIdx.x, 128);
            copy_commit();
        }
        const int limit[2] = {min(seen[0], count) - at, min(seen[1], count) - at};
        const f16 *tile = tiles + buffer * 2 * value_at;
        take<padded, keys>(state, tile, tile + value_at, limit, scale);
    }
    finish(state);
    for (int h = 0; h < 2; ++h) {
        const int query = first + lane / 4 + h * 8;
        if (query >= queries.count) continue;
        float *to = out + ((size_t)(blockIdx.z * rows + query / group) * n_heads + kv * group + query % group) * head_dim;
        const float share = 1.0f / state.sum[h];
#pragma unroll
        for (int n = 0; n < padded / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int c = n * 8 + lane % 4 * 2 + i;
                if (c < head_dim) to[c] = state.out[n][h * 2 + i] * share;
            }
    }
}

#define ATTEND(name, padded, keys)                                                                                                     \
    KERNEL(name, 128)                                                                                                                   \
    (const float *qkv, const f16 *key, const f16 *value, float *out, int rows, int n_heads, int n_kv, int head_dim, int pitch, int start, \
     float scale) {                                                                                                                     \
        attend<padded, keys>(qkv, key, value, out, rows, n_heads, n_kv, head_dim, pitch, start, scale);                                 \
    }                                                                                                                                   \
    EXPORT(name)

ATTEND(attend_16, 16, 64)
ATTEND(attend_32, 32, 32)
ATTEND(attend_64, 64, 64)
ATTEND(attend_128, 128, 32)
