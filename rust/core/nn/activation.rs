//! Activations of feed-forward networks, and the soft cap.

use super::function::{exp, sigmoid, tanh};
use super::{check_len, for_rows, per_isa};
use crate::arch::{Isa, isa};
use crate::encode::Run;
use crate::error::Result;

/// A function of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// `x/2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// What derivatives of activations are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `(1 + erf(x / sqrt 2)) / 2`, the share of a normal distribution below `x`.
    Normal,
    /// `e^x`, 0 below -87.33 and about 2.4e38 above 88.37.
    Exponential,
}

/// How the two halves of a gated feed-forward network become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// `activation(gate) * up`.
    Product(Activation),
    /// gpt-oss: `g sigmoid(alpha g) (u + 1)` with g at most `limit` and u within `limit` of zero.
    Clamped {
        /// Slope of the sigmoid.
        alpha: f32,
        /// Bound of both inputs.
        limit: f32,
    },
}

/// Replaces each value of `x` by `activation` of it.
///
/// # Errors
/// `Interrupted`.
pub fn activate(x: &mut [f32], activation: Activation, run: Run) -> Result<()> {
    let isa = isa()?;
    for_rows(run, 1, x, |_, part| activate_part(isa, activation, part))
}

/// Replaces each value of `x` by that of a curve.
///
/// # Errors
/// `Interrupted`.
pub fn curve(x: &mut [f32], curve: Curve, run: Run) -> Result<()> {
    let isa = isa()?;
    for_rows(run, 1, x, |_, part| match curve {
        Curve::Sigmoid => sigmoids(isa, part),
        Curve::Normal => {
            part.iter_mut().for_each(|v| *v = 0.5 * (1.0 + libm::erff(*v * std::f32::consts::FRAC_1_SQRT_2)));
        }
        Curve::Exponential => exponentials(isa, part),
    })
}

/// Replaces each value of `gate` by the gated product with the value of `up` in its place.
///
/// # Errors
/// `Shape` if the lengths differ; `Interrupted`.
pub fn gate(gate: &mut [f32], up: &[f32], kind: Gate, run: Run) -> Result<()> {
    check_len("gated activation", up.len(), gate.len())?;
    let isa = isa()?;
    for_rows(run, 1, gate, |first, part| {
        let up = &up[first..][..part.len()];
        match kind {
            Gate::Product(activation) => {
                activate_part(isa, activation, part);
                multiply(isa, part, up);
            }
            Gate::Clamped { alpha, limit } => clamped(isa, part, up, alpha, limit),
        }
    })
}

/// Replaces each value of `x` by `cap tanh(x / cap)`.
///
/// # Errors
/// `Interrupted`.
pub fn soft_cap(x: &mut [f32], cap: f32, run: Run) -> Result<()> {
    let isa = isa()?;
    for_rows(run, 1, x, |_, part| cap_part(isa, part, cap))
}

fn activate_part(isa: Isa, activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => silu(isa, x),
        Activation::GeluTanh => gelu_tanh(isa, x),
        Activation::Gelu => {
            x.iter_mut().for_each(|v| *v *= 0.5 * (1.0 + libm::erff(*v * std::f32::consts::FRAC_1_SQRT_2)))
        }
        Activation::Relu => x.iter_mut().for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
    }
}

per_isa! {
    fn silu(x: &mut [f32]) = silu_generic;
    fn gelu_tanh(x: &mut [f32]) = gelu_tanh_generic;
    fn sigmoids(x: &mut [f32]) = sigmoids_generic;
    fn exponentials(x: &mut [f32]) = exponentials_generic;
    fn multiply(x: &mut [f32], by: &[f32]) = multiply_generic;
    fn clamped(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) = clamped_generic;
    fn cap_part(x: &mut [f32], cap: f32) = cap_generic;
}

#[inline(always)]
fn silu_generic(x: &mut [f32]) {
    for v in x {
        *v /= 1.0 + exp(-*v);
    }
}

/// Since `(1 + tanh u) / 2 = sigmoid(2u)`.
#[inline(always)]
fn gelu_tanh_generic(x: &mut [f32]) {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_1;
    for v in x {
        let u = TWICE_SQRT_2_OVER_PI * *v * (1.0 + 0.044715 * *v * *v);
        *v /= 1.0 + exp(-u);
    }
}

#[inline(always)]
fn sigmoids_generic(x: &mut [f32]) {
    for v in x {
        *v = sigmoid(*v);
    }
}

#[inline(always)]
fn exponentials_generic(x: &mut [f32]) {
    for v in x {
        *v = exp(*v);
    }
}

#[inline(always)]
fn multiply_generic(x: &mut [f32], by: &[f32]) {
    for (v, b) in x.iter_mut().zip(by) {
        *v *= b;
    }
}

#[inline(always)]
fn clamped_generic(gate: &mut [f32], up: &[f32], alpha: f32, limit: f32) {
    for (v, &up) in gate.iter_mut().zip(up) {
        let g = if *v > limit { limit } else { *v };
        let u = if up > limit { limit } else { up };
        let u = if u < -limit { -limit } else { u };
        *v = g * sigmoid(alpha * g) * (u + 1.0);
    }
}

#[inline(always)]
fn cap_generic(x: &mut [f32], cap: f32) {
    for v in x {
        *v = cap * tanh(*v / cap);
    }
}
