//! Checks of a whole model: structure and bounds by opening it, then the data of every row, as `--check-tensors` does.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::header::TensorInfo;
use super::reader::Reader;
use crate::encode::Run;
use crate::error::{Error, Result};

/// Bytes checked at a time by one thread.
const CHUNK: usize = 4 << 20;

/// Faults reported for one tensor; the rest are counted.
const FAULTS_SHOWN: usize = 16;

/// `ggml_type` id of 64-bit floats, which are data but no block format.
const F64: u32 = 28;

/// Something wrong with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file it is in.
    pub file: PathBuf,
    /// The tensor, if it concerns one.
    pub tensor: Option<String>,
    /// Row of the tensor, counted from 0.
    pub row: Option<u64>,
    /// Block in the row, counted from 0.
    pub block: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// Checks the model at `path` (any shard of it). An empty list means that nothing is wrong.
///
/// # Errors
/// `Io` if a file cannot be read, `Interrupted`. What is wrong with the model itself is a finding.
pub fn verify(path: impl AsRef<Path>, run: Run<'_>) -> Result<Vec<Finding>> {
    match Reader::open(path.as_ref()) {
        Ok(reader) => verify_data(&reader, run),
        Err(error @ (Error::Io { .. } | Error::Interrupted)) => Err(error),
        Err(error) => Ok(vec![Finding {
            file: path.as_ref().to_owned(),
            tensor: None,
            row: None,
            block: None,
            what: error.to_string(),
        }]),
    }
}

/// Checks the data of every tensor of an open model.
///
/// # Errors
/// `Io`, `Interrupted`.
pub fn verify_data(reader: &Reader, run: Run<'_>) -> Result<Vec<Finding>> {
    let check = || {
        let mut findings = Vec::new();
        for tensor in reader.tensors() {
            verify_tensor(reader, tensor, run, &mut findings)?;
        }
        Ok(findings)
    };
    match run.threads {
        None => check(),
        Some(threads) => rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::Io {
                at: crate::At::default(),
                action: "start threads".to_owned(),
                source: std::io::Error::other(e),
            })?
            .install(check),
    }
}

/// A fault: block within the tensor, and what is wrong with it.
type Fault = (u64, String);

fn verify_tensor(reader: &Reader, tensor: &TensorInfo, run: Run<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let finding = |row, block, what| Finding {
        file: reader.shards()[tensor.shard].path.clone(),
        tensor: Some(tensor.name.clone()),
        row,
        block,
        what,
    };
    let Some((block_len, block_bytes)) = tensor.ty.block() else {
        findings.push(finding(None, None, format!("{} cannot be checked", tensor.ty)));
        return Ok(());
    };
    if tensor.ty.format().is_none() && tensor.ty.0 != F64 {
        return Ok(()); // Integers: every value is valid.
    }
    let chunk = (CHUNK - CHUNK % block_bytes) as u64;
    let check_chunk = |i: u64| -> Result<(Vec<Fault>, u64)> {
        if run.interrupt.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Error::Interrupted);
        }
        let offset = i * chunk;
        let mut data = vec![0; chunk.min(tensor.nbytes - offset) as usize];
        match reader.read_at(tensor, offset, &mut data) {
            // A big-endian layout that nobody defined.
            Err(Error::Unsupported { what, .. }) => Ok((vec![(offset / block_bytes as u64, what)], 1)),
            Err(error) => Err(error),
            Ok(()) => Ok(faults(tensor, &data, offset / block_bytes as u64, block_bytes)),
        }
    };
    let chunks: Vec<(Vec<Fault>, u64)> =
        (0..tensor.nbytes.div_ceil(chunk)).into_par_iter().map(check_chunk).collect::<Result<_>>()?;

    let total: u64 = chunks.iter().map(|(_, count)| count).sum();
    let blocks_per_row = (tensor.row_len() / block_len as u64).max(1);
    for (block, what) in chunks.into_iter().flat_map(|(faults, _)| faults).take(FAULTS_SHOWN) {
        findings.push(finding(Some(block / blocks_per_row), Some(block % blocks_per_row), what));
    }
    if total > FAULTS_SHOWN as u64 {
        findings.push(finding(None, None, format!("{} more faults", total - FAULTS_SHOWN as u64)));
    }
    Ok(())
}

/// The first faults in whole blocks of data, and the number of all of them. `first` is the number of the first block.
fn faults(tensor: &TensorInfo, data: &[u8], first: u64, block_bytes: usize) -> (Vec<Fault>, u64) {
    let mut faults = Vec::new();
    let mut count = 0;
    let mut start = 0;
    while start < data.len() {
        let fault = match tensor.ty.format() {
            Some(format) => (format.reference().validate_row)(&data[start..]).err().map(|f| (f.block, f.what)),
            None => first_bad_f64(&data[start..]),
        };
        let Some((block, what)) = fault else { break };
        let position = start / block_bytes + block;
        if faults.len() < FAULTS_SHOWN {
            faults.push((first + position as u64, what));
        }
        count += 1;
        start = (position + 1) * block_bytes;
    }
    (faults, count)
}

fn first_bad_f64(data: &[u8]) -> Option<(usize, String)> {
    let values = data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
    values.enumerate().find(|(_, v)| !v.is_finite()).map(|(i, v)| (i, format!("value is {v}")))
}
