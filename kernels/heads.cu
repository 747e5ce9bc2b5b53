// heads: keys and values of a tower, from the rows of a product to the layout that `attend` reads.
// heads_beside: the same of one batch, and behind its rows those that were kept, up to `all`.
//
//   qkv           (batch * rows, (n_heads + 2 n_kv) * head_dim) f32
//   keys, values  (batch, n_kv, rows, padded) f16; padded = head_dim rounded up, zeros behind
//   kept_*        (n_kv, all, padded) f16, and so are keys and values of heads_beside
//   launch        grid = (ceil(rows * padded / 128), 2 * n_kv, batch), of heads_beside (ceil(all * padded / 128), 2 * n_kv); block = 128
//
// Bound: memory. bytes = 12 * batch * rows * n_kv * head_dim; 8 * n_kv * head_dim more for each kept row.
#include "parts.cuh"

KERNEL(heads, 128)
(const float *qkv, f16 *keys, f16 *values, int rows, int n_heads, int n_kv, int head_dim, int padded) {
    const int i = blockIdx.x * 128 + threadIdx.x, row = i / padded, c = i % padded;
    if (row >= rows) return;
    const int head = blockIdx.y % n_kv;
    const size_t from = ((size_t)(blockIdx.z * rows + row) * (n_heads + 2 * n_kv) + n_heads + blockIdx.y) * head_dim + c;
    const size_t to = ((size_t)(blockIdx.z * n_kv + head) * rows + row) * padded + c;
    ((int)blockIdx.y < n_kv ? keys : values)[to] = to_f16(c < head_dim ? qkv[from] : 0.0f);
}
EXPORT(heads)

KERNEL(heads_beside, 128)
(const float *qkv, const f16 *kept_keys, const f16 *kept_values, f16 *keys, f16 *values, int rows, int all, int n_heads, int n_kv, int head_dim,
 int padded) {
    const int i = blockIdx.x * 128 + threadIdx.x, row = i / padded, c = i % padded;
    if (row >= all) return;
    const bool key = (int)blockIdx.y < n_kv;
    const size_t to = ((size_t)(blockIdx.y % n_kv) * all + row) * padded + c;
    const size_t from = ((size_t)row * (n_heads + 2 * n_kv) + n_heads + blockIdx.y) * head_dim + c;
    f16 value;
    if (row >= rows)
        value = (key ? kept_keys : kept_values)[to];
    else
        value = to_f16(c < head_dim ? qkv[from] : 0.0f);
    (key ? keys : values)[to] = value;
}
EXPORT(heads_beside)
