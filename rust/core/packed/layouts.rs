//! Codes into the words of each layout. Codes come with one row an output, a byte each.

use super::bits::{AWQ_CODES, AWQ_PLACE, Width, pack};
use crate::encode::Run;
use crate::error::{At, Error, Result};

/// Inputs that a task of [`pack_inputs`] takes: whole words of every width, and few enough rows of the result to keep in
/// cache while it goes from output to output.
const BAND: usize = 256;

/// Inputs that a task of [`pack_awq`] takes, each a row of the result.
const AWQ_BAND: usize = 64;

/// Rows that a task of [`pack_rows`] takes.
const ROWS: usize = 64;

/// `[words(columns), rows]`: inputs packed, outputs side by side, as GPTQ stores weights.
///
/// # Errors
/// `Shape` unless `codes` are whole rows, `Interrupted`.
pub fn pack_inputs(codes: &[u8], columns: usize, width: Width, run: Run<'_>) -> Result<Vec<u8>> {
    let rows = row_count(codes, columns)?;
    let mut out = vec![0; width.words(columns) * rows * 4];
    let band_bytes = BAND / 32 * width.bits() * rows * 4;
    let tasks: Vec<_> = out.chunks_mut(band_bytes.max(1)).collect();
    run.for_each(tasks, |_, band, out: &mut [u8]| {
        let inputs = band * BAND..((band + 1) * BAND).min(columns);
        let words = width.words(inputs.len());
        let mut packed = [0; BAND];
        for row in 0..rows {
            let packed = &mut packed[..4 * words];
            pack(&codes[row * columns..][inputs.clone()], width, packed);
            for (word, out) in packed.as_chunks::<4>().0.iter().zip(out.chunks_exact_mut(4 * rows)) {
                out[4 * row..4 * row + 4].copy_from_slice(word);
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// `[rows, words(columns)]`: inputs packed, as compressed-tensors stores weights.
///
/// # Errors
/// `Shape` unless `codes` are whole rows, `Interrupted`.
pub fn pack_rows(codes: &[u8], columns: usize, width: Width, run: Run<'_>) -> Result<Vec<u8>> {
    let rows = row_count(codes, columns)?;
    let row_bytes = 4 * width.words(columns);
    let mut out = vec![0; rows * row_bytes];
    let tasks: Vec<_> = out.chunks_mut(ROWS * row_bytes).zip(codes.chunks(ROWS * columns)).collect();
    run.for_each(tasks, |_, _, (out, codes): (&mut [u8], &[u8])| {
        for (out, codes) in out.chunks_mut(row_bytes).zip(codes.chunks(columns)) {
            pack(codes, width, out);
        }
        Ok(())
    })?;
    Ok(out)
}

/// `[columns, words(rows)]`: outputs packed, as GPTQ stores zero points.
///
/// # Errors
/// `Shape` unless `codes` are whole rows.
pub fn pack_outputs(codes: &[u8], columns: usize, width: Width) -> Result<Vec<u8>> {
    let rows = row_count(codes, columns)?;
    let mut out = vec![0; columns * width.words(rows) * 4];
    let mut line = vec![0; rows];
    for (column, out) in out.chunks_mut(4 * width.words(rows)).enumerate() {
        for (to, code) in line.iter_mut().zip(codes[column..].iter().step_by(columns)) {
            *to = *code;
        }
        pack(&line, width, out);
    }
    Ok(out)
}

/// `[columns, rows / 8]`: eight outputs a word in AWQ's order.
///
/// # Errors
/// `Shape` unless `codes` are whole rows, a multiple of eight of them; `Interrupted`.
pub fn pack_awq(codes: &[u8], columns: usize, run: Run<'_>) -> Result<Vec<u8>> {
    let rows = row_count(codes, columns)?;
    if !rows.is_multiple_of(AWQ_CODES) {
        let what = format!("{rows} outputs do not divide into words of {AWQ_CODES}");
        return Err(Error::Shape { at: At::default(), what });
    }
    let line = rows / AWQ_CODES;
    let mut out = vec![0; columns * line * 4];
    let tasks: Vec<_> = out.chunks_mut((AWQ_BAND * line * 4).max(1)).collect();
    run.for_each(tasks, |_, band, out: &mut [u8]| {
        let inputs = band * AWQ_BAND..((band + 1) * AWQ_BAND).min(columns);
        for octet in 0..line {
            let mut words = [0_u32; AWQ_BAND];
            for (output, place) in AWQ_PLACE.into_iter().enumerate() {
                let codes = &codes[(octet * AWQ_CODES + output) * columns..][inputs.clone()];
                for (word, &code) in words.iter_mut().zip(codes) {
                    *word |= u32::from(code) << (4 * place);
                }
            }
            for (word, out) in words.iter().zip(out.chunks_exact_mut(4 * line)) {
                out[4 * octet..4 * octet + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
        Ok(())
    })?;
    Ok(out)
}

fn row_count(codes: &[u8], columns: usize) -> Result<usize> {
    match codes.len().checked_rem(columns) {
        Some(0) => Ok(codes.len() / columns),
        _ => {
            let what = format!("{} codes are no rows of {columns}", codes.len());
            Err(Error::Shape { at: At::default(), what })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_the_codes_0_to_7() {
        let width = Width::new(4).unwrap();
        let run = Run::default();
        let word = |word: u32| word.to_le_bytes().to_vec();
        let codes: Vec<u8> = (0..8).collect();
        // One output of eight inputs, then eight outputs of one input.
        assert_eq!(pack_inputs(&codes, 8, width, run).unwrap(), word(0x7654_3210));
        assert_eq!(pack_rows(&codes, 8, width, run).unwrap(), word(0x7654_3210));
        assert_eq!(pack_outputs(&codes, 1, width).unwrap(), word(0x7654_3210));
        assert_eq!(pack_awq(&codes, 1, run).unwrap(), word(0x7531_6420));
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        assert!(pack_rows(&[0; 7], 2, Width::new(4).unwrap(), Run::default()).is_err());
        assert!(pack_rows(&[0; 7], 0, Width::new(4).unwrap(), Run::default()).is_err());
        assert!(pack_awq(&[0; 12], 1, Run::default()).is_err());
    }
}
