//! Packed weights of GPTQ, AWQ and compressed-tensors checkpoints as Python plans them.

use std::str::FromStr;

use ggquant::Format;
use ggquant::convert::{Coding, Grouping, PackedWeights, SourceType, View, Zeros};
use ggquant::packed::bits::Width;
use ggquant::packed::blocks::Target;
use pyo3::prelude::*;

/// Offset and so on of a view, see `convert::ViewParts`.
type ViewParts = (String, u64, String, Vec<u64>, Vec<u64>, u64);

/// A matrix of packed weights: attributes are read from the object by name.
#[derive(FromPyObject)]
pub(crate) struct GivenPacked {
    rows: u64,
    columns: u64,
    coding: String,
    bits: u64,
    codes: ViewParts,
    scales: ViewParts,
    rows_per_scale: u64,
    /// Where all are alike.
    zero: Option<i32>,
    zeros: Option<ViewParts>,
    zero_coding: String,
    zero_less_one: bool,
    group_len: u64,
    listed: Option<ViewParts>,
    shape: Vec<u64>,
    strides: Vec<u64>,
    start: u64,
}

impl GivenPacked {
    /// The engine's form of it.
    pub(crate) fn plan(self) -> Result<PackedWeights, String> {
        let zeros = match (self.zero, self.zeros) {
            (Some(zero), _) => Zeros::All(zero),
            (None, Some(parts)) => Zeros::Stored {
                coding: coding(&self.zero_coding, self.bits)?,
                view: view(parts)?,
                less_one: self.zero_less_one,
            },
            (None, None) => return Err("packed weights without zero points".into()),
        };
        let groups = match self.listed {
            Some(parts) => Grouping::Listed(view(parts)?),
            None => Grouping::Even(self.group_len),
        };
        Ok(PackedWeights {
            rows: self.rows,
            columns: self.columns,
            coding: coding(&self.coding, self.bits)?,
            codes: view(self.codes)?,
            scales: view(self.scales)?,
            rows_per_scale: self.rows_per_scale,
            zeros,
            groups,
            shape: self.shape,
            strides: self.strides,
            start: self.start,
        })
    }
}

fn view((file, offset, dtype, shape, strides, start): ViewParts) -> Result<View, String> {
    Ok(View { file: file.into(), offset, dtype: SourceType::from_str(&dtype)?, shape, strides, start })
}

fn coding(name: &str, bits: u64) -> Result<Coding, String> {
    match name {
        "dense" => Ok(Coding::Dense(Width::new(bits)?)),
        "aligned" => Ok(Coding::Aligned(Width::new(bits)?)),
        "awq" => Ok(Coding::Awq),
        "signed" => Ok(Coding::Signed),
        "float" => Ok(Coding::Float),
        _ => Err(format!("no packing is called '{name}'")),
    }
}

/// The format of this name, if it can take codes as they are.
pub(crate) fn target(name: &str) -> Result<Target, String> {
    let format = Format::from_str(name).map_err(|e| e.to_string())?;
    Target::of(format).ok_or_else(|| format!("{name} cannot take codes as they are"))
}
