// linear_tile: many rows through a matrix on the tensor cores, y[m, n] = scale[m] * sum_c x[m, c] * W[n, c], f32 sums, then an `Ending`.
//
//   x       (rows, width) f16 and scale (rows,), as `narrow` leaves them; width = cols rounded up to 128
//   w       F16, Q8, Q4 or Q4S as in parts.cuh
//   launch  block = 128, grid = tiles of 128 (linear_tile_*) or 64 (linear_low_*) rows by 128 outputs, 64 of a gated product;
//           128 rows of sums and twice the registers for F16 weights would not fit: they go 64 rows at a time
//
// The warps stand side by side: each takes all rows of the tile and 32 rows of W. x goes through shared memory, three stages of 64
// columns, its 16-byte pieces exchanged by row so that no two of a matrix meet in a bank; W goes to registers and is expanded there,
// once for all rows. Blocks follow each other down five strips of rows, then to the next outputs, so that x and W stay in cache.
//
// Bound: arithmetic where rows > ~100. bytes = weights * ceil(rows / 640) + 2 * rows * width + 4 * rows * outputs from memory, x once
// for every 128 outputs from cache; flops = 2 * rows * outputs * cols. A step of 16 columns is 32 products of 8 tensor clocks, eight
// loads of 512 bytes and, at Q8, 28 instructions to expand.
#include "fragment.cuh"

enum { STAGE = 64, STAGES = 3, OUTPUTS = 128, STRIPS = 5, ROOM_PITCH = OUTPUTS + 8 };

template <int kind, int tiles>
DEVICE void tile(const f16 *x, const Weights &w, const Ending &e, int width) {
    // Stages of x, and sums of 64 rows at the end.
    constexpr int high = tiles * 16, x_room = STAGES * high * STAGE, sum_room = 2 * 64 * ROOM_PITCH;
    SHARED(f16, stages, x_room > sum_room ? x_room : sum_room);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int across = e.mode == MODE_GATED ? OUTPUTS / 2 : OUTPUTS;
    const int strips = (e.rows + high - 1) / high, columns = (e.outputs + across - 1) / across;
    const int band = blockIdx.x / (STRIPS * columns), place = blockIdx.x % (STRIPS * columns), tall = min((int)STRIPS, strips - band * STRIPS);
    const int row0 = (band * STRIPS + place % tall) * high, first = place / tall * across;

    auto bring = [&](int step) {
#pragma unroll
        for (int i = 0; i < tiles; ++i) {
            const int row = thread / 8 + i * 16, piece = thread % 8;
            const bool valid = row0 + row < e.rows;
            copy_async(stages + (step % STAGES * high + row) * STAGE + (piece ^ row % 8) * 8,
                       x + (size_t)(valid ? row0 + row : 0) * width + step * STAGE + piece * 8, valid);
        }
    };
    int from[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) from[t] = row_behind(w, e, first + warp * across / 4, t * 8 + lane / 4);
    auto weights = [&](int step, Half<kind> (&h)[4]) {
#pragma unroll
        for (int t = 0; t < 4; ++t) h[t] = fetch<kind>(w, from[t], step / 2 * 4 + lane % 4, step % 2);
    };

    float sums[tiles][4][4];
#pragma unroll
    for (int i = 0; i < tiles * 16; ++i) sums[i / 16][i / 4 % 4][i % 4] = 0.0f;

    const int steps = width / STAGE;
    Half<kind> now[4], next[4];
    bring(0);
    copy_commit();
    bring(1); // width is a multiple of two stages
    copy_commit();
    weights(0, next);
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int t = 0; t < 4; ++t) now[t] = next[t];
        copy_wait<1>();
        __syncthreads();
        if (step + 2 < steps) bring(step + 2);
        copy_commit();
        if (step + 1 < steps) weights(step + 1, next);
        const f16 *stage = stages + (step % STAGES * high + lane % 16) * STAGE;
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            unsigned b[4][2];
#pragma unroll
            for (int t = 0; t < 4; ++t) expand<kind>(now[t], step % 2, s, b[t]);
#pragma unroll
            for (int m = 0; m < tiles; ++m) {
                unsigned a[4];
                load_matrix(a, shared_at(stage + ((s * 2 + lane / 16) ^ lane % 8) * 8) + m * 16 * STAGE * 2);
#pragma unroll
                for (int t = 0; t < 4; ++t) multiply(sums[m][t], a, b[t][0], b[t][1]);
            }
        }
    }

    // 64 rows of sums at a time through shared memory, so that a warp stores whole rows.
    float *room = (float *)stages;
#pragma unroll
    for (int part = 0; part < tiles / 4; ++part) {
        __syncthreads();
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int t = 0; t < 4; ++t)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    room[(m * 16 + i / 2 * 8 + lane / 4) * ROOM_PITCH + warp * 32 + t * 8 + lane % 4 * 2 + i % 2] = sums[part * 4 + m][t][i];
        __syncthreads();
        for (int i = warp; i < 64; i += 4) {
            const int row = row0 + part * 64 + i;
            if (row >= e.rows) break;
            for (int n = lane; n < across && first + n < e.outputs; n += 32) {
                const float *sum = room + i * ROOM_PITCH + (e.mode == MODE_GATED ? n / 8 * 16 + n % 8 : n);
                end(e, row, first + n, sum[0], e.mode == MODE_GATED ? sum[8] : 0.0f);
            }
        }
    }
}

#define TILE(name, kind, tiles)                                                                                                        \
    KERNEL(name, 128)                                                                                                                   \
    (const f16 *x, const float *scale, const Weights w, const float *bias, float *out, int rows, int width, int mode, int act) {         \
        const Ending e = {scale, bias, out, rows, mode == MODE_GATED ? w.rows / 2 : w.rows, mode, act};                               \
        tile<kind, tiles>(x, w, e, width);                                                                                              \
    }                                                                                                                                   \
    EXPORT(name)

TILE(linear_tile_q8, KIND_Q8, 8)
TILE(linear_tile_q4, KIND_Q4, 8)
TILE(linear_tile_q4s, KIND_Q4S, 8)
TILE(linear_low_f16, KIND_F16, 4)
TILE(linear_low_q8, KIND_Q8, 4)
TILE(linear_low_q4, KIND_Q4, 4)
TILE(linear_low_q4s, KIND_Q4S, 4)
