//! A person's own usual value of something: the running median of what was measured before.

/// Values that are remembered: two minutes of phrases, or of looks at a face once in a second.
const KEPT: usize = 120;

/// A running median with a warm-up.
#[derive(Clone, Debug)]
pub struct Own {
    values: [f32; KEPT],
    /// How many came in all.
    count: usize,
}

impl Default for Own {
    fn default() -> Self {
        Own { values: [0.0; KEPT], count: 0 }
    }
}

impl Own {
    pub fn push(&mut self, value: f32) {
        if value.is_finite() {
            self.values[self.count % KEPT] = value;
            self.count += 1;
        }
    }

    /// The median; `None` before `warm` values came.
    pub fn usual(&self, warm: usize) -> Option<f32> {
        let known = self.count.min(KEPT);
        if known < warm.max(1) {
            return None;
        }
        let mut sorted = self.values;
        let sorted = &mut sorted[..known];
        sorted.sort_unstable_by(f32::total_cmp);
        Some(sorted[known / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_is_the_median_of_the_newest() {
        let mut own = Own::default();
        own.push(f32::NAN);
        assert_eq!(own.usual(1), None);
        [1.0, 9.0, 2.0].into_iter().for_each(|v| own.push(v));
        assert_eq!((own.usual(3), own.usual(4)), (Some(2.0), None));
        (0..KEPT).for_each(|_| own.push(5.0));
        assert_eq!(own.usual(3), Some(5.0), "what is older than the memory is forgotten");
    }
}
