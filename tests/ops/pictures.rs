//! Pictures and time: unfolded, convolved, squeezed, halved.

use super::*;

#[test]
fn unfolds_move_values() {
    on_every_device!(|b, bound| {
        // Patches: channel, y, x inside; row-major outside.
        let grid = Grid { frames: 2, height: 6, width: 9, channels: 3 };
        let pixels: Vec<f32> = (0..grid.rows() * 3).map(|v| v as f32 + 1.0).collect();
        let x = b.vector(&pixels).unwrap();
        let mut out = b.alloc(grid.rows() * 3).unwrap();
        b.unfold_patches(&x, grid, 3, &mut out);
        for (i, got) in read(&mut b, &out, grid.rows() * 3).into_iter().enumerate() {
            let (row, c, y, x) = (i / 27, i / 9 % 3, i / 3 % 3, i % 3);
            let (f, py, px) = (row / 6, row / 3 % 2, row % 3);
            let want = pixels[((f * 3 + c) * 6 + py * 3 + y) * 9 + px * 3 + x];
            assert_eq!(got, want, "unfold_patches on {}: value {i}", bound.name);
        }

        for (rows, cols, stride) in [(5usize, 3, 1), (5, 3, 2), (6, 2, 2), (1, 4, 2)] {
            let values: Vec<f32> = (0..rows * cols).map(|v| v as f32 + 1.0).collect();
            let x = b.vector(&values).unwrap();
            let after = rows.div_ceil(stride);
            let mut out = b.alloc(after * 3 * cols).unwrap();
            b.unfold_rows(&x, rows, cols, stride, &mut out);
            for (i, got) in read(&mut b, &out, after * 3 * cols).into_iter().enumerate() {
                let (r, tap, c) = (i / cols / 3, i / cols % 3, i % cols);
                let from = (r * stride + tap) as isize - 1;
                let inside = from >= 0 && (from as usize) < rows;
                let want = if inside { values[from as usize * cols + c] } else { 0.0 };
                assert_eq!(got, want, "unfold_rows {rows}x{cols}/{stride} on {}", bound.name);
            }
        }

        let grid = Grid { frames: 3, height: 4, width: 6, channels: 5 };
        let values: Vec<f32> = (0..grid.rows() * 5).map(|v| v as f32 + 1.0).collect();
        let x = b.vector(&values).unwrap();
        let mut out = b.alloc(3 * 2 * 3 * 8 * 5).unwrap();
        b.unfold_time(&x, grid, &mut out);
        for (i, got) in read(&mut b, &out, 3 * 2 * 3 * 8 * 5).into_iter().enumerate() {
            let (c, tap, row) = (i % 5, i / 5 % 8, i / 40);
            let (t, y, x) = (row / 6, row / 3 % 2, row % 3);
            let (dt, dy, dx) = (tap / 4, tap / 2 % 2, tap % 2);
            let want = match (t + dt).checked_sub(1) {
                Some(t) => values[((t * 4 + y * 2 + dy) * 6 + x * 2 + dx) * 5 + c],
                None => 0.0,
            };
            assert_eq!(got, want, "unfold_time on {}: value {i}", bound.name);
        }
    });
}

#[test]
fn pictures() {
    on_every_device!(|b, bound| {
        for (frames, height, width, channels) in [(2, 4, 6, 37), (1, 2, 2, 16), (3, 14, 14, 40)] {
            let grid = Grid { frames, height, width, channels };
            let n = grid.rows() * channels;
            let mut noise = Noise(71);
            let (x, w, s) = (noise.values(n), noise.values(9 * channels), noise.values(frames * channels));
            let (xb, wb, sb) = (b.vector(&x).unwrap(), b.vector(&w).unwrap(), b.vector(&s).unwrap());
            let at = |f: usize, y: usize, px: usize, c: usize| {
                f64::from(x[((f * height + y) * width + px) * channels + c])
            };

            let mut out = b.alloc(n).unwrap();
            b.depthwise(&xb, grid, &wb, &mut out);
            let got = read(&mut b, &out, n);
            let want = (0..n).map(|i| {
                let (c, pixel) = (i % channels, i / channels);
                let (px, y, f) = (pixel % width, pixel / width % height, pixel / width / height);
                let (mut sum, mut magnitude) = (0.0, 0.0);
                for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                    let (sy, sx) = ((y + dy).checked_sub(1), (px + dx).checked_sub(1));
                    let (Some(sy), Some(sx)) = (sy.filter(|v| *v < height), sx.filter(|v| *v < width)) else {
                        continue;
                    };
                    let term = at(f, sy, sx, c) * f64::from(w[(dy * 3 + dx) * channels + c]);
                    (sum, magnitude) = (sum + term, magnitude + term.abs());
                }
                (sum, 1e-6 * magnitude)
            });
            agree("depthwise", &bound, &got, want);

            let mut means = b.alloc(frames * channels).unwrap();
            b.squeeze(&xb, grid, &mut means);
            let got = read(&mut b, &means, frames * channels);
            let want = (0..frames * channels).map(|i| {
                let (f, c) = (i / channels, i % channels);
                let all: Vec<f64> = (0..height * width).map(|p| at(f, p / width, p % width, c)).collect();
                let magnitude: f64 = all.iter().map(|v| v.abs()).sum();
                (all.iter().sum::<f64>() / all.len() as f64, bound.sum * magnitude)
            });
            agree("squeeze", &bound, &got, want);

            let mut gated = b.vector(&x).unwrap();
            b.excite(&mut gated, grid, &sb);
            let got = read(&mut b, &gated, n);
            let want = x.iter().enumerate().map(|(i, v)| {
                let s = f64::from(s[i / (height * width * channels) * channels + i % channels]);
                let y = f64::from(*v) / (1.0 + (-s).exp());
                (y, 1e-6 * y.abs() + 1e-30)
            });
            agree("excite", &bound, &got, want);

            let mut half = b.alloc(n / 4).unwrap();
            b.halve(&xb, grid, &mut half);
            let got = read(&mut b, &half, n / 4);
            let want = (0..n / 4).map(|i| {
                let (c, pixel) = (i % channels, i / channels);
                let (across, down) = (width / 2, height / 2);
                let (px, y, f) = (pixel % across, pixel / across % down, pixel / across / down);
                let four: Vec<f64> = (0..4).map(|k| at(f, y * 2 + k / 2, px * 2 + k % 2, c)).collect();
                (four.iter().sum::<f64>() / 4.0, 1e-6 * four.iter().map(|v| v.abs()).sum::<f64>())
            });
            agree("halve", &bound, &got, want);
        }
    });
}
