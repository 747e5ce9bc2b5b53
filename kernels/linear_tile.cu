// linear_tile: many rows through a matrix on the tensor cores, y[m, n] = scale[m] * sum_c x[m, c] * W[n, c], f32 sums, then one of
//   mode 0   out[m, n] = act(y + bias[n])
//   mode 1   out[m, n] += y + bias[n]
//   mode 2   out[m, n] = silu(y[m, n]) * y[m, half + n], n < half = rows of W / 2
//
//   x       (rows, width) f16 and scale (rows,), as `narrow` leaves them
//   w       F16, Q8 or Q4 as in parts.cuh; packed values become f16 on their way to shared memory
//   bias    (outputs,) f32 or null
//   out     (rows, outputs) f32
//   launch  grid = (ceil(outputs of W / 64), ceil(rows / 64)), block = 128: four warps of 32 x 32 each
//
// A gated tile holds 32 columns of the gate and the same 32 of up, eight and eight in turn, so that a thread has both.
//
// Bound: arithmetic where rows > ~100. bytes = weights * ceil(rows / 64) + 2 * rows * width * ceil(outputs / 64) + 4 * rows * outputs,
// most of it from cache; flops = 2 * rows * outputs * cols.
#include "parts.cuh"

enum { TILE = 64, DEPTH = 32, PITCH = DEPTH + 8, TILE_GATED = 2, TILE_ADD = 1 };

// The 16 weights that a thread brings: half a row of a tile, `half` of `row`.
struct Piece {
    uint4 v[2];
    f16 scale;
};

template <int kind> DEVICE Piece fetch(const Weights &w, int row, int k, int half) {
    Piece p;
    const bool valid = row >= 0;
    const size_t at = (size_t)(valid ? row : 0) * w.width + k * DEPTH + half * 16;
    if (kind == KIND_F16) {
        const uint4 *from = (const uint4 *)((const f16 *)w.values + at);
        p.v[0] = from[0];
        p.v[1] = from[1];
    } else if (kind == KIND_Q8) {
        p.v[0] = *(const uint4 *)((const i8 *)w.values + at);
    } else {
        // Low nibbles are values 0..16 of the block, high ones 16..32.
        p.v[0] = *(const uint4 *)((const u8 *)w.values + (at - half * 16) / 2);
    }
    p.scale = 0;
    if (kind != KIND_F16) p.scale = w.scales[at / 32];
    if (!valid) {
        p.v[0] = p.v[1] = make_uint4(0, 0, 0, 0);
        p.scale = 0;
    }
    return p;
}

