// picture: what the branches do with (frames, height, width, channels) f32.
//
//   depthwise  3x3, padding 1, w (9, channels) f32 with taps row-major, no bias
//   excite     x *= sigmoid(s), s (frames, channels)
//   halve      mean of each 2x2 square
//   pool_rows  mean over groups of `group` rows of (rows, cols), a remainder is dropped; with group = height * width the squeeze
//   launch     grid = ceil(values written / 256), block = 256; pool_rows: grid = (ceil(cols / 64), groups), block = 256, a thread takes
//              every fourth row of a column
//
// Bound: memory. bytes = 4 * (values read + values written); depthwise reads each value up to 9 times, from cache.
#include "parts.cuh"

KERNEL(depthwise, 256)
(const float *x, const float *w, float *out, int height, int width, int channels, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const int c = i % channels, column = i / channels % width, y = i / channels / width % height;
    float sum = 0.0f;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        const int dy = tap / 3 - 1, dx = tap % 3 - 1;
        if (y + dy < 0 || y + dy >= height || column + dx < 0 || column + dx >= width) continue;
        sum = fmaf(x[i + ((long long)dy * width + dx) * channels], w[tap * channels + c], sum);
    }
    out[i] = sum;
}
EXPORT(depthwise)

KERNEL(excite, 256)
(float *x, const float *s, int pixels, int channels, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    x[i] *= sigmoid(s[i / channels / pixels * channels + i % channels]);
}
EXPORT(excite)

KERNEL(halve, 256)
(const float *x, float *out, int height, int width, int channels, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const int c = i % channels, across = width / 2, down = height / 2;
    const long long pixel = i / channels;
    const int column = pixel % across * 2, y = pixel / across % down * 2;
    const float *from = x + ((pixel / across / down * height + y) * width + column) * channels + c;
    out[i] = 0.25f * (from[0] + from[channels] + from[(size_t)width * channels] + from[((size_t)width + 1) * channels]);
}
EXPORT(halve)

KERNEL(pool_rows, 256)
(const float *x, float *out, int cols, int group) {
    SHARED(float, room, 256);
    const int c = blockIdx.x * 64 + threadIdx.x % 64, turn = threadIdx.x / 64;
    const float *from = x + (size_t)blockIdx.y * group * cols;
    float sum = 0.0f;
    if (c < cols)
        for (int r = turn; r < group; r += 4) sum += from[(size_t)r * cols + c];
    room[threadIdx.x] = sum;
    __syncthreads();
    if (turn || c >= cols) return;
    sum = (room[threadIdx.x] + room[threadIdx.x + 64]) + (room[threadIdx.x + 128] + room[threadIdx.x + 192]);
    out[(size_t)blockIdx.y * cols + c] = sum / group;
}
EXPORT(pool_rows)
