//! The shapes, each a function that is negative inside and grows by about one a unit outwards.

/// A point of the image, in pixels, or of a shape, in its radius.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) x: f32,
    pub(super) y: f32,
}

/// An outline within the unit disc.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Disc,
    Ring,
    Crescent,
    Square,
    Frame,
    Triangle,
    Cross,
    Star,
}

impl Shape {
    /// Outline of a class, and, when it is striped, whether the stripes run along the diagonal.
    pub(super) fn of_class(class: usize) -> (Self, Option<bool>) {
        match class {
            0 => (Self::Disc, None),
            1 => (Self::Ring, None),
            2 => (Self::Crescent, None),
            3 => (Self::Square, None),
            4 => (Self::Frame, None),
            5 => (Self::Square, Some(false)),
            6 => (Self::Square, Some(true)),
            7 => (Self::Triangle, None),
            8 => (Self::Cross, None),
            _ => (Self::Star, None),
        }
    }

    /// Signed distance, in radii; exact where it matters, at the edge.
    pub(super) fn distance(self, p: Point) -> f32 {
        let Point { x, y } = p;
        let r = (x * x + y * y).sqrt();
        match self {
            Self::Disc => r - 0.9,
            Self::Ring => (r - 0.66).abs() - 0.24,
            Self::Crescent => {
                let (dx, dy) = (x - 0.45, y);
                (r - 0.95).max(0.78 - (dx * dx + dy * dy).sqrt())
            }
            Self::Square => rectangle(p, 0.8, 0.8),
            Self::Frame => rectangle(p, 0.8, 0.8).max(-rectangle(p, 0.4, 0.4)),
            // Three half planes at 120°; (√3/2, 1/2).
            Self::Triangle => (0.866_025_4 * x.abs() - 0.5 * y).max(y) - 0.5,
            Self::Cross => rectangle(p, 0.95, 0.3).min(rectangle(p, 0.3, 0.95)),
            Self::Star => star(p),
        }
    }
}

fn rectangle(p: Point, half_width: f32, half_height: f32) -> f32 {
    (p.x.abs() - half_width).max(p.y.abs() - half_height)
}

/// A pentagram: the points inside at least four of the five lines through its tips.
fn star(p: Point) -> f32 {
    // Cosine and sine of 90°, 162°, 234°, 306° and 18°.
    const NORMALS: [(f32, f32); 5] = [
        (0.0, 1.0),
        (-0.951_056_5, 0.309_017),
        (-0.587_785_25, -0.809_017),
        (0.587_785_25, -0.809_017),
        (0.951_056_5, 0.309_017),
    ];
    let (mut first, mut second) = (f32::MIN, f32::MIN);
    for (nx, ny) in NORMALS {
        let d = nx * p.x + ny * p.y;
        second = second.max(d.min(first));
        first = first.max(d);
    }
    // The tips end at the unit disc; a wider body than a true pentagram reads better in 32 pixels.
    (second - 0.36).max((p.x * p.x + p.y * p.y).sqrt() - 1.05)
}

/// Distance of `p` from the segment `a`–`b`.
pub(super) fn segment(p: Point, a: Point, b: Point) -> f32 {
    let (px, py) = (p.x - a.x, p.y - a.y);
    let (bx, by) = (b.x - a.x, b.y - a.y);
    let square = bx * bx + by * by;
    let t = if square > 0.0 {
        ((px * bx + py * by) / square).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let (dx, dy) = (px - t * bx, py - t * by);
    (dx * dx + dy * dy).sqrt()
}
