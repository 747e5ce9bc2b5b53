// linear_row: one row through a matrix, y[n] = sum_c x[c] * W[n, c], then one of
//   mode 0   out[n] = act(y[n] + bias[n])
//   mode 1   out[n] += y[n] + bias[n]
//   mode 2   out[n] = silu(y[n]) * y[half + n], n < half = rows / 2
//
//   linear_row_q8, _q4, _q4s       x as `quantise` leaves it: i8 (width,), scales f32 (width / 32,)
//   normed_row_q8, _q4, _q4s       x a `Norm`; modes 0 and 1
//   linear_row_f16, linear_row_f32 x (cols,) f32
//   w       as in parts.cuh
//   bias    (rows,) f32 or null
//   share   warps that share an output: 1, or 4 where rows are long
//   ahead   what a later kernel reads, or null
//   launch  block = 128, 512 of a norm, which every block makes anew; grid = ceil(outputs * share / (block / 16)): a warp makes two
//           outputs, or its share of them, and reads 16 bytes a lane at a time, several times at once
//
// gated_row_q8, _q4, _q4s: mode 2 of a `Norm` or of what `quantise` left, for a multiple of 32 outputs, which also leave their row as
// `quantise` would: to, to_s
//   launch  grid = outputs / 32, block = 512
//
// Bound: memory. bytes = weights (34 / 32, 18 / 32, 17 / 32, 2 or 4 per value) + a row of x per warp, from cache; flops = 2 * rows * cols.
#include "parts.cuh"

enum { NORM_COLUMNS_MAX = 8192 };

// The RMS norm of x, (cols,), whose answer is the row; every block makes it for itself, and the first leaves it in `out`, `q` and `s` for
// others. No norm where x is null: `q` and `s` are there already.
struct Norm {
    const float *x, *gain;
    float *out;
    i8 *q;
    float *s;
    int cols;
    float eps;
};

struct Row {
    const i8 *q;
    const float *s;
};

DEVICE Row normed(const Norm &norm, i8 *q, float *s, float *room) {
    if (!norm.x) return {norm.q, norm.s};
    float square = 0.0f;
    for (int c = threadIdx.x; c < norm.cols; c += blockDim.x) square = fmaf(norm.x[c], norm.x[c], square);
    const float scale = inverse_root(block_sum(square, room) / norm.cols + norm.eps);
    for (int c = threadIdx.x; c < norm.cols; c += blockDim.x) {
        const float y = norm.x[c] * scale * norm.gain[c];
        quantise_group(y, q, s, c);
        if (blockIdx.x == 0) norm.out[c] = y;
    }
    __syncthreads();
    if (blockIdx.x == 0)
        for (int c = threadIdx.x; c < norm.cols; c += blockDim.x) {
            norm.q[c] = q[c];
            if (c % 32 == 0) norm.s[c / 32] = s[c / 32];
        }
    return {q, s};
}

// What becomes of the sums of a warp's two outputs, every lane having both; `share` gets a copy where it is not null.
DEVICE void end_row(const float *y, const float *up, int n, int outputs, const float *bias, float *out, int mode, int act, float *share) {
    const int lane = threadIdx.x % 32;
    if (lane > 1 || n + lane >= outputs) return;
    float value = lane ? y[1] : y[0];
    if (bias) value += bias[n + lane];
    if (mode == MODE_STORE) value = activate(act, value);
    if (mode == MODE_ADD) value += out[n + lane];
    if (mode == MODE_GATED) value = activate(ACT_SILU, value) * (lane ? up[1] : up[0]);
    out[n + lane] = value;
    if (share) share[threadIdx.x / 32 * 2 + lane] = value;
}

// Calls dot(rows of W, first piece, step, sums) for the warp's outputs. In a gated product the rows are two of the gate, two of up.
template <int count, class Dot>
DEVICE void warp_rows(const Weights &w, const float *bias, float *out, int mode, int act, int share, float *room, float *copy, Dot dot) {
    const int outputs = count == 4 ? w.rows / 2 : w.rows, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int n = (blockIdx.x * (blockDim.x / 32 / share) + warp / share) * 2;
    int row[count];
#pragma unroll
    // A row too far is computed as the last one again: the warp stays together.
    for (int i = 0; i < count; ++i) row[i] = i / 2 * outputs + min(n + i % 2, outputs - 1);
    float y[count];
#pragma unroll
    for (int i = 0; i < count; ++i) y[i] = 0.0f;
    dot(row, lane + warp % share * 32, share * 32, y);
#pragma unroll
    for (int i = 0; i < count; ++i) y[i] = warp_sum(y[i]);
    if (share > 1) {
        if (lane < count) {
#pragma unroll
            for (int i = 0; i < count; ++i)
                if (lane == i) room[warp * 4 + i] = y[i];
        }
        __syncthreads();
        if (warp % share) return;
#pragma unroll
        for (int i = 0; i < count; ++i)
            for (int other = 1; other < share; ++other) y[i] += room[(warp + other) * 4 + i];
    }
    end_row(y, y + count / 4 * 2, n, outputs, bias, out, mode, act, copy);
}

