//! How blocks lie in memory: a declaration of fields, and the loops over the blocks of a row.

use half::f16;

use super::BlockFault;

/// Something stored in a block: little-endian, without padding.
pub(crate) trait Field: Sized {
    /// Bytes it takes.
    const BYTES: usize;
    /// Reads it from the front of `bytes` and moves on.
    fn take(bytes: &mut &[u8]) -> Self;
    /// Writes it to the front of `bytes` and moves on.
    fn put(&self, bytes: &mut &mut [u8]);
}

macro_rules! fields {
    ($($number:ty),+) => {$(
        impl Field for $number {
            const BYTES: usize = size_of::<$number>();

            #[inline(always)]
            fn take(bytes: &mut &[u8]) -> Self {
                let [number] = <[$number; 1]>::take(bytes);
                number
            }

            #[inline(always)]
            fn put(&self, bytes: &mut &mut [u8]) {
                [*self].put(bytes);
            }
        }

        impl<const N: usize> Field for [$number; N] {
            const BYTES: usize = N * size_of::<$number>();

            #[inline(always)]
            fn take(bytes: &mut &[u8]) -> Self {
                let (own, rest) = bytes.split_at(Self::BYTES);
                *bytes = rest;
                let items = own.as_chunks().0;
                let mut numbers = [<$number>::from_le_bytes([0; size_of::<$number>()]); N];
                for i in 0..N {
                    numbers[i] = <$number>::from_le_bytes(items[i]);
                }
                numbers
            }

            #[inline(always)]
            fn put(&self, bytes: &mut &mut [u8]) {
                let (own, rest) = std::mem::take(bytes).split_at_mut(Self::BYTES);
                *bytes = rest;
                for (to, item) in own.as_chunks_mut().0.iter_mut().zip(self) {
                    *to = item.to_le_bytes();
                }
            }
        }

        impl<const M: usize, const N: usize> Field for [[$number; M]; N] {
            const BYTES: usize = N * <[$number; M] as Field>::BYTES;

            #[inline(always)]
            fn take(bytes: &mut &[u8]) -> Self {
                std::array::from_fn(|_| Field::take(bytes))
            }

            #[inline(always)]
            fn put(&self, bytes: &mut &mut [u8]) {
                for item in self {
                    item.put(bytes);
                }
            }
        }
    )+};
}

fields!(u8, i8, u16, i16, u32, f16, f32);

/// A block as typed fields, in file order. Implemented by [`block_layout!`].
pub(crate) trait Layout: Sized {
    /// Bytes of a block.
    const BYTES: usize;
    /// Reads a block from exactly `BYTES` bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Writes a block to exactly `BYTES` bytes.
    fn write(&self, bytes: &mut [u8]);
}

/// Declares a block: its fields in file order, and the bytes they must add up to.
macro_rules! block_layout {
    ($(#[$meta:meta])* struct $name:ident, $total:literal bytes { $($(#[$field_meta:meta])* $field:ident: $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub(crate) struct $name {
            $($(#[$field_meta])* pub(crate) $field: $type,)+
        }

        impl $crate::block::layout::Layout for $name {
            const BYTES: usize = 0 $(+ <$type as $crate::block::layout::Field>::BYTES)+;

            #[inline(always)]
            fn read(mut bytes: &[u8]) -> Self {
                $(let $field = $crate::block::layout::Field::take(&mut bytes);)+
                Self { $($field),+ }
            }

            #[inline(always)]
            fn write(&self, mut bytes: &mut [u8]) {
                $($crate::block::layout::Field::put(&self.$field, &mut bytes);)+
                debug_assert!(bytes.is_empty());
            }
        }

        const _: () = assert!(<$name as $crate::block::layout::Layout>::BYTES == $total);
    };
}
pub(crate) use block_layout;

/// Encodes a row block by block, without an importance matrix.
#[inline]
pub(crate) fn encode_blocks<B: Layout, const N: usize>(x: &[f32], out: &mut [u8], encode: impl Fn(&[f32; N]) -> B) {
    debug_assert_eq!(x.len() / N * B::BYTES, out.len());
    for (x, out) in x.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(B::BYTES)) {
        encode(x).write(out);
    }
}

/// Encodes a row block by block, handing each block its stretch of the importance matrix.
#[inline]
pub(crate) fn encode_weighted_blocks<B: Layout, const N: usize>(
    x: &[f32],
    imatrix: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; N], &[f32; N]) -> B,
) {
    debug_assert_eq!(x.len(), imatrix.len());
    debug_assert_eq!(x.len() / N * B::BYTES, out.len());
    let blocks = x.as_chunks::<N>().0.iter().zip(imatrix.as_chunks::<N>().0);
    for ((x, imatrix), out) in blocks.zip(out.chunks_exact_mut(B::BYTES)) {
        encode(x, imatrix).write(out);
    }
}

/// Decodes whole blocks of the type `Block` at hand with a function of a block and its weights.
///
/// This is no function, since one that is handed over as an argument may be called through a shim, and that is compiled
/// without the instruction set of the caller.
macro_rules! decode_blocks {
    ($data:expr, $out:expr, $decode:ident) => {
        for (data, out) in
            $data.chunks_exact(<Block as $crate::block::layout::Layout>::BYTES).zip($out.as_chunks_mut().0)
        {
            $decode(&<Block as $crate::block::layout::Layout>::read(data), out);
        }
    };
}
pub(crate) use decode_blocks;

/// Checks whole blocks one after the other and says which is the first to fail.
#[inline]
pub(crate) fn validate_blocks<B: Layout>(
    data: &[u8],
    check: impl Fn(&B) -> Result<(), String>,
) -> Result<(), BlockFault> {
    for (block, data) in data.chunks_exact(B::BYTES).enumerate() {
        check(&B::read(data)).map_err(|what| BlockFault { block, what })?;
    }
    Ok(())
}

/// Fails with the field's name unless its value is finite.
#[inline]
pub(crate) fn finite(name: &str, value: impl Into<f32>) -> Result<(), String> {
    let value = value.into();
    if value.is_finite() { Ok(()) } else { Err(format!("{name} is {value}")) }
}

/// The `I`-th group of `G` weights out of a block of `N`.
#[inline]
pub(crate) fn group<T, const G: usize>(block: &[T], index: usize) -> &[T; G] {
    &block.as_chunks::<G>().0[index]
}
