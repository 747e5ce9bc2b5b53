// attend_exact: out = softmax(q k^T scale) v in f32 throughout. For bundles that are packed as f32 to be compared, not to be fast.
//
//   qkv         (batch * rows, (n_heads + 2 n_kv) * head_dim) f32, q first; head h of n_heads uses key/value head h / group
//   key, value  f32; dimension c of key p of head g of run b stands at b * run_step + g * head_step + p * step + c: in `qkv` itself for
//               a tower, in the cache for the decoder
//   start       causal: row r sees keys 0 .. start + r + 1; `position` is added to start where it is not null. Negative: `rows` keys
//   out         (batch * rows, n_heads * head_dim) f32
//   launch      grid = (rows, n_heads, batch), block = 128: one query; a thread scores every 128th key, then sums every 128th dimension
//
// Every score is made three times: for the largest, for the sum of weights, and to be used.
//
// Bound: arithmetic. flops = 8 * queries * keys seen * head_dim; bytes = 16 * queries * keys seen * head_dim, from cache.
#include "parts.cuh"

KERNEL(attend_exact, 128)
(const float *qkv, const float *key, const float *value, float *out, int rows, int n_heads, int n_kv, int head_dim, int start,
 const int *position, long long run_step, int head_step, int step, float scale) {
    SHARED(float, q, 128);
    SHARED(float, weight, 128);
    SHARED(float, room, 4);
    const int row = blockIdx.x, head = blockIdx.y, thread = threadIdx.x;
    const size_t from = (size_t)blockIdx.z * rows + row;
    const size_t shift = (size_t)blockIdx.z * run_step + (size_t)(head / (n_heads / n_kv)) * head_step;
    if (position) start += *position;
    const int count = start < 0 ? rows : start + row + 1;
    key += shift;
    value += shift;
    if (thread < head_dim) q[thread] = qkv[from * (n_heads + 2 * n_kv) * head_dim + head * head_dim + thread];
    __syncthreads();
    auto score = [&](int p) {
        float sum = 0.0f;
        for (int c = 0; c < head_dim; ++c) sum = fmaf(q[c], key[(size_t)p * step + c], sum);
        return sum * scale;
    };
    float top = -INFINITY_F;
    // A score that is no number passes fmaxf unseen, and shows in the sum.
    for (int p = thread; p < count; p += 128) top = fmaxf(top, score(p));
    top = block_max(top, room);
    float sum = 0.0f;
    for (int p = thread; p < count; p += 128) sum += exp2f(score(p) - top);
    sum = block_sum(sum, room);
    float mixed = 0.0f;
    for (int at = 0; at < count; at += 128) {
        if (at + thread < count) weight[thread] = exp2f(score(at + thread) - top);
        __syncthreads();
        if (thread < head_dim)
            for (int p = at; p < min(at + 128, count); ++p) mixed = fmaf(weight[p - at], value[(size_t)p * step + thread], mixed);
        __syncthreads();
    }
    if (thread < head_dim) out[(from * n_heads + head) * head_dim + thread] = mixed / sum;
}
EXPORT(attend_exact)
