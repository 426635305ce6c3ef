//! Which instruction set runs, and the table of kernels for it.
//!
//! The choice never changes a result: every kernel writes the bytes of the scalar reference. It is made once, from the
//! machine, and can be forced with `GGQUANT_ISA=scalar|avx2|avx512|neon` (to compare paths, or to rule one out).
//! A format without a kernel for the chosen instruction set runs its scalar reference.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod table;

use std::fmt;
use std::sync::OnceLock;

use crate::block::{BlockFault, Codec, Format, ImatrixUse};
use crate::encode::Weights;
use crate::error::{At, Error, Result};

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "GGQUANT_ISA";

/// An instruction set that kernels may be written for, from the least to the most capable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, on every machine.
    Scalar,
    /// x86-64 with AVX2, FMA, F16C and the instructions on bits (BMI1, BMI2, LZCNT, POPCNT) that came with them.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// aarch64, all of which has NEON.
    Neon,
}

impl Isa {
    /// Every instruction set known to this version.
    pub const ALL: &'static [Isa] = &[Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// Name as `GGQUANT_ISA` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
                    // Bits of masks are counted and searched; every processor with the above has these too.
                    && std::arch::is_x86_feature_detected!("bmi1")
                    && std::arch::is_x86_feature_detected!("bmi2")
                    && std::arch::is_x86_feature_detected!("lzcnt")
                    && std::arch::is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
            Self::Neon => cfg!(target_arch = "aarch64"),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The instruction set in use: `GGQUANT_ISA` if set, otherwise the best this machine has. Decided once per process.
///
/// # Errors
/// `Unsupported` if `GGQUANT_ISA` names nothing known, or something this machine lacks.
pub fn isa() -> Result<Isa> {
    static CHOICE: OnceLock<Result<Isa, String>> = OnceLock::new();
    CHOICE
        .get_or_init(|| {
            let forced = std::env::var_os(ISA_VARIABLE).map(|value| value.to_string_lossy().into_owned());
            choose(forced.as_deref(), Isa::is_available)
        })
        .clone()
        .map_err(|what| Error::Unsupported { at: At::default(), what })
}

/// The choice itself, apart from the process's environment and the machine.
fn choose(forced: Option<&str>, available: impl Fn(Isa) -> bool) -> Result<Isa, String> {
    let usable = || Isa::ALL.iter().copied().filter(|&isa| available(isa));
    let list = || usable().map(Isa::name).collect::<Vec<_>>().join(", ");
    match forced {
        None | Some("") => Ok(usable().max().unwrap_or(Isa::Scalar)),
        Some(name) => match Isa::ALL.iter().copied().find(|isa| isa.name() == name) {
            Some(isa) if available(isa) => Ok(isa),
            Some(isa) => Err(format!("{ISA_VARIABLE}={isa} cannot run here; this machine has {}", list())),
            None => Err(format!("{ISA_VARIABLE}={name} is not known; this machine has {}", list())),
        },
    }
}

/// The functions that encode, decode and check rows of one format.
#[derive(Clone, Copy)]
pub struct Kernel {
    codec: Codec,
    encoder: Option<table::Encoder>,
    weighted: bool,
    decode: table::DecodeRow,
    block_len: usize,
    block_bytes: usize,
}

/// Looks up the kernel of `format` for the instruction set in use.
///
/// # Errors
/// See [`isa`].
pub fn kernel(format: Format) -> Result<Kernel> {
    kernel_for(format, isa()?)
}

/// Looks up the kernel of `format` for an instruction set of choice.
///
/// # Errors
/// `Unsupported` if this machine lacks it.
pub fn kernel_for(format: Format, isa: Isa) -> Result<Kernel> {
    if !isa.is_available() {
        return Err(Error::Unsupported { at: At::default(), what: format!("this machine cannot run {isa}") });
    }
    let info = format.info();
    let codec = format.reference();
    let (encoder, decode) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (table::avx2(format), table::avx2_decoder(format)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (table::avx512(format), table::avx2_decoder(format)),
        // The reference is compiled with NEON on aarch64, decoders included.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => (table::neon(format), codec.decode_row),
        _ => (None, codec.decode_row),
    };
    let (block_len, block_bytes) = (info.block_len, info.block_bytes);
    let weighted = info.imatrix != ImatrixUse::Ignored;
    Ok(Kernel { codec, encoder, weighted, decode, block_len, block_bytes })
}

impl Kernel {
    /// Encodes whole rows of `row_len` finite weights, one after another, with the same `imatrix` row for all.
    /// `out` has exactly the bytes of these rows.
    pub fn encode_rows(&self, x: &[f32], row_len: usize, imatrix: Option<&[f32]>, out: &mut [u8]) {
        if let Some(encoder) = self.encoder {
            return (encoder.encode_rows)(x, row_len, imatrix, out);
        }
        let row_bytes = row_len / self.block_len * self.block_bytes;
        for (row, bytes) in x.chunks_exact(row_len).zip(out.chunks_exact_mut(row_bytes)) {
            (self.codec.encode_row)(row, imatrix, bytes);
        }
    }

