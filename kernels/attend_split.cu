// attend_split: attention of a few rows over a long cache. The keys are cut into runs, one block each; each key is read once for all
// query heads that share it. The block of a key/value head that is done last joins the parts of all.
//
//   qkv           (rows, (n_heads + 2 n_kv) * head_dim) f32, q rotated; rows * n_heads / n_kv <= 16
//   keys, values  (n_kv, pitch, padded) f16 of one layer; the template is `padded`: 16, 32, 64, 128
//   parts         (n_kv, splits, 16, padded + 2) f32: unscaled sums, maximum, sum of weights
//   turns         (n_kv,) u32, zeros before and after: how many blocks are done
//   out           (rows, n_heads * head_dim) f32
//   to, to_s      null, or the row of answers as `quantise` leaves it (one row, head_dim a multiple of 32)
//   group         n_heads / n_kv; inverse = 256 / group + 1
//   start         row r sees keys 0 .. start + r + 1; `position` is added to start where it is not null
//   frequency     null, or (head_dim / 2,) f32: there is one row, not yet rotated, whose key and value are not yet stored; both are done
//                 on the way, as rope_store does them
//   launch        grid = (splits, n_kv), block = 128: the warps share a run's keys, then join
//
// Bound: memory. bytes = 4 * n_kv * (start + rows) * padded + parts twice (8 * n_kv * splits * rows * n_heads / n_kv * (padded + 2)).
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

// Whether this is the last of `count` blocks to come here; then it sees what the others wrote before. `turn` is as it was again.
DEVICE bool last_of(unsigned count, unsigned *turn, int *last) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        *last = atomicInc(turn, count - 1) == count - 1;
        __threadfence();
    }
    __syncthreads();
    return *last;
}

template <int padded, int keys>
DEVICE void split(const float *qkv, f16 *key, f16 *value, float *parts, unsigned *turns, float *out, i8 *to, float *to_s, int rows,
                  int group, int inverse, int n_kv, int head_dim, int pitch, int start, const int *position, const float *frequency,
                  float scale) {
    // Keys and values of each warp while it takes them in, its sums afterwards.
    SHARED(float, room, 4 * keys * (padded + 8));
    SHARED(float, turn, padded);
    SHARED(int, last, 1);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kv = blockIdx.y;
    const int n_heads = group * n_kv, stride = (n_heads + 2 * n_kv) * head_dim;
    if (position) start += *position;
    const Rows queries = {qkv + kv * group * head_dim, stride, head_dim, group, rows * group, inverse, frequency ? turn : nullptr};
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
    const int from = blockIdx.x * run, stop = min(count, from + run);
    int seen[2];
    for (int h = 0; h < 2; ++h) seen[h] = start + row_of(queries, lane / 4 + h * 8) + 1;

    if (frequency && from <= start && start < stop) {
        store(qkv, k, v, turn, n_heads, n_kv, head_dim, padded, start);
        __syncthreads();
    }
    Queries<padded> state;
    begin_shared(state, queries, (f16 *)room);
    f16 *tile = (f16 *)room + warp * 2 * keys * (padded + 8);
    for (int at = from + warp * keys; at < stop; at += step) {
#pragma unroll 1
        for (int i = 0; i < 2; ++i) bring<padded, keys>(tile + i * keys * (padded + 8), i ? v : k, at, stop, lane, 32);
        copy_commit();
        copy_wait<0>();
        __syncwarp();
        const int limit[2] = {min(seen[0], stop) - at, min(seen[1], stop) - at};
        take<padded, keys>(state, tile, tile + keys * (padded + 8), limit, scale);
        __syncwarp();
    }
    finish(state);

    // Each warp leaves its part in shared memory. They are joined, then in the block that is done last those of all blocks.
    __syncthreads();
    constexpr int wide = padded + 2;
    for (int h = 0; h < 2; ++h) {
        float *mine = room + (warp * 16 + lane / 4 + h * 8) * wide;
#pragma unroll
        for (int n = 0; n < padded / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) mine[n * 8 + lane % 4 * 2 + i] = state.out[n][h * 2 + i];
        if (lane % 4 == 0) mine[padded] = state.top[h], mine[padded + 1] = state.sum[h];
    }
    __syncthreads();
    parts += (size_t)kv * gridDim.x * 16 * wide;
    const float *these = room;
    int many = 4;
#pragma unroll 1
    for (bool all = false;; all = true) {
#pragma unroll 1
        for (int i = threadIdx.x; i < queries.count * padded; i += 128) {
            const int query = i / padded, c = i % padded;
            const float *part = these + query * wide;
            float value = 0.0f, top = -INFINITY_F, weights = 0.0f;
#pragma unroll 4
            for (int n = 0; n < many; ++n, part += 16 * wide) {
                const float highest = fmaxf(top, part[padded]), base = highest == -INFINITY_F ? 0.0f : highest;
                const float before = exp2_fast(top - base), now = exp2_fast(part[padded] - base);
                value = value * before + part[c] * now;
                weights = weights * before + part[padded + 1] * now;
                top = highest;
            }
            if (!all) {
                float *joined = parts + (blockIdx.x * 16 + query) * wide;
                joined[c] = value;
                if (c == 0) joined[padded] = top, joined[padded + 1] = weights;
            } else if (c < head_dim) {
                const int row = row_of(queries, query), at = (row * n_heads + kv * group + query - row * group) * head_dim + c;
                value = __fdividef(value, weights); // weights are 1 or more
                out[at] = value;
                if (to) quantise_group(value, to, to_s, at);
            }
        }
        if (all || !last_of(gridDim.x, turns + kv, last)) return;
        these = parts, many = gridDim.x;
    }
}

#define ATTEND_SPLIT(name, padded, keys)                                                                                                \
    KERNEL_TWICE(name, 128)                                                                                                                \
    (const float *qkv, f16 *key, f16 *value, float *parts, unsigned *turns, float *out, i8 *to, float *to_s, int rows, int group,         \
     int inverse, int n_kv, int head_dim, int pitch, int start, const int *position, const float *frequency, float scale) {             \
        split<padded, keys>(qkv, key, value, parts, turns, out, to, to_s, rows, group, inverse, n_kv, head_dim, pitch, start, position, \
                            frequency, scale);                                                                                         \
    }                                                                                                                                   \
    EXPORT(name)

ATTEND_SPLIT(attend_split_16, 16, 32)
ATTEND_SPLIT(attend_split_32, 32, 32)
ATTEND_SPLIT(attend_split_64, 64, 32)
ATTEND_SPLIT(attend_split_128, 128, 16)