template <class Dot2, class Dot4>
DEVICE void rows_by_mode(const Weights &w, const float *bias, float *out, int mode, int act, int share, float *room, Dot2 two, Dot4 four) {
    if (mode == MODE_GATED)
        warp_rows<4>(w, bias, out, mode, act, share, room, nullptr, four);
    else
        warp_rows<2>(w, bias, out, mode, act, share, room, nullptr, two);
}

// Pieces at, at + step, ... of some rows, 16 bytes each, as far as there are any: all on their way before one is used.
template <int batch, int count>
DEVICE void load_pieces(uint4 (&v)[batch][count], const Weights &w, const int (&row)[count], int pieces, int at, int step) {
#pragma unroll
    for (int j = 0; j < batch; ++j)
#pragma unroll
        for (int i = 0; i < count; ++i)
            if (at + j * step < pieces) v[j][i] = load_once((const uint4 *)w.values + (size_t)row[i] * pieces + at + j * step);
}

// Sixteen values of a block are a piece; `batch` of each row are on their way at once.
template <int batch, int count>
DEVICE void dot_q8(const Weights &w, const Row &x, const int (&row)[count], int first, int step, float (&y)[count]) {
    const int groups = w.width / 32, pieces = groups * 2;
#pragma unroll 1
    for (int at = first; at < pieces; at += batch * step) {
        uint4 v[batch][count];
        load_pieces(v, w, row, pieces, at, step);
#pragma unroll
        for (int j = 0; j < batch; ++j) {
            const int piece = at + j * step;
            if (piece >= pieces) break;
            const int4 q = ((const int4 *)x.q)[piece];
            const float scale = x.s[piece / 2];
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const int sum = dot4(v[j][i].x, q.x, dot4(v[j][i].y, q.y, dot4(v[j][i].z, q.z, dot4(v[j][i].w, q.w, 0))));
                y[i] = fmaf(from_f16(scale_of<KIND_Q8>(w, (size_t)row[i] * groups + piece / 2)) * scale, (float)sum, y[i]);
            }
        }
    }
}

// A block of 32 values is a piece.
template <int kind, int batch, int count>
DEVICE void dot_q4(const Weights &w, const Row &x, const int (&row)[count], int first, int step, float (&y)[count]) {
    const int pieces = w.width / 32;
#pragma unroll 1
    for (int at = first; at < pieces; at += batch * step) {
        uint4 v[batch][count];
        load_pieces(v, w, row, pieces, at, step);
#pragma unroll
        for (int j = 0; j < batch; ++j) {
            const int piece = at + j * step;
            if (piece >= pieces) break;
            const int4 low = ((const int4 *)x.q)[piece * 2], high = ((const int4 *)x.q)[piece * 2 + 1];
            const int q[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            const float scale = x.s[piece];
            int all = 0; // sum of x: the nibbles carry an offset of 8
#pragma unroll
            for (int k = 0; k < 8; ++k) all = dot4(q[k], 0x01010101, all);
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const unsigned words[4] = {v[j][i].x, v[j][i].y, v[j][i].z, v[j][i].w};
                int sum = -8 * all;
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    sum = dot4(words[k] & 0x0f0f0f0f, q[k], sum);
                    sum = dot4(words[k] >> 4 & 0x0f0f0f0f, q[k + 4], sum);
                }
                y[i] = fmaf(from_f16(scale_of<kind>(w, (size_t)row[i] * pieces + piece)) * scale, (float)sum, y[i]);
            }
        }
    }
}

// The kinds differ in what is a piece.
template <int kind, int batch, int count>
DEVICE void dot(const Weights &w, const Row &x, const int (&row)[count], int first, int step, float (&y)[count]) {
    if (kind == KIND_Q8) dot_q8<batch>(w, x, row, first, step, y);
    else dot_q4<kind, batch>(w, x, row, first, step, y);
}

