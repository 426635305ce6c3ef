//! Scaled dot-product attention with grouped heads, causal and sliding masks, soft cap and sinks.

use super::function::{exp, tanh};
use super::{WIDTH, check_len, check_rows, per_isa, wrong_shape};
use crate::arch::isa;
use crate::encode::Run;
use crate::error::Result;

/// Queries of a task: enough that packing the keys and values for them costs nothing.
const TASK_QUERIES: usize = 128;

/// Queries worked on side by side.
const TILE: usize = 4;

/// What attends to what, and how.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Tokens in a sequence. Sequences lie one after another and do not see each other.
    pub sequence: usize,
    /// Heads of the queries, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of a head of queries and keys.
    pub key_dim: usize,
    /// Width of a head of values.
    pub value_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether tokens see only those before them and themselves.
    pub causal: bool,
    /// How many tokens back a token sees, itself included; `None` for all.
    pub window: Option<usize>,
    /// Bound of the scores, by tanh; `None` for none.
    pub soft_cap: Option<f32>,
    /// One score for each head that takes part in the softmax and goes nowhere.
    pub sinks: Option<&'a [f32]>,
}

/// Attention of `q` [tokens, heads, key_dim] over `k` [tokens, kv_heads, key_dim] and `v` [tokens, kv_heads, value_dim];
/// the result is [tokens, heads, value_dim].
///
/// # Errors
/// `Shape` where lengths contradict each other; `Interrupted`.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], how: Attention, run: Run) -> Result<Vec<f32>> {
    let Attention { sequence, heads, kv_heads, key_dim, value_dim, .. } = how;
    let sizes = [sequence, heads, kv_heads, key_dim, value_dim];
    if sizes.contains(&0) || sizes.iter().any(|&n| n > 1 << 24) || heads % kv_heads != 0 {
        return Err(wrong_shape(format!("attention: {heads} heads of {key_dim} over {kv_heads} of {value_dim}")));
    }
    let tokens = check_rows("attention: queries", q.len(), heads * key_dim)?;
    check_rows("attention: tokens", tokens, sequence)?;
    check_len("attention: keys", k.len(), tokens * kv_heads * key_dim)?;
    check_len("attention: values", v.len(), tokens * kv_heads * value_dim)?;
    if let Some(sinks) = how.sinks {
        check_len("attention: sinks", sinks.len(), heads)?;
    }
    let isa = isa()?;
    let mut out = vec![0.0; tokens * heads * value_dim];
    let mut tasks = Vec::new();
    for (number, rows) in out.chunks_mut(sequence * heads * value_dim).enumerate() {
        for (part, out) in rows.chunks_mut(TASK_QUERIES * heads * value_dim).enumerate() {
            tasks.push(Task { base: number * sequence, first: part * TASK_QUERIES, out });
        }
    }
    run.for_each(tasks, |scratch, _, task| {
        attend(isa, q, k, v, &how, task, scratch);
        Ok(())
    })?;
    Ok(out)
}

/// Some queries of one sequence, with the rows of the result that are theirs.
struct Task<'a> {
    /// The sequence's first token.
    base: usize,
    /// The first query, counted in the sequence.
    first: usize,
    out: &'a mut [f32],
}

per_isa! {
    fn attend(q: &[f32], k: &[f32], v: &[f32], how: &Attention, task: Task, scratch: &mut Vec<f32>) = attend_generic;
}

/// The keys that a query sees, as a range of its sequence.
#[inline(always)]
fn seen(how: &Attention, query: usize) -> (usize, usize) {
    let end = if how.causal { query + 1 } else { how.sequence };
    let start = how.window.map_or(0, |window| (query + 1).saturating_sub(window));
    (start, end)
}

