//! Second-order filters over running sound.

use std::f64::consts::{PI, SQRT_2};

/// One biquad, direct form 1 in f64. `y = b0 x + b1 x1 + b2 x2 - a1 y1 - a2 y2`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    x: [f64; 2],
    y: [f64; 2],
}

impl Biquad {
    fn of(b: [f64; 3], a: [f64; 3]) -> Biquad {
        Biquad { b: b.map(|v| v / a[0]), a: [a[1] / a[0], a[2] / a[0]], ..Biquad::default() }
    }

    /// Butterworth low-pass (bilinear transform).
    pub fn low_pass(hz: f64, rate: f64) -> Biquad {
        let k = (PI * hz / rate).tan();
        Biquad::of(
            [k * k, 2.0 * k * k, k * k],
            [1.0 + SQRT_2 * k + k * k, 2.0 * (k * k - 1.0), 1.0 - SQRT_2 * k + k * k],
        )
    }

    /// A high-pass of quality `q`.
    pub fn high_pass(hz: f64, q: f64, rate: f64) -> Biquad {
        let k = (PI * hz / rate).tan();
        Biquad::of([1.0, -2.0, 1.0], [1.0 + k / q + k * k, 2.0 * (k * k - 1.0), 1.0 - k / q + k * k])
    }

    /// The head's shelf of ITU-R BS.1770-5 as an analogue design, so that it fits any rate.
    pub fn head_shelf(rate: f64) -> Biquad {
        let (hz, gain_db, q): (f64, f64, f64) =
            (1_681.974_450_955_533, 3.999_843_853_973_347, 0.707_175_236_955_419_6);
        let k = (PI * hz / rate).tan();
        let high = 10f64.powf(gain_db / 20.0);
        let band = high.powf(0.499_666_774_154_541_6);
        Biquad::of(
            [high + band * k / q + k * k, 2.0 * (k * k - high), high - band * k / q + k * k],
            [1.0 + k / q + k * k, 2.0 * (k * k - 1.0), 1.0 - k / q + k * k],
        )
    }

    pub fn next(&mut self, x: f32) -> f32 {
        let x = f64::from(x);
        let [x1, x2] = self.x;
        let [y1, y2] = self.y;
        let y = self.b[0] * x + self.b[1] * x1 + self.b[2] * x2 - self.a[0] * y1 - self.a[1] * y2;
        self.x = [x, x1];
        // A silence would leave denormals, which are slow.
        self.y = [if y.abs() < 1e-30 { 0.0 } else { y }, y1];
        y as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::FRAC_1_SQRT_2;

    fn gain_db(mut filter: Biquad, hz: f64, rate: f64) -> f64 {
        let (mut inside, mut outside) = (0.0f64, 0.0f64);
        for i in 0..rate as usize {
            let x = (2.0 * PI * hz * i as f64 / rate).sin() as f32;
            let y = filter.next(x);
            if i > rate as usize / 2 {
                inside += f64::from(x * x);
                outside += f64::from(y * y);
            }
        }
        10.0 * (outside / inside).log10()
    }

    #[test]
    fn filters_pass_what_they_are_for() {
        assert!((gain_db(Biquad::low_pass(1_000.0, 8_000.0), 1_000.0, 8_000.0) + 3.01).abs() < 0.05);
        assert!(gain_db(Biquad::low_pass(1_000.0, 8_000.0), 100.0, 8_000.0).abs() < 0.05);
        assert!(gain_db(Biquad::high_pass(1_000.0, FRAC_1_SQRT_2, 8_000.0), 100.0, 8_000.0) < -35.0);
    }

    /// The standard's own coefficients at 48 kHz (BS.1770-5, table 1).
    #[test]
    fn the_shelf_is_the_standards() {
        let shelf = Biquad::head_shelf(48_000.0);
        for (ours, theirs) in
            shelf.b.iter().zip([1.535_124_859_586_97, -2.691_696_189_406_38, 1.198_392_810_852_85])
        {
            assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
        }
        for (ours, theirs) in shelf.a.iter().zip([-1.690_659_293_182_41, 0.732_480_774_215_85]) {
            assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
        }
    }
}
