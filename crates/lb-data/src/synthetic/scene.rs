//! One image before noise: a textured shape on a textured ground, with clutter and a bar over it.

use super::SyntheticConfig;
use super::shape::{self, Point, Shape};
use crate::CHANNELS;
use crate::random::Stream;

pub(super) type Color = [f32; CHANNELS];

/// Everything that is drawn at random for one image.
pub(super) struct Scene {
    background: Texture,
    shape: Shape,
    /// Where the shape is, how it is turned and how large it is.
    frame: Frame,
    fill: Texture,
    /// Blobs and strokes on top: an end, the other end, half the width, colour.
    strokes: Vec<(Point, Point, f32, Color)>,
}

impl Scene {
    pub(super) fn new(config: &SyntheticConfig, class: usize, random: &mut Stream) -> Self {
        let (shape, striped) = Shape::of_class(class);
        let radius = random.range(7.5, 12.5);
        let room = 15.0 - radius * 0.8;
        let centre = Point {
            x: 16.0 + random.range(-room, room),
            y: 16.0 + random.range(-room, room),
        };
        let (cos, sin) = tilt(random);
        let frame = Frame {
            centre,
            cos,
            sin,
            radius,
        };

        let base: Color = std::array::from_fn(|_| random.range(60.0, 195.0));
        let distance = random.range(config.contrast[0], config.contrast[1]);
        let step = direction(random).map(|d| d * distance * 0.5 * (CHANNELS as f32).sqrt());
        let behind: Color = std::array::from_fn(|c| base[c] + step[c]);
        let front: Color = std::array::from_fn(|c| base[c] - step[c]);

        let background = Texture::plain(behind, distance * 0.5, random);
        let fill = match striped {
            None => Texture::plain(front, distance * 0.5, random),
            Some(diagonal) => {
                // Along the frame's own axes, or between them.
                let half = 0.5f32.sqrt();
                let (c, s) = if diagonal {
                    (half * (cos - sin), half * (cos + sin))
                } else {
                    (cos, sin)
                };
                Texture::stripes(front, distance * random.range(0.55, 0.8), (c, s), random)
            }
        };

        let mut strokes = Vec::new();
        let n = random.below(config.clutter + 1);
        for _ in 0..n {
            let a = Point {
                x: random.range(0.0, 32.0),
                y: random.range(0.0, 32.0),
            };
            let length = random.range(0.0, 9.0);
            let (dx, dy) = rotation(random);
            let b = Point {
                x: a.x + dx * length,
                y: a.y + dy * length,
            };
            strokes.push((a, b, random.range(0.6, 1.7), near(base, distance, random)));
        }
        if random.chance(config.occlusion) {
            // A bar across the whole image that hides up to a third of the shape.
            let (dx, dy) = rotation(random);
            let off = random.range(-0.9, 0.9) * radius;
            let a = Point {
                x: centre.x - dy * off + dx * 50.0,
                y: centre.y + dx * off + dy * 50.0,
            };
            let b = Point {
                x: a.x - dx * 100.0,
                y: a.y - dy * 100.0,
            };
            let width = random.range(0.1, 0.3) * radius;
            strokes.push((a, b, width, near(base, distance, random)));
        }
        Self {
            background,
            shape,
            frame,
            fill,
            strokes,
        }
    }

    /// The colour at a pixel centre, before noise; edges are blended over one pixel.
    pub(super) fn color(&self, at: Point) -> Color {
        let mut color = self.background.color(at);
        let local = self.frame.local(at);
        let cover = coverage(self.shape.distance(local) * self.frame.radius);
        if cover > 0.0 {
            mix(&mut color, self.fill.color(at), cover);
        }
        for &(a, b, width, stroke) in &self.strokes {
            let cover = coverage(shape::segment(at, a, b) - width);
            if cover > 0.0 {
                mix(&mut color, stroke, cover);
            }
        }
        color
    }
}