#[inline(always)]
fn attend_generic(q: &[f32], k: &[f32], v: &[f32], how: &Attention, task: Task, scratch: &mut Vec<f32>) {
    let Attention { heads, kv_heads, key_dim, value_dim, .. } = *how;
    let queries = task.out.len() / (heads * value_dim);
    let start = seen(how, task.first).0;
    let end = seen(how, task.first + queries - 1).1;
    let keys = (end - start).next_multiple_of(WIDTH);
    let value_width = value_dim.next_multiple_of(WIDTH);
    scratch.clear();
    scratch.resize(keys * (key_dim + value_width + TILE), 0.0);
    let (packed_keys, rest) = scratch.split_at_mut(keys * key_dim);
    let (packed_values, scores) = rest.split_at_mut(keys * value_width);
    for kv_head in 0..kv_heads {
        let at = |token: usize, dim| ((task.base + start + token) * kv_heads + kv_head) * dim;
        // Keys: panels of 16 keys, dimension by dimension. Values: panels of 16 dimensions, key by key.
        for token in 0..end - start {
            let panel = &mut packed_keys[token / WIDTH * WIDTH * key_dim..][..WIDTH * key_dim];
            for (d, &value) in k[at(token, key_dim)..][..key_dim].iter().enumerate() {
                panel[d * WIDTH + token % WIDTH] = value;
            }
            for (number, values) in v[at(token, value_dim)..][..value_dim].chunks(WIDTH).enumerate() {
                packed_values[(number * keys + token) * WIDTH..][..values.len()].copy_from_slice(values);
            }
        }
        let group = heads / kv_heads;
        for head in kv_head * group..(kv_head + 1) * group {
            for tile in (0..queries).step_by(TILE) {
                let count = TILE.min(queries - tile);
                // Where a tile is not full, its last query is computed again.
                let query = |i: usize| {
                    let token = task.base + task.first + tile + i.min(count - 1);
                    &q[(token * heads + head) * key_dim..][..key_dim]
                };
                let rows = [query(0), query(1), query(2), query(3)];
                let last = seen(how, task.first + tile + count - 1).1 - start;
                let used = last.next_multiple_of(WIDTH);
                let scores = &mut scores[..TILE * used];
                for (number, panel) in packed_keys.chunks_exact(key_dim * WIDTH).enumerate().take(used / WIDTH) {
                    let mut sums = product(rows, panel.as_chunks().0);
                    finish(&mut sums, how);
                    for (row, sums) in scores.chunks_exact_mut(used).zip(&sums) {
                        row[number * WIDTH..][..WIDTH].copy_from_slice(sums);
                    }
                }
                let mut factors = [0.0; TILE];
                for (i, row) in scores.chunks_exact_mut(used).enumerate() {
                    let (from, to) = seen(how, task.first + tile + i.min(count - 1));
                    let sink = how.sinks.map(|sinks| sinks[head]);
                    factors[i] = softmax(row, from.max(start) - start, to - start, sink);
                }
                let (first, rest) = scores.split_at(2 * used);
                let (rows, others) = (first.split_at(used), rest.split_at(used));
                for (number, panel) in packed_values.chunks_exact(keys * WIDTH).enumerate() {
                    let sums = product([rows.0, rows.1, others.0, others.1], panel.as_chunks().0);
                    let width = WIDTH.min(value_dim - number * WIDTH);
                    for (i, sums) in sums.iter().enumerate().take(count) {
                        let at = ((tile + i) * heads + head) * value_dim + number * WIDTH;
                        for (to, sum) in task.out[at..][..width].iter_mut().zip(sums) {
                            *to = sum * factors[i];
                        }
                    }
                }
            }
        }
    }
}

/// The product of four rows and a panel of 16 columns, `[n]` each and `[n][16]`; the sums stay in registers.
#[inline(always)]
fn product(rows: [&[f32]; TILE], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; TILE] {
    #[inline(always)]
    fn add(sums: &mut [f32; WIDTH], factor: f32, values: &[f32; WIDTH]) {
        for j in 0..WIDTH {
            sums[j] = factor.mul_add(values[j], sums[j]);
        }
    }
    let (mut a, mut b, mut c, mut d) = ([0.0; WIDTH], [0.0; WIDTH], [0.0; WIDTH], [0.0; WIDTH]);
    let [first, second, third, fourth] = rows;
    for ((((&w, &x), &y), &z), values) in first.iter().zip(second).zip(third).zip(fourth).zip(panel) {
        add(&mut a, w, values);
        add(&mut b, x, values);
        add(&mut c, y, values);
        add(&mut d, z, values);
    }
    [a, b, c, d]
}

/// Scales and caps scores.
#[inline(always)]
fn finish(scores: &mut [[f32; WIDTH]; TILE], how: &Attention) {
    for row in scores {
        for j in 0..WIDTH {
            row[j] *= how.scale;
        }
        if let Some(cap) = how.soft_cap {
            for j in 0..WIDTH {
                row[j] = cap * tanh(row[j] / cap);
            }
        }
    }
}

/// e^(score - largest score) over `from..to` of a row, 0 elsewhere; returns what makes them sum to 1.
#[inline(always)]
fn softmax(row: &mut [f32], from: usize, to: usize, sink: Option<f32>) -> f32 {
    row[..from].fill(f32::NEG_INFINITY);
    row[to..].fill(f32::NEG_INFINITY);
    let mut largest = [f32::NEG_INFINITY; WIDTH];
    for part in row.as_chunks::<WIDTH>().0 {
        for j in 0..WIDTH {
            // A NaN is not larger, but stays in the sum below, whatever is subtracted.
            largest[j] = if part[j] > largest[j] { part[j] } else { largest[j] };
        }
    }
    let start = sink.unwrap_or(f32::NEG_INFINITY);
    let largest = largest.iter().copied().fold(start, |a, b| if b > a { b } else { a });
    let mut sums = [0.0_f32; WIDTH];
    for part in row.as_chunks_mut::<WIDTH>().0 {
        for j in 0..WIDTH {
            part[j] = exp(part[j] - largest);
            sums[j] += part[j];
        }
    }
    1.0 / (sums.iter().sum::<f32>() + sink.map_or(0.0, |sink| exp(sink - largest)))
}
