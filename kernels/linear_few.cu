// linear_few: up to 16 rows through a matrix on the tensor cores, as `linear_tile`, where the weights are most of the work.
//
//   launch  block = 256, grid = ceil(outputs / 32), 16 outputs a block of a gated product
//
// The eight warps share the inner dimension, 128 columns in turn, and add up at the end; x comes from cache, for each is its own part.
//
// Bound: memory. bytes = weights + 2 * rows * width * ceil(outputs / 32) from cache.
#include "fragment.cuh"

enum { FEW_WARPS = 8, FEW_PITCH = 32 + 8 };

template <int kind>
DEVICE void few(const f16 *x, const Weights &w, const Ending &e, int width) {
    SHARED(float, room, FEW_WARPS * 16 * FEW_PITCH);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int across = e.mode == MODE_GATED ? 16 : 32, first = blockIdx.x * across;
    int from[4];
#pragma unroll
    for (int t = 0; t < 4; ++t) from[t] = row_behind(w, e, first, t * 8 + lane / 4);
    // Pairs of x that this lane brings; a row too far is the last one again.
    const unsigned *top = (const unsigned *)(x + (size_t)min(lane / 4, e.rows - 1) * width) + lane % 4;
    const unsigned *low = (const unsigned *)(x + (size_t)min(lane / 4 + 8, e.rows - 1) * width) + lane % 4;

    float sums[4][4];
#pragma unroll
    for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = 0.0f;
    for (int group = warp; group < width / GROUP; group += FEW_WARPS)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Half<kind> h[4];
#pragma unroll
            for (int t = 0; t < 4; ++t) h[t] = fetch<kind>(w, from[t], group * 4 + lane % 4, half);
            unsigned a[4][4];
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                const int at = group * 64 + (half * 4 + s) * 8;
                a[s][0] = top[at];
                a[s][1] = low[at];
                a[s][2] = top[at + 4];
                a[s][3] = low[at + 4];
            }
#pragma unroll
            for (int s = 0; s < 4; ++s)
#pragma unroll
                for (int t = 0; t < 4; ++t) {
                    unsigned b[2];
                    expand<kind>(h[t], half, s, b);
                    multiply(sums[t], a[s], b[0], b[1]);
                }
        }

#pragma unroll
    for (int t = 0; t < 4; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) room[(warp * 16 + i / 2 * 8 + lane / 4) * FEW_PITCH + t * 8 + lane % 4 * 2 + i % 2] = sums[t][i];
    __syncthreads();
    for (int i = threadIdx.x; i < e.rows * across; i += FEW_WARPS * 32) {
        const int row = i / across, n = i % across;
        if (first + n >= e.outputs) continue;
        const float *sum = room + row * FEW_PITCH + (e.mode == MODE_GATED ? n / 8 * 16 + n % 8 : n);
        float y = 0.0f, up = 0.0f;
        for (int part = 0; part < FEW_WARPS; ++part, sum += 16 * FEW_PITCH) {
            y += sum[0];
            if (e.mode == MODE_GATED) up += sum[8];
        }
        end(e, row, first + n, y, up);
    }
}

#define FEW(name, kind)                                                                                                                \
    KERNEL(name, 256)                                                                                                                   \
    (const f16 *x, const float *scale, const Weights w, const float *bias, float *out, int rows, int width, int mode, int act) {         \
        const Ending e = {scale, bias, out, rows, mode == MODE_GATED ? w.rows / 2 : w.rows, mode, act};                               \
        few<kind>(x, w, e, width);                                                                                                      \
    }                                                                                                                                   \
    EXPORT(name)

FEW(linear_few_f16, KIND_F16)
FEW(linear_few_q8, KIND_Q8)
FEW(linear_few_q4, KIND_Q4)
FEW(linear_few_q4s, KIND_Q4S)
