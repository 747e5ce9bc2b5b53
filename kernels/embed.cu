// embed: out[i, c] = W[ids[i], c]
//
//   ids     (rows,) u32, each below the rows of W
//   w       any kind of parts.cuh
//   out     (rows, cols) f32
//   launch  grid = (ceil(cols / 128), rows), block = 128
//
// Bound: memory. bytes = rows * (packed row + 4 * cols).
#include "parts.cuh"

KERNEL(embed, 128)
(const unsigned *ids, const Weights w, float *out) {
    const int c = blockIdx.x * 128 + threadIdx.x;
    if (c >= w.cols) return;
    const size_t row = ids[blockIdx.y], at = row * w.width + c;
    float value;
    if (w.kind == KIND_F32) value = ((const float *)w.values)[at];
    else if (w.kind == KIND_F16) value = from_f16(((const f16 *)w.values)[at]);
    else {
        const float scale = from_f16(w.kind == KIND_Q4S ? scale_of<KIND_Q4S>(w, at / 32) : scale_of<KIND_Q4>(w, at / 32));
        if (w.kind == KIND_Q8) value = scale * ((const i8 *)w.values)[at];
        else {
            const u8 both = ((const u8 *)w.values)[at / 32 * 16 + at % 16];
            value = scale * ((int)(at % 32 < 16 ? both & 15 : both >> 4) - 8);
        }
    }
    out[(size_t)blockIdx.y * w.cols + c] = value;
}
EXPORT(embed)