#define ROW(name, kind, deep)                                                                                                                \
    KERNEL(linear_row_##name, 128)                                                                                                      \
    (const Weights w, const Row x, const float *bias, float *out, int mode, int act, int share, const Ahead ahead) {                    \
        SHARED(float, room, 16);                                                                                                        \
        auto two = [&](const int(&row)[2], int first, int step, float(&y)[2]) { dot<kind, deep>(w, x, row, first, step, y); };         \
        auto four = [&](const int(&row)[4], int first, int step, float(&y)[4]) { dot<kind, 1>(w, x, row, first, step, y); };            \
        rows_by_mode(w, bias, out, mode, act, share, room, two, four);                                                                  \
        bring_ahead(ahead);                                                                                                             \
    }                                                                                                                                   \
    EXPORT(linear_row_##name)                                                                                                           \
                                                                                                                                       \
    KERNEL_TWICE(normed_row_##name, 512)                                                                                                \
    (const Weights w, const Norm norm, const float *bias, float *out, int mode, int act, int share, const Ahead ahead) {                \
        SHARED(float, room, 64);                                                                                                        \
        SHARED(i8, q, NORM_COLUMNS_MAX);                                                                                                \
        SHARED(float, s, NORM_COLUMNS_MAX / 32);                                                                                        \
        const Row x = normed(norm, q, s, room);                                                                                         \
        auto two = [&](const int(&row)[2], int first, int step, float(&y)[2]) { dot<kind, 2>(w, x, row, first, step, y); };            \
        warp_rows<2>(w, bias, out, mode, act, share, room, nullptr, two);                                                               \
        bring_ahead(ahead);                                                                                                             \
    }                                                                                                                                   \
    EXPORT(normed_row_##name)                                                                                                           \
                                                                                                                                       \
    KERNEL_TWICE(gated_row_##name, 512)                                                                                                 \
    (const Weights w, const Norm norm, float *out, i8 *to, float *to_s, const Ahead ahead) {                                            \
        SHARED(float, room, 32);                                                                                                        \
        SHARED(i8, q, NORM_COLUMNS_MAX);                                                                                                \
        SHARED(float, s, NORM_COLUMNS_MAX / 32);                                                                                        \
        const Row x = normed(norm, q, s, room);                                                                                         \
        auto four = [&](const int(&row)[4], int first, int step, float(&y)[4]) { dot<kind, 1>(w, x, row, first, step, y); };            \
        warp_rows<4>(w, nullptr, out, MODE_GATED, ACT_NONE, 1, nullptr, room, four);                                                    \
        __syncthreads();                                                                                                                \
        if (threadIdx.x < 32) quantise_group(room[threadIdx.x], to, to_s, blockIdx.x * 32 + threadIdx.x);                               \
        bring_ahead(ahead);                                                                                                             \
    }                                                                                                                                   \
    EXPORT(gated_row_##name)

// As many pieces on their way as registers are there for.
ROW(q8, KIND_Q8, 4)
ROW(q4, KIND_Q4, 2)
ROW(q4s, KIND_Q4S, 2)

template <int count> DEVICE void dot_f16(const Weights &w, const float *x, const int (&row)[count], int first, int step, float (&y)[count]) {
    for (int c = first * 8; c < w.width; c += step * 8) {
        float values[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = c + j < w.cols ? x[c + j] : 0.0f;
#pragma unroll
        for (int i = 0; i < count; ++i) {
            const uint4 v = load_once((const uint4 *)((const f16 *)w.values + (size_t)row[i] * w.width + c));
            const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int j = 0; j < 8; ++j) y[i] = fmaf(from_f16(words[j / 2] >> (j % 2 * 16)), values[j], y[i]);
        }
    }
}

template <int count> DEVICE void dot_f32(const Weights &w, const float *x, const int (&row)[count], int first, int step, float (&y)[count]) {
    for (int c = first; c < w.cols; c += step)
#pragma unroll
        for (int i = 0; i < count; ++i) y[i] = fmaf(((const float *)w.values)[(size_t)row[i] * w.width + c], x[c], y[i]);
}

#define FLOAT_ROW(kind)                                                                                                                \
    KERNEL(linear_row_##kind, 128)                                                                                                      \
    (const Weights w, const float *x, const float *bias, float *out, int mode, int act, int share) {                                   \
        SHARED(float, room, 16);                                                                                                        \
        auto two = [&](const int(&row)[2], int first, int step, float(&y)[2]) { dot_##kind<2>(w, x, row, first, step, y); };             \
        auto four = [&](const int(&row)[4], int first, int step, float(&y)[4]) { dot_##kind<4>(w, x, row, first, step, y); };            \
        rows_by_mode(w, bias, out, mode, act, share, room, two, four);                                                                  \
    }                                                                                                                                   \
    EXPORT(linear_row_##kind)

FLOAT_ROW(f16)
FLOAT_ROW(f32)
