//! Values of one row from its codes.

/// The groups of a row: which inputs share a scale and a zero point.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// So many neighbours each; the last may be shorter.
    Even(usize),
    /// The group of each input, each less than the number of scales.
    Listed(&'a [u32]),
}

/// `scale * (code - zero)` for a row, exact but for one rounding of the product.
///
/// `scales` and `zeros` have one entry a group.
#[inline(always)] // so that it is compiled with the features of its caller
pub fn dequantize(codes: &[u8], groups: Groups<'_>, scales: &[f32], zeros: &[i32], out: &mut [f32]) {
    let value = |code: u8, scale: f32, zero: i32| (i32::from(code) - zero) as f32 * scale;
    match groups {
        Groups::Even(len) => {
            let parts = out.chunks_mut(len.max(1)).zip(codes.chunks(len.max(1)));
            for ((out, codes), (&scale, &zero)) in parts.zip(scales.iter().zip(zeros)) {
                for (out, &code) in out.iter_mut().zip(codes) {
                    *out = value(code, scale, zero);
                }
            }
        }
        Groups::Listed(groups) => {
            for ((out, &code), &group) in out.iter_mut().zip(codes).zip(groups) {
                *out = value(code, scales[group as usize], zeros[group as usize]);
            }
        }
    }
}
