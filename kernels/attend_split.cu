// attend_split: attention of a few rows over a long cache. The keys are cut into runs, one block each; each key is read once for all
// query heads that share it. attend_join: the runs' parts to one answer.
//
//   qkv           (rows, (n_heads + 2 n_kv) * head_dim) f32, q rotated; rows * n_heads / n_kv <= 16
//   keys, values  (n_kv, pitch, padded) f16 of one layer; the template is `padded`: 16, 32, 64, 128
//   start         row r sees keys 0 .. start + r + 1; `position` is added to start where it is not null
//   frequency     null, or (head_dim / 2,) f32: there is one row, not yet rotated, whose key and value are not yet stored; both are done
//                 on the way, as rope_store does them
//   to, to_s      null, or the row of answers as `quantise` leaves it (one row, head_dim a multiple of 32)
//   parts         (n_kv, splits, 16, padded + 2) f32: unscaled sums, maximum, sum of weights
//   out           (rows, n_heads * head_dim) f32
//   launch        attend_split: grid = (splits, n_kv), block = 128: the warps share a run's keys, then join
//                 attend_join: grid = rows * n_heads, block = 64
//
// Bound: memory. bytes = 4 * n_kv * (start + rows) * padded + parts twice (8 * n_kv * splits * 16 * (padded + 2)).
#include "attention.cuh"

// Rotates and stores the key of the one row at `p`, and its value.
DEVICE void store(const float *qkv, f16 *key, f16 *value, const float *turn, int n_heads, int n_kv, int head_dim, int padded, int p) {
    const float *k = qkv + (n_heads + blockIdx.y) * head_dim, *v = k + n_kv * head_dim;
#pragma unroll 1
    for (int c = threadIdx.x; c < padded; c += 128) {
        key[(size_t)p * padded + c] = to_f16(c < head_dim ? turned(k, turn, c, head_dim / 2) : 0.0f);
        value[(size_t)p * padded + c] = to_f16(c < head_dim ? v[c] : 0.0f);
    }
}

template <int padded, int keys>
DEVICE void split(const float *qkv, f16 *key, f16 *value, float *parts, int rows, int n_heads, int n_kv, int head_dim, int pitch, int start,
                  const int *position, const float *frequency, float scale) {
    // Keys and values of each warp while it takes them in, its sums afterwards.
    SHARED(float, room, 4 * keys * (padded + 8));
    SHARED(float, turn, padded);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = n_heads / n_kv, kv = blockIdx.y;
    const int stride = (n_heads + 2 * n_kv) * head_dim;
    if (position) start += *position;
    const Rows queries = {qkv + kv * group * head_dim, stride, head_dim, group, rows * group, frequency ? turn : nullptr};
    f16 *k = key + (size_t)kv * pitch * padded, *v = value + (size_t)kv * pitch * padded;
    if (frequency) {
#pragma unroll 1
        for (int i = threadIdx.x; i < head_dim / 2; i += 128) {
            float sine, cosine;
            sine_cosine(start * frequency[i], sine, cosine);
            turn[i] = cosine;
            turn[head_dim / 2 + i] = sine;
        }
        __syncthreads();
    }

    // Runs of whole steps of the block, so that only the last one is ragged.
    const int count = start + rows, step = 4 * keys;
    const int run = ((count + step - 1) / step + (int)gridDim.x - 1) / (int)gridDim.x * step;
    const int from = blockIdx.x * run, to = min(count, from + run);
    int seen[2];
    for (int h = 0; h < 2; ++h) seen[h] = start + (lane / 4 + h * 8) / group + 1;

    if (frequency && from <= start && start < to) {
        store(qkv, k, v, turn, n_heads, n_kv, head_dim, padded, start);
        __syncthreads();
    }
    Queries<padded> state;
    begin_shared(state, queries, (f16 *)room);
    f16 *tile = (f16 *)room + warp * 2 * keys * (padded + 8);
    for (int at = from + warp * keys; at < to; at += step) {
        bring<padded, keys>(tile, k, at, to, lane, 32);
        bring<padded, keys>(tile + keys * (padded + 8), v, at, to, lane, 32);
        copy_commit();
        copy_wait<0>();
        __syncwarp();
        const int limit[2] = {min(seen[0], to) - at, min(seen[1], to) - at};
        take<padded, keys>(state, tile, tile + keys * (padded + 8), limit, scale);
        __syncwarp();
    }
    finish(state);

    // Two rounds of a tree over the warps: the upper half leaves its sums, the lower half takes them in.
    const int wide = padded + 2;
#pragma unroll 1
    for (int left = 2; left; left /= 2) {
        __syncthreads();
        if (warp >= left && warp < 2 * left)
            for (int h = 0; h < 2; ++h) {
                float *mine = room + ((warp - left) * 16 + lane / 4 + h * 8) * wide;
#pragma unroll
                for (int n = 0; n < padded / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i) mine[n * 8 + lane % 4 * 2 + i] = state.out[n][h * 2 + i];
                if (lane % 4 == 0) mine[padded] = state.top[h], mine[padded + 1] = state.sum[h];
            }
        __syncthreads();
        if (warp < left)
            for (int h = 0; h < 2; ++h) {
                const float *theirs = room + (warp * 16 + lane / 4 + h * 8) * wide;
                const float top = fmaxf(state.top[h], theirs[padded]), base = top == -INFINITY_F ? 0.0f : top;
                const float a = exp2_fast(state.top[h] - base), b = exp2_fast(theirs[padded] - base);
                state.top[h] = top;
                state.sum[h] = state.sum[h] * a + theirs[padded + 1] * b;
#pragma unroll
                for (int n = 0; n < padded / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 2; ++i)
                        state.out[n][h * 2 + i] = state.out[n][h * 2 + i] * a + theirs[n * 8 + lane % 4 * 2 + i] * b;
            }
    }
    if (warp) return;
    for (int h = 0; h < 2; ++h) {
        const int query = lane / 4 + h * 8;
        float *part = parts + ((size_t)(kv * gridDim.x + blockIdx.x) * 16 + query) * wide;
        if (query >= queries.count) continue;
#pragma unroll
        for (int n = 0; n < padded / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) part[n * 8 + lane % 4 * 2 + i] = state.out[n][h * 2 + i];
        if (lane % 4 == 0) part[padded] = state.top[h], part[padded + 1] = state.sum[h];
    }
}

