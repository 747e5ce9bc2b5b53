// attention: one warp's share of a flash attention: 16 queries against a tile of keys in shared memory, on the tensor cores.
//
// A query is a pair (row, query head of one key/value head), so that every key is read once for all heads that share it.
#pragma once
#include "parts.cuh"

// State of 16 queries of `padded` dimensions. In an accumulator fragment a lane holds queries lane / 4 and lane / 4 + 8.
template <int padded> struct Queries {
    unsigned q[padded / 16][4];
    float out[padded / 8][4];
    float top[2], sum[2]; // running maximum of the scores (in units of log2) and sum of the weights
};

// Where the queries come from and go to.
struct Rows {
    const float *qkv; // first row, first query head of the key/value head
    int stride;       // values from row to row
    int head_dim;
    int group; // query heads per key/value head
    int count; // rows * group
    int inverse; // 256 / group + 1, for queries below 16
    const float *turn; // cosines, then sines, of head_dim / 2 angles by which q is still to be rotated; or null
};

// Dimension c of a head that is rotated by the angles of `turn`.
DEVICE float turned(const float *x, const float *turn, int c, int half) {
    const int i = c < half ? c : c - half;
    const float other = c < half ? -x[c + half] : x[i];
    return x[c] * turn[i] + other * turn[half + i];
}

// query / group of a query below 16, without a division.
DEVICE int row_of(const Rows &rows, int query) { return query * rows.inverse >> 8; }

// Where the values of a query of this row begin, behind those of the first; below zero for none.
DEVICE int query_at(const Rows &rows, int query, int row) {
    return query < rows.count ? row * rows.stride + (query - row * rows.group) * rows.head_dim : -1;
}

DEVICE float query_value(const Rows &rows, int at, int c) {
    if (at < 0 || c >= rows.head_dim) return 0.0f;
    return rows.turn ? turned(rows.qkv + at, rows.turn, c, rows.head_dim / 2) : rows.qkv[at + c];
}

template <int padded> DEVICE void clear(Queries<padded> &state) {
#pragma unroll
    for (int i = 0; i < padded / 8 * 4; ++i) state.out[i / 4][i % 4] = 0.0f;
    state.top[0] = state.top[1] = -INFINITY_F;
    state.sum[0] = state.sum[1] = 0.0f;
}

template <int padded> DEVICE void begin(Queries<padded> &state, const Rows &rows, int first) {
    const int lane = threadIdx.x % 32;
    int q[2];
    for (int h = 0; h < 2; ++h) q[h] = query_at(rows, first + lane / 4 + h * 8, (first + lane / 4 + h * 8) / rows.group);
#pragma unroll
    for (int k = 0; k < padded / 16; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int c = k * 16 + i / 2 * 8 + lane % 4 * 2;
            state.q[k][i] = pack_f16(query_value(rows, q[i % 2], c), query_value(rows, q[i % 2], c + 1));
        }
    clear(state);
}

// The same for a block whose warps share their queries, all 128 threads together: through shared memory, 16 * (padded + 8) values, which is
// free again afterwards.
template <int padded> DEVICE void begin_shared(Queries<padded> &state, const Rows &rows, f16 *room) {
    const int lane = threadIdx.x % 32, pitch = padded + 8;
#pragma unroll 1
    for (int i = threadIdx.x; i < 16 * padded; i += 128) {
        const int query = i / padded;
        room[query * pitch + i % padded] = to_f16(query_value(rows, query_at(rows, query, row_of(rows, query)), i % padded));
    }
    __syncthreads();
    const Shared queries = shared_at(room + lane % 16 * pitch + lane / 16 * 8);
#pragma unroll
    for (int k = 0; k < padded / 16; ++k) load_matrix(state.q[k], queries + k * 32);
    __syncthreads();
    clear(state);
}

// Takes in `keys` keys, of which query i sees the first limit[i]. `scale` is head_dim^-1/2 * log2(e).
template <int padded, int keys>
DEVICE void take(Queries<padded> &state, const f16 *key, const f16 *value, const int (&limit)[2], float scale) {
    const int lane = threadIdx.x % 32, pitch = padded + 8;
    const Shared keys_at = shared_at(key + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
    const Shared values_at = shared_at(value + lane % 16 * pitch + lane / 16 * 8);
    float s[keys / 8][4];
#pragma unroll
    for (int i = 0; i < keys / 8 * 4; ++i) s[i / 4][i % 4] = 0.0f;
#pragma unroll
    for (int k = 0; k < padded / 16; ++k)
#pragma unroll
        for (int n = 0; n < keys / 16; ++n) {
            unsigned b[4];
            load_matrix(b, keys_at + (n * 16 * pitch + k * 16) * 2);
            multiply(s[n * 2], state.q[k], b[0], b[1]);
            multiply(s[n * 2 + 1], state.q[k], b[2], b[3]);
        }
    if (min(limit[0], limit[1]) < keys) {
#pragma unroll
        for (int n = 0; n < keys / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (n * 8 + lane % 4 * 2 + i % 2 >= limit[i / 2]) s[n][i] = -INFINITY_F;
    }
    float top[2] = {-INFINITY_F, -INFINITY_F};
#pragma unroll
    for (int n = 0; n < keys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) top[i / 2] = fmaxf(top[i / 2], s[n][i]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(FULL, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(FULL, top[h], 2));
        top[h] = fmaxf(top[h] * scale, state.top[h]);
        // A query that has seen nothing yet keeps its zeros.
        const float base = top[h] == -INFINITY_F ? 0.0f : top[h];
        const float shrink = exp2_fast(state.top[h] - base);
        state.top[h] = top[h];
        state.sum[h] *= shrink;
#pragma unroll
        for (int n = 0; n < padded / 8; ++n) {
            state.out[n][h * 2] *= shrink;
            state.out[n][h * 2 + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < keys / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                s[n][h * 2 + i] = exp2_fast(fmaf(s[n][h * 2 + i], scale, -base));
                state.sum[h] += s[n][h * 2 + i];
            }
    }
#pragma unroll
    for (int k = 0; k < keys / 16; ++k) {
        const unsigned p[4] = {pack_f16(s[k * 2][0], s[k * 2][1]), pack_f16(s[k * 2][2], s[k * 2][3]),
                               pack_f16(s[k * 2 + 1][0], s[k * 2 + 1][1]), pack_f16(s[k * 2 + 1][2], s[k * 2 + 1][3])};
#pragma unroll
        for (int n = 0; n < padded / 16; ++n) {
            unsigned b[4];
            load_matrix_transposed(b, values_at + (k * 16 * pitch + n * 16) * 2);
            multiply(state.out[n * 2], p, b[0], b[1]);
            multiply(state.out[n * 2 + 1], p, b[2], b[3]);
        }
    }
}

// The sums of the weights, whole: each lane has added up only its own columns.
template <int padded> DEVICE void finish(Queries<padded> &state) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        state.sum[h] += __shfl_xor_sync(FULL, state.sum[h], 1);
        state.sum[h] += __shfl_xor_sync(FULL, state.sum[h], 2);
    }
}

// Starts the copy of keys first .. first + keys of a run of `count` (zeros behind its end) by `threads` threads, of which this is `thread`.
template <int padded, int keys>
DEVICE void bring(f16 *to, const f16 *from, int first, int count, int thread, int threads) {
    for (int i = thread; i < keys * (padded / 8); i += threads) {
        const int row = i / (padded / 8), c = i % (padded / 8) * 8;
        const bool valid = first + row < count;
        copy_async(to + row * (padded + 8) + c, from + (size_t)(valid ? first + row : 0) * padded + c, valid);
    }
}