template <int kind> DEVICE void place(const Piece &p, int half, f16 *to) {
    uint4 out[2];
    if (kind == KIND_F16) {
        out[0] = p.v[0];
        out[1] = p.v[1];
    } else {
        const float scale = from_f16(p.scale);
        const unsigned words[4] = {p.v[0].x, p.v[0].y, p.v[0].z, p.v[0].w};
        unsigned pairs[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float a, b;
            if (kind == KIND_Q8) {
                a = (float)(i8)(words[i / 2] >> (i % 2 * 16));
                b = (float)(i8)(words[i / 2] >> (i % 2 * 16 + 8));
            } else {
                const unsigned nibbles = words[i / 2] >> (half * 4) >> (i % 2 * 16);
                a = (float)((int)(nibbles & 15) - 8);
                b = (float)((int)(nibbles >> 8 & 15) - 8);
            }
            pairs[i] = pack_f16(a * scale, b * scale);
        }
        out[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        out[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }
    ((uint4 *)to)[0] = out[0];
    ((uint4 *)to)[1] = out[1];
}

template <int kind>
DEVICE void tile(const f16 *x, const float *scale, const Weights &w, const float *bias, float *out, int rows, int mode, int act) {
    SHARED(f16, left, 2 * TILE * PITCH);
    SHARED(f16, right, 2 * TILE * PITCH);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int row0 = blockIdx.y * TILE, steps = w.width / DEPTH;
    const int down = warp / 2 * 32, across = warp % 2 * 32; // the warp's corner in the tile
    const int outputs = mode == TILE_GATED ? w.rows / 2 : w.rows;

    // What this thread brings of W: half of row `mine` of the tile, which is row `from` of W, or nothing.
    const int mine = thread / 2, half = thread % 2;
    int from = blockIdx.x * TILE + mine;
    if (mode == TILE_GATED) {
        const int column = blockIdx.x * 32 + mine / 16 * 8 + mine % 8;
        from = column < outputs ? (mine / 8 % 2 ? outputs : 0) + column : -1;
    }
    if (from >= w.rows) from = -1;

    auto bring_left = [&](int k, int buffer) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = thread / 4 + i * 32, column = thread % 4 * 8;
            const bool valid = row0 + row < rows;
            copy_async(left + (buffer * TILE + row) * PITCH + column, x + (size_t)(valid ? row0 + row : 0) * w.width + k * DEPTH + column,
                       valid);
        }
        copy_commit();
    };

    float sums[2][4][4];
#pragma unroll
    for (int i = 0; i < 32; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0.0f;

    bring_left(0, 0);
    place<kind>(fetch<kind>(w, from, 0, half), half, right + mine * PITCH + half * 16);
    copy_wait<0>();
    __syncthreads();
    for (int k = 0; k < steps; ++k) {
        const int buffer = k % 2, next = 1 - buffer;
        Piece piece;
        if (k + 1 < steps) {
            bring_left(k + 1, next);
            piece = fetch<kind>(w, from, k + 1, half);
        }
#pragma unroll
        for (int c = 0; c < DEPTH; c += 16) {
            unsigned a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                load_matrix(a[i], left + (buffer * TILE + down + i * 16 + lane % 16) * PITCH + c + lane / 16 * 8);
                load_matrix(b[i], right + (buffer * TILE + across + i * 16 + lane / 16 * 8 + lane % 8) * PITCH + c + lane / 8 % 2 * 8);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
        if (k + 1 < steps) place<kind>(piece, half, right + (next * TILE + mine) * PITCH + half * 16);
        copy_wait<0>();
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = row0 + down + i * 16 + h * 8 + lane / 4;
            if (row >= rows) continue;
            const float size = scale[row];
            float *to = out + (size_t)row * outputs;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const float y = sums[i][j][h * 2 + e] * size;
                    if (mode == TILE_GATED) {
                        const int n = blockIdx.x * 32 + across / 2 + j / 2 * 8 + lane % 4 * 2 + e;
                        if (j % 2 == 0 && n < outputs) to[n] = activate(ACT_SILU, y) * (sums[i][j + 1 - j % 2][h * 2 + e] * size);
                        continue;
                    }
                    const int n = blockIdx.x * TILE + across + j * 8 + lane % 4 * 2 + e;
                    if (n >= outputs) continue;
                    const float value = bias ? y + bias[n] : y;
                    to[n] = mode == TILE_ADD ? to[n] + value : activate(act, value);
                }
            }
        }
    }
}

KERNEL(linear_tile_f16, 128)
(const f16 *x, const float *scale, const Weights w, const float *bias, float *out, int rows, int mode, int act) {
    tile<KIND_F16>(x, scale, w, bias, out, rows, mode, act);
}
EXPORT(linear_tile_f16)

KERNEL(linear_tile_q8, 128)
(const f16 *x, const float *scale, const Weights w, const float *bias, float *out, int rows, int mode, int act) {
    tile<KIND_Q8>(x, scale, w, bias, out, rows, mode, act);
}
EXPORT(linear_tile_q8)

KERNEL(linear_tile_q4, 128)
(const f16 *x, const float *scale, const Weights w, const float *bias, float *out, int rows, int mode, int act) {
    tile<KIND_Q4>(x, scale, w, bias, out, rows, mode, act);
}
EXPORT(linear_tile_q4)
