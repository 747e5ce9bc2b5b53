// unfold: pictures and rows, laid out so that a convolution is a product. One thread per value written.
//
//   unfold_patches  (frames, 3, height, width) f32 to rows of 3 * patch * patch (channel, y, x), patches row-major
//   unfold_rows     out[r] = x[r * stride - 1] | x[r * stride] | x[r * stride + 1], zeros outside; (rows, cols) to (ceil(rows / stride), 3 * cols)
//   unfold_time     2x2x2, stride (1, 2, 2), one step of past: (frames, height, width, channels) to rows of 8 * channels (time, y, x, channel)
//   launch          grid = ceil(values written / 256), block = 256
//
// Bound: memory. bytes = 4 * (values read + values written); unfold_rows reads each value up to 3 times, unfold_time twice, from cache.
#include "parts.cuh"

KERNEL(unfold_patches, 256)
(const float *x, float *out, int height, int width, int patch, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const int across = width / patch, down = height / patch, inside = 3 * patch * patch;
    const int c = i % inside;
    const long long row = i / inside;
    const int px = row % across, py = row / across % down, frame = row / across / down;
    const int channel = c / (patch * patch), y = py * patch + c / patch % patch, column = px * patch + c % patch;
    out[i] = x[((long long)(frame * 3 + channel) * height + y) * width + column];
}
EXPORT(unfold_patches)

KERNEL(unfold_rows, 256)
(const float *x, float *out, int rows, int cols, int stride, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const long long from = i / (3 * cols) * stride + i / cols % 3 - 1;
    out[i] = from >= 0 && from < rows ? x[from * cols + i % cols] : 0.0f;
}
EXPORT(unfold_rows)

KERNEL(unfold_time, 256)
(const float *x, float *out, int height, int width, int channels, long long count) {
    const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    const int c = i % channels, tap = i / channels % 8, across = width / 2, down = height / 2;
    const long long row = i / channels / 8;
    const int y = row / across % down * 2 + tap / 2 % 2, column = row % across * 2 + tap % 2;
    const long long frame = row / across / down - (tap < 4 ? 1 : 0);
    out[i] = frame < 0 ? 0.0f : x[((frame * height + y) * width + column) * channels + c];
}
EXPORT(unfold_time)
