//! Memory for the values between operations, laid out once.
//!
//! Values that do not live at the same time share a buffer if their layout is the same: then the
//! border, which only this module writes, keeps its zero point.

use aligned_vec::{AVec, ConstAlign};

use crate::conv::{Kind, Values, ValuesMut};
use crate::plane::{Plane, TAIL};

/// Index of a buffer.
pub type Slot = usize;

/// A cache line, and the widest vector.
type Aligned<T> = AVec<T, ConstAlign<64>>;

/// Memory of one value, for some images.
#[derive(Debug)]
pub enum Buffer {
    /// Codes of at most 8 bits.
    U8(Aligned<u8>),
    /// Codes of 16 bits.
    U16(Aligned<u16>),
    /// Real values.
    F32(Aligned<f32>),
    /// Nothing: the buffer is being written to.
    Taken,
}

fn filled<T: Copy>(len: usize, value: T) -> Aligned<T> {
    let mut v = AVec::with_capacity(64, len);
    v.resize(len, value);
    v
}

/// Bytes of scratch memory.
pub fn bytes(len: usize) -> Aligned<u8> {
    filled(len, 0)
}

impl Buffer {
    /// Memory for `images` images, filled with the zero point.
    pub fn new(
        &Need {
            plane,
            kind,
            images,
        }: &Need,
    ) -> Self {
        let len = plane.len() * images + TAIL;
        match kind {
            Kind::U8 => Self::U8(filled(len, plane.fill as u8)),
            Kind::U16 => Self::U16(filled(len, plane.fill)),
            Kind::F32 => Self::F32(filled(len, 0.0)),
        }
    }

    /// Bytes that [`new`](Self::new) takes; in 64 bits, so that it is known on any machine whether
    /// they are too many.
    pub const fn size(need: &Need) -> u64 {
        let plane = &need.plane;
        let border = 2 * plane.border as u64;
        let pixels = (plane.height as u64 + border) * (plane.width as u64 + border);
        (pixels * plane.stride as u64 * need.images as u64 + TAIL as u64) * need.kind.bytes() as u64
    }

    /// The values of image `i` and everything behind them.
    pub fn image(&self, plane: &Plane, i: usize) -> Values<'_> {
        let from = plane.len() * i;
        match self {
            Self::U8(v) => Values::U8(&v[from..]),
            Self::U16(v) => Values::U16(&v[from..]),
            Self::F32(v) => Values::F32(&v[from..]),
            Self::Taken => panic!("a value is read while it is written"),
        }
    }

    /// The values of image `i` and everything behind them, to write.
    pub fn image_mut(&mut self, plane: &Plane, i: usize) -> ValuesMut<'_> {
        let from = plane.len() * i;
        match self {
            Self::U8(v) => ValuesMut::U8(&mut v[from..]),
            Self::U16(v) => ValuesMut::U16(&mut v[from..]),
            Self::F32(v) => ValuesMut::F32(&mut v[from..]),
            Self::Taken => panic!("a value is written twice at once"),
        }
    }
}

/// What a value needs of its buffer: values share one only if they need the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Layout.
    pub plane: Plane,
    /// How values are held.
    pub kind: Kind,
    /// Images that are held at once: 1, or a group.
    pub images: usize,
}

impl Need {
    /// What one image needs.
    pub const fn one(plane: Plane, kind: Kind) -> Self {
        Self {
            plane,
            kind,
            images: 1,
        }
    }

    /// Where image `i` of the group is: in its own place, or in the only one.
    pub const fn place(&self, i: usize) -> usize {
        if self.images == 1 { 0 } else { i }
    }
}

/// Which buffer each value takes.
#[derive(Debug, Default)]
pub struct Assignment {
    /// What every buffer is.
    pub buffers: Vec<Need>,
    /// Of every value, its buffer.
    pub slots: Vec<Slot>,
}

impl Assignment {
    /// Assigns buffers to values with these needs. `steps` lists, in order of execution, what
    /// each operation reads and what it writes.
    pub fn new(values: &[Need], steps: &[(Vec<usize>, usize)]) -> Self {
        let mut last_use = vec![0; values.len()];
        for (step, (inputs, out)) in steps.iter().enumerate() {
            for &v in inputs.iter().chain([out]) {
                last_use[v] = step;
            }
        }
        let mut assignment = Self {
            buffers: Vec::new(),
            slots: vec![0; values.len()],
        };
        let mut free: Vec<Slot> = Vec::new();
        for (step, (inputs, out)) in steps.iter().enumerate() {
            // The output must not overwrite an input that is still being read, so inputs are freed
            // after it has its buffer.
            let need = values[*out];
            let found = free.iter().rposition(|&s| assignment.buffers[s] == need);
            assignment.slots[*out] = match found {
                Some(at) => free.remove(at),
                None => {
                    assignment.buffers.push(need);
                    assignment.buffers.len() - 1
                }
            };
            let mut done: Vec<usize> = inputs.clone();
            done.sort_unstable();
            done.dedup();
            free.extend(
                (done.into_iter())
                    .filter(|&v| last_use[v] == step)
                    .map(|v| assignment.slots[v]),
            );
        }
        assignment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_format::graph::Shape;

    #[test]
    fn values_share_a_buffer_only_when_the_first_is_dead() {
        let plane = Plane::new(Shape::new(16, 4, 4), 1, 0);
        let other = Plane::new(Shape::new(16, 4, 4), 1, 7);
        let u8s = |plane| Need::one(plane, Kind::U8);
        let values = [u8s(plane), u8s(plane), u8s(plane), u8s(other), u8s(plane)];
        // 0 → 1; 1 and 0 → 2; 2 → 3; 3 → 4
        let steps = [
            (vec![], 0),
            (vec![0], 1),
            (vec![1, 0], 2),
            (vec![2], 3),
            (vec![3], 4),
        ];
        let a = Assignment::new(&values, &steps);
        let s = &a.slots;
        assert!(s[0] != s[1] && s[2] != s[0] && s[2] != s[1]);
        assert_ne!(s[3], s[2], "another zero point");
        assert!(s[..3].contains(&s[4]), "a dead buffer is used again");
        assert_eq!(a.buffers.len(), 4);
    }

    #[test]
    fn images_lie_one_plane_apart() {
        let plane = Plane::new(Shape::new(3, 2, 2), 1, 9);
        let mut b = Buffer::new(&Need {
            plane,
            kind: Kind::U8,
            images: 2,
        });
        if let ValuesMut::U8(v) = b.image_mut(&plane, 1) {
            v[0] = 1;
            assert_eq!(v.len(), plane.len() + TAIL);
        }
        let Values::U8(v) = b.image(&plane, 0) else {
            panic!()
        };
        assert_eq!((v[0], v[plane.len()]), (9, 1));
    }
}
