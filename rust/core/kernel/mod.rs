//! Kernels: the encoders once more, written over [lanes](crate::lanes).
//!
//! Each gives the bytes of its scalar reference for every input; tests hold it to that. A kernel takes a batch of blocks,
//! transposes them into [tiles](tile) in which each lane holds a group of weights, and runs the searches on all groups at
//! once, with branches as masks. Where an intermediate value leaves the range in which a shorter computation agrees with
//! the reference (rare, and never with ordinary weights), the search says so and the block goes through the reference.
//!
//! - [`tile`]: groups of weights into lanes, codes out of them;
//! - [`affine`]: the search over a group with a minimum;
//! - [`superblock`]: the scales of a super-block as small integers;
//! - [`scale_min`]: Q2_K, Q4_K and Q5_K;
//! - [`symmetric`]: the search over a group without a minimum;
//! - [`descent`]: the same, one code at a time;
//! - [`signed`]: Q3_K and Q6_K;
//! - [`nonlinear`]: IQ4_NL and IQ4_XS;
//! - [`plain`]: formats without a search;
//! - [`legacy`]: Q4_0, Q4_1, Q5_0 and Q5_1;
//! - [`one_bit`] has Q1_0;
//! - [`grid`]: searches through the codebooks of the i-quants;
//! - [`codebook`]: the i-quants of 2 and 3 bits;
//! - [`ternary`]: the i-quants of 1 bit.

pub(crate) mod affine;
pub(crate) mod codebook;
pub(crate) mod descent;
pub(crate) mod grid;
pub(crate) mod legacy;
pub(crate) mod nonlinear;
pub(crate) mod one_bit;
pub(crate) mod plain;
pub(crate) mod scale_min;
pub(crate) mod signed;
pub(crate) mod superblock;
pub(crate) mod symmetric;
pub(crate) mod ternary;
pub(crate) mod tile;

use crate::block::layout::Layout;
use crate::lanes::F32Lanes;

/// Blocks in a batch.
pub(crate) const BATCH: usize = 8;

/// Groups in a batch of super-blocks, at most: groups of 16 weights.
pub(crate) const MAX_GROUPS: usize = BATCH * 16;

/// Encodes whole rows: weights, their number in a row, one importance a column, bytes.
pub(crate) type EncodeRows = fn(&[f32], usize, Option<&[f32]>, &mut [u8]);

/// Encodes blocks without importances from floats of any kind. False if a weight may not be finite.
pub(crate) type EncodePlain<E> = fn(&[E], &mut [u8]) -> bool;

/// A format that encodes rows in its own way.
pub(crate) trait RowEncoder {
    /// See [`EncodeRows`].
    fn encode_rows<F: F32Lanes>(x: &[f32], row_len: usize, imatrix: Option<&[f32]>, out: &mut [u8]);
    /// See [`EncodePlain`].
    fn encode_plain<F: F32Lanes, E: plain::Source>(x: &[E], out: &mut [u8]) -> bool;
}

/// A format that encodes blocks of `N` weights by batches of `B` blocks.
pub(crate) trait BatchEncoder<const N: usize, const B: usize = BATCH> {
    /// A block of the format.
    type Block: Layout;

    /// Encodes a batch, with the importances of each block if there are any.
    fn encode_batch<F: F32Lanes>(x: &[&[f32; N]; B], imatrix: Option<&[&[f32; N]; B]>) -> [Self::Block; B];

    /// Encodes a batch, given for each block the rest of its row from there on, which few formats look at.
    #[inline(always)]
    fn encode_batch_of_rows<F: F32Lanes>(
        x: &[&[f32; N]; B],
        _rows: &[&[f32]; B],
        imatrix: Option<&[&[f32; N]; B]>,
    ) -> [Self::Block; B] {
        Self::encode_batch::<F>(x, imatrix)
    }
}