/// Place, rotation and size of the shape.
struct Frame {
    centre: Point,
    cos: f32,
    sin: f32,
    radius: f32,
}

impl Frame {
    fn local(&self, at: Point) -> Point {
        let (x, y) = (at.x - self.centre.x, at.y - self.centre.y);
        Point {
            x: (self.cos * x + self.sin * y) / self.radius,
            y: (self.cos * y - self.sin * x) / self.radius,
        }
    }
}

/// A colour that varies over the image: `color + swing · wave(position)`.
struct Texture {
    color: Color,
    swing: Color,
    /// Direction of the wave, one over its period, and its phase.
    wave: (f32, f32, f32, f32),
    sharp: f32,
}

impl Texture {
    /// A soft gradient, or faint stripes of any direction: texture alone tells nothing.
    fn plain(color: Color, strength: f32, random: &mut Stream) -> Self {
        let (x, y) = rotation(random);
        let faint = random.chance(0.3);
        let (period, amount, sharp) = if faint {
            (random.range(3.5, 7.0), random.range(0.2, 0.45), 3.0)
        } else {
            (random.range(40.0, 90.0), random.range(0.2, 0.8), 1.0)
        };
        Self {
            color,
            swing: direction(random).map(|d| d * strength * amount * (CHANNELS as f32).sqrt()),
            wave: (x, y, 1.0 / period, random.unit()),
            sharp,
        }
    }

    /// Clear stripes that run along `(cos, sin)`.
    fn stripes(color: Color, strength: f32, (cos, sin): (f32, f32), random: &mut Stream) -> Self {
        Self {
            color,
            swing: direction(random).map(|d| d * strength * (CHANNELS as f32).sqrt()),
            wave: (-sin, cos, 1.0 / random.range(3.5, 5.5), random.unit()),
            sharp: 3.0,
        }
    }

    fn color(&self, at: Point) -> Color {
        let (x, y, frequency, phase) = self.wave;
        let t = (at.x * x + at.y * y) * frequency + phase;
        let t = t - t.floor();
        // A triangle wave in −1..1, steepened and cut to give bands.
        let wave = ((4.0 * (t - 0.5).abs() - 1.0) * self.sharp).clamp(-1.0, 1.0);
        std::array::from_fn(|c| self.color[c] + self.swing[c] * wave)
    }
}

/// A colour at a distance from `base` like that of the shape.
fn near(base: Color, distance: f32, random: &mut Stream) -> Color {
    let away = random.range(0.3, 1.0) * distance * (CHANNELS as f32).sqrt();
    let d = direction(random);
    std::array::from_fn(|c| base[c] + d[c] * away)
}

fn mix(color: &mut Color, over: Color, cover: f32) {
    for (c, o) in color.iter_mut().zip(over) {
        *c += (o - *c) * cover;
    }
}

/// How much of a pixel an edge at this signed distance (in pixels) covers.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// Cosine and sine of a uniform angle: a point of the disc, pushed to its rim.
fn rotation(random: &mut Stream) -> (f32, f32) {
    loop {
        let (x, y) = (random.range(-1.0, 1.0), random.range(-1.0, 1.0));
        let square = x * x + y * y;
        if square > 0.01 && square <= 1.0 {
            let length = square.sqrt();
            return (x / length, y / length);
        }
    }
}

/// Cosine and sine of an angle between −33° and 33°: `t = tan(angle / 2)`, rationally.
fn tilt(random: &mut Stream) -> (f32, f32) {
    let t = random.range(-0.3, 0.3);
    let square = t * t;
    ((1.0 - square) / (1.0 + square), 2.0 * t / (1.0 + square))
}

/// A uniform direction in colour space, of length 1.
fn direction(random: &mut Stream) -> Color {
    loop {
        let d: Color = std::array::from_fn(|_| random.range(-1.0, 1.0));
        let square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
        if square > 0.01 && square <= 1.0 {
            let length = square.sqrt();
            return d.map(|x| x / length);
        }
    }
}
