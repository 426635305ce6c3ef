//! Weights of 8 bits with scales in a tensor of their own: a scale for each tile of the stored tensor, be it a square
//! block, a row, or all of it. They are multiplied in `f32` when they are read; from there on they are `F32` weights.

use super::dtype::SourceType;
use super::gather::Gather;
use super::plan::Tiles;
use crate::error::{At, Error, Result};

/// One view of a stored tensor, and the scales of all of it.
pub(super) struct Scaled {
    weights: Gather,
    weight_type: SourceType,
    scales: Gather,
    scale_type: SourceType,
    axes: Vec<Axis>,
}

/// One dimension of the stored tensor.
struct Axis {
    len: usize,
    /// Elements that share a scale.
    tile: usize,
    /// Distance of neighbouring tiles among the scales.
    stride: usize,
}

impl Scaled {
    /// # Errors
    /// `Shape` if there are not as many scales as tiles, or the view leaves the stored tensor.
    pub(super) fn new(
        (weights, weight_type): (Gather, SourceType),
        (scales, scale_type): (Gather, SourceType),
        tiles: &Tiles,
    ) -> Result<Self> {
        let bad = |what: String| Err(Error::Shape { at: At::default(), what });
        if tiles.shape.len() != tiles.tile.len() || tiles.tile.contains(&0) {
            return bad(format!("tiles of {:?} do not fit a tensor of shape {:?}", tiles.tile, tiles.shape));
        }
        let mut axes = Vec::with_capacity(tiles.shape.len());
        let (mut elements, mut stride) = (Some(1usize), Some(1usize));
        for (&len, &tile) in tiles.shape.iter().zip(&tiles.tile).rev() {
            let (Ok(len), Ok(tile)) = (usize::try_from(len), usize::try_from(tile)) else {
                return bad(format!("shape {:?} is larger than this machine can address", tiles.shape));
            };
            axes.push(Axis { len, tile, stride: stride.unwrap_or(0) });
            elements = elements.and_then(|n| n.checked_mul(len));
            stride = stride.and_then(|n| n.checked_mul(len.div_ceil(tile)));
        }
        axes.reverse();
        if stride != Some(scales.units()) {
            return bad(format!(
                "{} scales do not fit tiles of {:?} of a tensor of shape {:?}",
                scales.units(),
                tiles.tile,
                tiles.shape
            ));
        }
        if elements.is_none_or(|elements| weights.units() > 0 && weights.last_unit() >= elements) {
            return bad(format!("a view reaches beyond the tensor of shape {:?} that its scales are for", tiles.shape));
        }
        Ok(Self { weights, weight_type, scales, scale_type, axes })
    }

    /// The weights' view.
    pub(super) fn weights(&self) -> &Gather {
        &self.weights
    }

    /// Reads the elements from `first` on, four bytes each, as many as `out` holds.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<()> {
        let scales = read_all(&self.scales, self.scale_type, 0, self.scales.units(), scratch, given_up)?;
        let (out, _) = out.as_chunks_mut::<4>();
        let mut weights = read_all(&self.weights, self.weight_type, first, out.len(), scratch, given_up)?;
        self.weights.runs(first, weights.len(), &mut |src, step, dst, len| {
            self.multiply(&mut weights[dst..dst + len], src, step, &scales);
        });
        for (bytes, weight) in out.iter_mut().zip(weights) {
            *bytes = weight.to_le_bytes();
        }
        Ok(())
    }

    /// Multiplies weights that lie `step` elements apart in the stored tensor, from element `src` on.
    fn multiply(&self, mut weights: &mut [f32], mut src: usize, step: usize, scales: &[f32]) {
        let row = self.axes.last().filter(|_| step == 1);
        while !weights.is_empty() {
            // Along a row, the scale changes at the tile's end.
            let together = row.map_or(1, |row| {
                let column = src % row.len;
                (row.tile - column % row.tile).min(row.len - column).min(weights.len())
            });
            let scale = scales[self.tile_of(src)];
            let (now, rest) = weights.split_at_mut(together);
            now.iter_mut().for_each(|weight| *weight *= scale);
            weights = rest;
            src += together * step;
        }
    }

    /// The scale of an element of the stored tensor.
    fn tile_of(&self, mut element: usize) -> usize {
        let mut tile = 0;
        for axis in self.axes.iter().rev() {
            tile += element % axis.len / axis.tile * axis.stride;
            element /= axis.len;
        }
        tile
    }
}

/// Reads `count` elements as `f32`.
fn read_all(
    view: &Gather,
    ty: SourceType,
    first: usize,
    count: usize,
    scratch: &mut Vec<u8>,
    given_up: &dyn Fn() -> bool,
) -> Result<Vec<f32>> {
    let mut bytes = vec![0; ty.bytes(count)];
    view.read(first, &mut bytes, scratch, given_up)?;
    let mut values = vec![0.0; count];
    ty.decode(&bytes, &mut values)?;
    Ok(values)
}