/// Encodes whole rows of `row_len` weights by batches of blocks, without regard to where rows end.
///
/// The last batch is filled up with its last block.
#[inline(always)]
pub(crate) fn encode_rows<F: F32Lanes, E: BatchEncoder<N, B>, const N: usize, const B: usize>(
    x: &[f32],
    row_len: usize,
    imatrix: Option<&[f32]>,
    out: &mut [u8],
) {
    let blocks = x.as_chunks::<N>().0;
    let importances = imatrix.map(|imatrix| imatrix[..row_len].as_chunks::<N>().0);
    for (batch, out) in out.chunks_mut(B * E::Block::BYTES).enumerate() {
        let last = out.len() / E::Block::BYTES - 1;
        let numbers: [usize; B] = std::array::from_fn(|i| batch * B + i.min(last));
        let rows = numbers.map(|number| &x[N * number..(N * number / row_len + 1) * row_len]);
        let x = numbers.map(|number| &blocks[number]);
        let importances = importances.map(|rows| numbers.map(|number| &rows[number % rows.len()]));
        let encoded = E::encode_batch_of_rows::<F>(&x, &rows, importances.as_ref());
        for (block, out) in encoded.iter().zip(out.chunks_exact_mut(E::Block::BYTES)) {
            block.write(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{scale_min, *};
    use crate::block::*;
    use crate::lanes::portable::Floats;

    /// Bell-shaped weights of many magnitudes, with blocks of zeros and of huge weights among them.
    fn weights(count: usize) -> Vec<f32> {
        let mut state = 77u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0 - 0.5
        };
        let scale = |block: usize| [0.02, 1.0, 0.0, 3e37, 1e-30, 40.0, 1e-42][block % 7];
        (0..count).map(|i| (uniform() + uniform() + uniform()) * scale(i / 64)).collect()
    }

    /// At 8 and 16 lanes a kernel gives the bytes of the reference, also where this machine has no such lanes.
    fn check_encoders(format: Format, encoders: [EncodeRows; 2]) {
        let (row_len, rows) = (768, 7);
        let x = weights(row_len * rows);
        let imatrix: Vec<f32> = weights(row_len).iter().map(|v| v.abs().min(4.0)).collect();
        for imatrix in [None, Some(imatrix.as_slice())] {
            if imatrix.is_none() && format.info().imatrix == ImatrixUse::Required {
                continue;
            }
            let row_bytes = format.info().row_bytes(row_len).unwrap();
            let mut expected = vec![0; rows * row_bytes];
            for (row, out) in x.chunks(row_len).zip(expected.chunks_mut(row_bytes)) {
                (format.reference().encode_row)(row, imatrix, out);
            }
            for encode in encoders {
                let mut out = vec![0x5a; expected.len()];
                encode(&x, row_len, imatrix, &mut out);
                assert!(out == expected, "{format}");
            }
        }
    }

    fn check<E: BatchEncoder<N, B>, const N: usize, const B: usize>(format: Format) {
        check_encoders(format, [encode_rows::<Floats<8>, E, N, B>, encode_rows::<Floats<16>, E, N, B>]);
    }

    fn check_rows<E: RowEncoder>(format: Format) {
        check_encoders(format, [E::encode_rows::<Floats<8>>, E::encode_rows::<Floats<16>>]);
    }

    #[test]
    fn row_encoders_give_the_same_at_any_width() {
        check_rows::<legacy::Encoder<q4_0::Q4_0>>(Format::Q4_0);
        check_rows::<legacy::Encoder<q4_1::Q4_1>>(Format::Q4_1);
        check_rows::<legacy::Encoder<q5_0::Q5_0>>(Format::Q5_0);
        check_rows::<legacy::Encoder<q5_1::Q5_1>>(Format::Q5_1);
        check_rows::<plain::Encoder<q8_0::Q8_0, 32>>(Format::Q8_0);
        check_rows::<plain::Encoder<q2_0::Q2_0, 64>>(Format::Q2_0);
        check_rows::<plain::Encoder<tq1_0::TQ1_0, 256>>(Format::TQ1_0);
        check_rows::<plain::Encoder<tq2_0::TQ2_0, 256>>(Format::TQ2_0);
        check_rows::<plain::Encoder<mxfp4::MXFP4, 32>>(Format::MXFP4);
        check_rows::<plain::Encoder<nvfp4::NVFP4, 64>>(Format::NVFP4);
        check_rows::<plain::Encoder<q1_0::Q1_0, 128>>(Format::Q1_0);
    }

    #[test]
    fn the_number_of_lanes_does_not_matter() {
        check::<scale_min::Encoder<q2_k::Q2_K, 16, 16>, _, _>(Format::Q2_K);
        check::<signed::Encoder<q3_k::Q3_K>, _, _>(Format::Q3_K);
        check::<scale_min::Encoder<q4_k::Q4_K, 8, 32>, _, _>(Format::Q4_K);
        check::<scale_min::Encoder<q5_k::Q5_K, 8, 32>, _, _>(Format::Q5_K);
        check::<signed::Encoder<q6_k::Q6_K>, _, _>(Format::Q6_K);
        check::<nonlinear::Encoder<iq4_nl::IQ4_NL, 1, 32, 16>, _, _>(Format::IQ4_NL);
        check::<nonlinear::Encoder<iq4_xs::IQ4_XS, 8, 256, 8>, _, _>(Format::IQ4_XS);
        check::<ternary::Encoder<iq1_s::IQ1_S, 32>, _, _>(Format::IQ1_S);
        check::<ternary::Encoder<iq1_m::IQ1_M, 16>, _, _>(Format::IQ1_M);
        check::<codebook::Encoder<iq2_xxs::IQ2_XXS, 8, 32>, _, _>(Format::IQ2_XXS);
        check::<codebook::Encoder<iq2_xs::IQ2_XS, 8, 16>, _, _>(Format::IQ2_XS);
        check::<codebook::Encoder<iq2_s::IQ2_S, 8, 16>, _, _>(Format::IQ2_S);
        check::<codebook::Encoder<iq3_xxs::IQ3_XXS, 4, 32>, _, _>(Format::IQ3_XXS);
        check::<codebook::Encoder<iq3_s::IQ3_S, 4, 32>, _, _>(Format::IQ3_S);
    }
}
