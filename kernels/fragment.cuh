// fragment: packed weights as the tensor cores take them, from memory straight to registers.
//
// A product takes the inner dimension 128 columns at a time, in an order that suits the weights: of the four lanes that share a row of
// W, lane c holds columns 32 c .. 32 c + 32, one block with one scale. Step s of the eight takes columns 32 c + 4 s + {0, 1} from each,
// then + {2, 3}. `narrow` leaves x in the same order: column_at(p) stands at place p.
#pragma once
#include "parts.cuh"

enum { GROUP = 128 };

// The column, of its 128, that stands at place p.
DEVICE int column_at(int p) { return p / 2 % 4 * 32 + p / 16 * 4 + p / 8 % 2 * 2 + p % 2; }

// Half of a lane's block: 16 weights, and their scale twice.
template <int kind> struct Half {
    uint4 v[kind == KIND_F16 ? 2 : 1];
    unsigned scale;
};

// Half `half` of block `block` of a row of W; zeros behind the last block.
template <int kind> DEVICE Half<kind> fetch(const Weights &w, int row, int block, int half) {
    Half<kind> h;
    if (block * 32 >= w.width) {
#pragma unroll
        for (uint4 &v : h.v) v = make_uint4(0, 0, 0, 0);
        h.scale = 0;
        return h;
    }
    const size_t at = (size_t)row * w.width + block * 32;
    if (kind == KIND_F16) {
        const uint4 *from = (const uint4 *)((const f16 *)w.values + at) + half * 2;
        h.v[0] = from[0];
        h.v[kind == KIND_F16] = from[1];
        h.scale = 0;
        return h;
    }
    // A block of Q4 is 16 bytes; its halves are the low and the high nibbles.
    h.v[0] = kind == KIND_Q8 ? ((const uint4 *)((const i8 *)w.values + at))[half] : *(const uint4 *)((const u8 *)w.values + at / 2);
    h.scale = scale_of<kind>(w, at / 32) * 0x10001u;
    return h;
}

// The four weights of step s (of four) as two pairs of f16. A byte b becomes the half 1024 + b by standing under 0x64; what the packed
// form adds to a value goes off again, exactly, and the product with the scale is rounded once.
template <int kind> DEVICE void expand(const Half<kind> &h, int half, int s, unsigned (&pair)[2]) {
    const uint4 v = h.v[kind == KIND_F16 ? s / 2 : 0];
    if (kind == KIND_F16) {
        pair[0] = s % 2 ? v.z : v.x;
        pair[1] = s % 2 ? v.w : v.y;
        return;
    }
    const unsigned word = s == 0 ? v.x : s == 1 ? v.y : s == 2 ? v.z : v.w;
    const unsigned bytes = kind == KIND_Q8 ? word ^ 0x80808080u : word >> (half * 4) & 0x0f0f0f0fu;
    const unsigned offset = kind == KIND_Q8 ? 0xe480e480u : 0xe408e408u; // -1152 and -1032, twice
    pair[0] = multiply_f16x2(add_f16x2(pick_bytes(bytes, 0x64646464u, 0x4140), offset), h.scale);
    pair[1] = multiply_f16x2(add_f16x2(pick_bytes(bytes, 0x64646464u, 0x4342), offset), h.scale);
}

// What follows a product: mode 0  out[m, n] = act(y + bias[n]);  1  out[m, n] += y + bias[n];  2  out[m, n] = silu(y) * up
struct Ending {
    const float *scale; // (rows,), of x
    const float *bias;  // (outputs,) or null
    float *out;         // (rows, outputs)
    int rows, outputs, mode, act;
};

DEVICE void end(const Ending &e, int row, int n, float y, float up) {
    const float size = e.scale[row];
    float *to = e.out + (size_t)row * e.outputs + n;
    y *= size;
    if (e.mode == MODE_GATED) {
        *to = activate(ACT_SILU, y) * (up * size);
        return;
    }
    if (e.bias) y += e.bias[n];
    *to = e.mode == MODE_ADD ? *to + y : activate(e.act, y);
}

// The row of W behind row n of 32 that a warp brings, `first` being the warp's first output. In a gated product eight rows of the gate
// and eight of up take turns, so that a warp has both.
DEVICE int row_behind(const Weights &w, const Ending &e, int first, int n) {
    const int row = e.mode == MODE_GATED ? n / 8 % 2 * e.outputs + first + n / 16 * 8 + n % 8 : first + n;
    return min(row, w.rows - 1); // what a row too far answers is not stored
}
