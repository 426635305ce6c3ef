//! Weights as integers: what every format's blocks are unpacked into before they meet activations.

use crate::block::Format;

/// Columns in a slab: a super-block, or as many small blocks.
pub(crate) const SLAB: usize = 256;

/// Columns that share one entry of [`Slab::scales`] and the like, at the finest.
pub(crate) const GROUPS: usize = SLAB / 16;

/// 256 columns of one row.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Slab {
    /// Codes in order; the weight is `code - Facts::offset`. Signed formats store two's complement.
    pub(crate) codes: [u8; SLAB],
    /// Super-block formats: integer scale of each 16 columns.
    pub(crate) scales: [i16; GROUPS],
    /// Super-block formats with minima: integer minimum of each 16 columns.
    pub(crate) mins: [i16; GROUPS],
    /// Super-block formats: the scale of the scales comes first. Others: the scale of each group.
    pub(crate) d: [f32; GROUPS],
    /// Super-block formats: what the minima are multiplied by, sign turned, comes first. Others: what is added to each
    /// weight of a group.
    pub(crate) m: [f32; GROUPS],
}

impl Slab {
    /// All weights zero.
    pub(crate) const ZERO: Self =
        Self { codes: [0; SLAB], scales: [0; GROUPS], mins: [0; GROUPS], d: [0.0; GROUPS], m: [0.0; GROUPS] };

    /// The weights, exactly as the format's reference decodes them: powers of two aside, both multiply the same numbers in
    /// the same order.
    #[inline(always)]
    pub(crate) fn decode(&self, facts: &Facts, to: &mut [f32; SLAB]) {
        for (j, to) in to.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (scale, min) = match facts.scaling {
                Scaling::Super => (self.d[0] * f32::from(self.scales[j]), self.m[0] * f32::from(self.mins[j])),
                Scaling::Groups => (self.d[j], self.m[j]),
            };
            for (to, &code) in to.iter_mut().zip(&self.codes[16 * j..][..16]) {
                // Unsigned codes fit 7 bits, so that both kinds can be taken as signed.
                *to = scale * f32::from(i16::from(code as i8) - i16::from(facts.offset));
            }
            if facts.mins {
                to.iter_mut().for_each(|to| *to += min);
            }
        }
    }
}

/// What scales look like in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// Integer scales within a super-block of 256, which has one float scale. Activations are rounded as Q8_K.
    Super,
    /// A float scale a group. Activations are rounded as Q8_0, or Q8_1 if there are minima.
    Groups,
}

/// A format seen as integers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The format.
    pub(crate) format: Format,
    /// Integer scales, or float scales alone.
    pub(crate) scaling: Scaling,
    /// Columns that share a scale, 16 or 32.
    pub(crate) group: usize,
    /// Whether there are minima.
    pub(crate) mins: bool,
    /// Subtracted from a code to give the weight.
    pub(crate) offset: u8,
    /// The largest magnitude of `code - offset`.
    pub(crate) max: i32,
}

/// Unpacks the bytes of consecutive slabs of one row; the last may be cut short, and is then zero where it ends.
pub(crate) type UnpackRow = fn(bytes: &[u8], slabs: &mut [Slab]);