#define ATTEND_SPLIT(name, padded, keys)                                                                                                \
    KERNEL_TWICE(name, 128)                                                                                                                \
    (const float *qkv, f16 *key, f16 *value, float *parts, int rows, int n_heads, int n_kv, int head_dim, int pitch, int start,         \
     const int *position, const float *frequency, float scale) {                                                                        \
        split<padded, keys>(qkv, key, value, parts, rows, n_heads, n_kv, head_dim, pitch, start, position, frequency, scale);           \
    }                                                                                                                                   \
    EXPORT(name)

ATTEND_SPLIT(attend_split_16, 16, 32)
ATTEND_SPLIT(attend_split_32, 32, 32)
ATTEND_SPLIT(attend_split_64, 64, 32)
ATTEND_SPLIT(attend_split_128, 128, 16)

KERNEL(attend_join, 64)
(const float *parts, float *out, i8 *to, float *to_s, int n_heads, int n_kv, int head_dim, int padded, int splits) {
    SHARED(float, room, 2);
    SHARED(float, share, 64); // of each run, at most SPLITS_MAX of state.rs
    const int row = blockIdx.x / n_heads, head = blockIdx.x % n_heads, group = n_heads / n_kv;
    const int wide = padded + 2, pitch = 16 * wide;
    const float *part = parts + (size_t)(head / group) * splits * pitch + (row * group + head % group) * wide;
    const bool mine = (int)threadIdx.x < splits;
    const float top = mine ? part[threadIdx.x * pitch + padded] : -INFINITY_F, sum = mine ? part[threadIdx.x * pitch + padded + 1] : 0.0f;
    float highest = block_max(top, room);
    if (highest == -INFINITY_F) highest = 0.0f;
    const float weight = exp2_fast(top - highest);
    share[threadIdx.x] = weight;
    const float all = block_sum(sum * weight, room);
    for (int c = threadIdx.x; c < head_dim; c += 64) {
        float value = 0.0f;
#pragma unroll 8
        for (int s = 0; s < splits; ++s) value = fmaf(part[s * pitch + c], share[s], value);
        value /= all;
        out[(size_t)blockIdx.x * head_dim + c] = value;
        if (to) quantise_group(value, to, to_s, blockIdx.x * head_dim + c);
    }
}
EXPORT(attend_join)
