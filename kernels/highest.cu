// highest: the place of the highest value of a row, first of equals, each value under its penalty: 0 bars it, else values above zero
// are divided by it and others multiplied. NaN is barred. highest_parts finds one place for each of its blocks, highest_join the one.
//
//   values  (len,) f32
//   penalties (len + 1,) f32; what is found gets penalties[len] for its penalty
//   parts   (parts,) keys: the ordered bits of the value, then all ones less the place; 0 where there is none
//   out     (1,) f32: the place, len where every value is barred
//   launch  highest_parts: grid = parts, block = 256; highest_join: grid = 1, block = 256
//
// Bound: memory. bytes = 8 * len.
#include "parts.cuh"

typedef unsigned long long Key;

DEVICE Key key_of(float value, float penalty, int place) {
    if (penalty == 0.0f || !(value == value)) return 0;
    if (penalty != 1.0f) value = value > 0.0f ? value / penalty : value * penalty;
    const unsigned bits = (unsigned)__float_as_int(value + 0.0f);
    const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (Key)ordered << 32 | (0xffffffffu - (unsigned)place);
}

DEVICE Key higher(Key a, Key b) { return a > b ? a : b; }

// Thread 0 of the block gets the highest.
DEVICE Key block_highest(Key key, Key *room) {
#pragma unroll
    for (int step = 16; step; step /= 2) key = higher(key, __shfl_xor_sync(FULL, key, step));
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = key;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int w = 1; w < 8; ++w) key = higher(key, room[w]);
    return key;
}

KERNEL(highest_parts, 256)
(const float *values, const float *penalties, Key *parts, int len) {
    SHARED(Key, room, 8);
    Key key = 0;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < len; i += gridDim.x * 256) key = higher(key, key_of(values[i], penalties[i], i));
    key = block_highest(key, room);
    if (threadIdx.x == 0) parts[blockIdx.x] = key;
}
EXPORT(highest_parts)

KERNEL(highest_join, 256)
(const Key *parts, float *penalties, float *out, int count, int len) {
    SHARED(Key, room, 8);
    Key key = 0;
    for (int i = threadIdx.x; i < count; i += 256) key = higher(key, parts[i]);
    key = block_highest(key, room);
    if (threadIdx.x) return;
    const int place = key ? (int)(0xffffffffu - (unsigned)key) : len;
    if (key) penalties[place] = penalties[len];
    *out = (float)place;
}
EXPORT(highest_join)