    /// Whether [`Kernel::encode_plain`] is what encodes weights, with importances or without.
    pub(crate) fn is_plain(&self, with_imatrix: bool) -> bool {
        self.encoder.is_some_and(|encoder| encoder.plain.is_some()) && !(with_imatrix && self.weighted)
    }

    /// Encodes whole blocks from floats of any kind, without importances, if there is a kernel that needs no search for it.
    /// False if a weight may not be finite; the bytes mean nothing then.
    pub(crate) fn encode_plain(&self, x: Weights<'_>, out: &mut [u8]) -> Option<bool> {
        let plain = self.encoder?.plain?;
        Some(match x {
            Weights::F32(x) => (plain.f32)(x, out),
            Weights::F16(x) => (plain.f16)(x, out),
            Weights::BF16(x) => (plain.bf16)(x, out),
        })
    }

    /// Decodes any whole number of blocks.
    pub fn decode(&self, data: &[u8], out: &mut [f32]) {
        (self.decode)(data, out);
    }

    /// Checks any whole number of blocks.
    ///
    /// # Errors
    /// The first invalid block.
    pub fn validate(&self, data: &[u8]) -> Result<(), BlockFault> {
        (self.codec.validate_row)(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_available_is_chosen() {
        assert_eq!(choose(None, |isa| isa <= Isa::Avx512), Ok(Isa::Avx512));
        assert_eq!(choose(None, |isa| [Isa::Scalar, Isa::Neon].contains(&isa)), Ok(Isa::Neon));
        assert_eq!(choose(None, |isa| isa <= Isa::Avx2), Ok(Isa::Avx2));
        assert_eq!(choose(Some(""), |isa| isa == Isa::Scalar), Ok(Isa::Scalar));
    }

    #[test]
    fn forcing_needs_a_known_and_available_name() {
        assert_eq!(choose(Some("scalar"), |_| true), Ok(Isa::Scalar));
        assert_eq!(choose(Some("avx2"), |_| true), Ok(Isa::Avx2));
        let lacking = choose(Some("avx512"), |isa| isa <= Isa::Avx2).unwrap_err();
        assert!(lacking.contains("GGQUANT_ISA=avx512") && lacking.contains("scalar, avx2"), "{lacking}");
        let unknown = choose(Some("sse9"), |_| true).unwrap_err();
        assert!(unknown.contains("sse9") && unknown.contains("not known"), "{unknown}");
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn lanes_do_what_they_say() {
        use crate::lanes::check::{conversions, operations, transposition};
        operations::<neon::F32, 8>();
        transposition::<neon::F32>();
        conversions::<neon::F32>();
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn lanes_do_what_they_say() {
        use crate::lanes::check::{conversions, operations, transposition};
        if Isa::Avx2.is_available() {
            operations::<avx2::F32, 8>();
            transposition::<avx2::F32>();
            conversions::<avx2::F32>();
        }
        if Isa::Avx512.is_available() {
            operations::<avx512::F32, 16>();
            transposition::<avx512::F32>();
            conversions::<avx512::F32>();
        }
    }
}
