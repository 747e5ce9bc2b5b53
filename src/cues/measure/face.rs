//! What is measured of a face: points of a face mesh to a few distances in the head's own frame.
//!
//! Shapes: a mesh is 468 points `(x, y, z)` in pixels, numbered as MediaPipe's face mesh.
//! Units: distances in parts of the distance between the eyes' centres; angles in radians.

/// Points of a mesh.
pub const POINTS: usize = 468;

/// Distances of one look at a face.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Look {
    /// Corner to corner of the mouth.
    pub mouth_wide: f32,
    /// The mouth's corners above the line between the eyes; negative, for they lie below it.
    pub corners_up: f32,
    pub lips_open: f32,
    /// Nose to chin.
    pub jaw: f32,
    /// Between the inner ends of the brows.
    pub brow_gap: f32,
    /// The outer brow above the eyes.
    pub brow_up: f32,
    /// The inner ends of the brows above their outer ends.
    pub brow_tilt: f32,
    /// Bridge to base of the nose.
    pub nose_long: f32,
    /// Lid to lid.
    pub eyes_open: f32,
    /// Turned to its left, up, and leaned to its left.
    pub yaw: f32,
    pub pitch: f32,
    pub roll: f32,
    /// Pixels between the eyes' centres.
    pub eyes_px: f32,
}

type Point = [f32; 3];

/// Measures a mesh; `None` where it is no face (a point that is no number, or eyes on one spot).
pub fn look(mesh: &[Point]) -> Option<Look> {
    assert_eq!(mesh.len(), POINTS, "a mesh has its own number of points");
    if mesh.iter().flatten().any(|v| !v.is_finite()) {
        return None;
    }
    let mean = |a: usize, b: usize| scale(add(mesh[a], mesh[b]), 0.5);
    let (right, left) = (mean(33, 133), mean(263, 362));
    let across = sub(left, right);
    let eyes_px = length(across);
    let down = sub(mean(2, 94), mesh[168]);
    let out = cross(across, down);
    if eyes_px < 1.0 || length(out) < 1.0 {
        return None;
    }
    let x = scale(across, 1.0 / eyes_px);
    let z = scale(out, 1.0 / length(out));
    let y = cross(z, x);
    let middle = scale(add(left, right), 0.5);
    let own = |i: usize| {
        let p = scale(sub(mesh[i], middle), 1.0 / eyes_px);
        [dot(p, x), dot(p, y), dot(p, z)]
    };
    let far = |a: usize, b: usize| length(sub(own(a), own(b)));
    let height = |a: usize, b: usize| 0.5 * (own(a)[1] + own(b)[1]);
    Some(Look {
        mouth_wide: far(61, 291),
        corners_up: -height(61, 291),
        lips_open: far(13, 14),
        jaw: far(2, 152),
        brow_gap: own(285)[0] - own(55)[0],
        brow_up: -height(70, 300),
        brow_tilt: height(70, 300) - height(55, 285),
        nose_long: far(168, 2),
        eyes_open: 0.5 * (far(159, 145) + far(386, 374)),
        yaw: z[0].atan2(z[2].abs()),
        pitch: -z[1].atan2(z[2].abs()),
        roll: x[1].atan2(x[0]),
        eyes_px,
    })
}

fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn scale(a: Point, by: f32) -> Point {
    a.map(|v| v * by)
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn length(a: Point) -> f32 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flat face of 100 pixels between the eyes, turned about an axis.
    fn mesh(turn: impl Fn(Point) -> Point, mouth: f32) -> Vec<Point> {
        let mut points = vec![[0.0; 3]; POINTS];
        for (at, p) in [
            (33, [-70.0, 0.0, 0.0]),
            (133, [-30.0, 0.0, 0.0]),
            (362, [30.0, 0.0, 0.0]),
            (263, [70.0, 0.0, 0.0]),
            (168, [0.0, -10.0, -5.0]),
            (2, [0.0, 60.0, -5.0]),
            (94, [0.0, 62.0, -5.0]),
            (152, [0.0, 150.0, 0.0]),
            (61, [-mouth / 2.0, 95.0, 0.0]),
            (291, [mouth / 2.0, 95.0, 0.0]),
            (13, [0.0, 92.0, 0.0]),
            (14, [0.0, 98.0, 0.0]),
        ] {
            points[at] = p;
        }
        points.into_iter().map(|p| add(turn(p), [320.0, 240.0, 0.0])).collect()
    }

    #[test]
    fn distances_do_not_turn_with_the_head() {
        let front = look(&mesh(|p| p, 60.0)).unwrap();
        assert!((front.mouth_wide - 0.6).abs() < 1e-5 && (front.corners_up + 0.95).abs() < 1e-5);
        assert!((front.lips_open - 0.06).abs() < 1e-5 && (front.eyes_px - 100.0).abs() < 1e-3);
        assert!(front.yaw.abs() < 1e-5 && front.roll.abs() < 1e-5, "{front:?}");
        let (s, c) = 0.4f32.sin_cos();
        let yawed = look(&mesh(|[x, y, z]| [x * c + z * s, y, z * c - x * s], 60.0)).unwrap();
        let rolled = look(&mesh(|[x, y, z]| [x * c - y * s, x * s + y * c, z], 60.0)).unwrap();
        for turned in [yawed, rolled] {
            assert!((turned.mouth_wide - 0.6).abs() < 1e-5 && (turned.lips_open - 0.06).abs() < 1e-5);
        }
        assert!((yawed.yaw.abs() - 0.4).abs() < 1e-4, "{}", yawed.yaw);
        assert!((rolled.roll - 0.4).abs() < 1e-4, "{}", rolled.roll);
    }

    #[test]
    fn what_is_no_face_is_not_measured() {
        assert_eq!(look(&vec![[0.0; 3]; POINTS]), None);
        let mut points = mesh(|p| p, 60.0);
        points[7][1] = f32::NAN;
        assert_eq!(look(&points), None);
    }
}
