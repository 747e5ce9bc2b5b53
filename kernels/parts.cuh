// parts: what several kernels are made of: activations, sums over a warp and a block, one value of a packed weight.
#pragma once
#include "ptx.cuh"

// As the order of backend::Act.
enum { ACT_NONE, ACT_GELU, ACT_GELU_TANH, ACT_SILU };

// What follows a product: its activation, a sum onto what is there, or the gate of a gated product.
enum { MODE_STORE, MODE_ADD, MODE_GATED };

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

DEVICE float activate(int act, float x) {
    if (act == ACT_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (act == ACT_GELU_TANH) return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    if (act == ACT_SILU) return x * sigmoid(x);
    return x;
}

// Sine and cosine to 1e-7 of an angle from 0 to 32768 (POSITIONS_MAX of ops.rs): what is left of it by multiples of pi / 2, taken off in
// three parts (Cody and Waite, Software Manual for the Elementary Functions), through the polynomials of Cephes (sinf.c).
DEVICE void sine_cosine(float angle, float &sine, float &cosine) {
    const float turns = rintf(angle * 0.636619747f);
    float r = fmaf(turns, -1.57079601e+0f, angle);
    r = fmaf(turns, -3.13916473e-7f, r);
    r = fmaf(turns, -5.39030253e-15f, r);
    const float r2 = r * r;
    const float s = fmaf(fmaf(fmaf(r2, -1.9515295891e-4f, 8.3321608736e-3f), r2, -1.6666654611e-1f) * r2, r, r);
    const float c = fmaf(fmaf(fmaf(fmaf(r2, 2.443315711809948e-5f, -1.388731625493765e-3f), r2, 4.166664568298827e-2f), r2, -0.5f), r2, 1.0f);
    const int quarter = (int)turns;
    sine = quarter & 1 ? c : s;
    cosine = quarter & 1 ? s : c;
    if (quarter & 2) sine = -sine;
    if ((quarter + 1) & 2) cosine = -cosine;
}

// Every lane gets the sum over its warp.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(FULL, x, step);
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(FULL, x, step));
    return x;
}

// Every thread of the block gets the sum; `room` holds one float per warp and is free again when this returns.
DEVICE float block_sum(float x, float *room) {
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) room[warp] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < warps; ++w) sum += room[w];
    __syncthreads();
    return sum;
}

DEVICE float block_max(float x, float *room) {
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) room[warp] = x;
    __syncthreads();
    float top = room[0];
    for (int w = 1; w < warps; ++w) top = fmaxf(top, room[w]);
    __syncthreads();
    return top;
}

// NaN where any of the values added up as `x * 0` was not finite, else 0.
DEVICE float taint(float x) { return x * 0.0f; }

// One over a root, NaN for infinity, by which a norm would divide its row to zeros.
DEVICE float inverse_root(float power) { return 1.0f / sqrtf(power) + taint(power); }

// One warp's group of 32 values as int8 at q[i] (i = 32 g + lane) and their scale at s[g]. The scale is NaN where a value is not finite.
DEVICE void quantise_group(float value, i8 *q, float *s, int i) {
    // By their bits, what is not finite stands above every number.
    const float largest = __int_as_float(warp_highest(__float_as_int(fabsf(value))));
    const float scale = largest < INFINITY_F ? largest / 127.0f : NAN_F;
    // A group of zeros has scale 0 and quants 0.
    q[i] = (i8)(scale > 0.0f && scale < INFINITY_F ? __float2int_rn(value / scale) : 0);
    if (i % 32 == 0) s[i / 32] = scale;
}

// How a matrix lies in device memory, as backend::cuda::matrix packs it: `width` is cols rounded up to 32, the rest zeros.
//   F32   f32 (rows, width)
//   F16   f16 (rows, width)
//   Q8    i8 (rows, width), scales f16 (rows, width / 32)
//   Q4    16 bytes per 32 values, low nibbles first, value = scale * (nibble - 8); scales as Q8
//   Q4S   Q4 with short scales, u8 (rows, width / 32): a half without the highest bit of its exponent and the last seven of its fraction
enum { KIND_F32, KIND_F16, KIND_Q8, KIND_Q4, KIND_Q4S };

struct Weights {
    const void *values, *scales;
    int rows, cols, width, kind;
};

// The scale of a block as the bits of a half.
template <int kind> DEVICE f16 scale_of(const Weights &w, size_t block) {
    // The sign is extended over the bits above the exponent, of which the lowest is not its own.
    if (kind == KIND_Q4S) return (f16)(((const i8 *)w.scales)[block] * 128 & 0xbfff);
    return ((const f16 *)w.scales)[block];
}

// Memory that a later kernel reads: it is asked for when a kernel has asked for its own, so that DRAM has work while nothing runs.
struct Ahead {
    const u8 *at; // or null
    int bytes;
};

// Lines of 128 bytes, a thread each as far as there are threads.
DEVICE void bring_ahead(const Ahead &ahead) {
    const size_t from = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 128;
    if (ahead.at && from < (size_t)ahead.bytes) prefetch(ahead.at + from);
}
