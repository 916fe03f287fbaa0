//! Matrix products in f32 on the CPU, into a buffer of the caller's.
//!
//! burn's own product clears and copies its result on one core before it fills it, and cannot
//! add to a sum or a bias. The scheme is that of GotoBLAS (Goto and van de Geijn, 2008): B in
//! panels that stay in the first cache, A in blocks that stay in the second, tiles of the
//! result in registers. Every element is summed in the same order for any number of threads.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::math::vectorized;

/// Rows of a tile. With two vectors of columns, twelve sums of the sixteen registers.
const MR: usize = 6;
/// Vectors of columns of a tile.
const VECTORS: usize = 2;
/// Rows of a block of A.
const MC: usize = 192;
/// Terms of a sum at a time.
const KC: usize = 384;
/// Columns of B at a time.
const NC: usize = 4096;
/// Strips or panels that are packed together: what they take of a row of the matrix lies side
/// by side, and one page is touched for all of them.
const GROUP: usize = 8;

thread_local! {
    /// Room for packed panels and strips, kept: fresh memory costs more than what it is used for.
    static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static STRIPS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` on `len` values of the thread's room, whatever they were.
fn with_room<R>(
    room: &'static std::thread::LocalKey<RefCell<Vec<f32>>>,
    len: usize,
    work: impl FnOnce(&mut [f32]) -> R,
) -> R {
    // Taken out: a thread that waits for its tasks may be given another product meanwhile.
    let mut values = room.take();
    if values.len() < len {
        values.resize(len, 0.0);
    }
    let result = work(&mut values[..len]);
    room.replace(values);
    result
}

/// A strided matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major `data`, `columns` wide.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            rows: data.len() / columns,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    pub fn columns(self) -> usize {
        self.columns
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// The same row everywhere, `[n]`.
    Row(&'a [f32]),
    /// What `out` holds.
    Out,
}

/// `[m, k] · [k, n]` as a new buffer.
pub fn product(a: Matrix, b: Matrix, start: Start) -> Vec<f32> {
    let mut out = vec![0.0; a.rows * b.columns];
    multiply(&mut out, a, b, start);
    out
}

/// out `[m, n]` = start + a `[m, k]` · b `[k, n]`.
pub fn multiply(out: &mut [f32], a: Matrix, b: Matrix, start: Start) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    let (k, n) = (a.columns, b.columns);
    let width = pulp::Arch::new().dispatch(PanelWidth);
    let room = KC.min(k) * NC.min(n).next_multiple_of(width);
    with_room(&PANELS, room, |panels| {
        for first in (0..n).step_by(NC) {
            let columns = first..(first + NC).min(n);
            for (i, terms) in pieces(k).enumerate() {
                let used = terms.len() * columns.len().next_multiple_of(width);
                let panels = &mut panels[..used];
                pack_panels(panels, b, columns.clone(), terms.clone(), width);
                let start = if i == 0 { start } else { Start::Out };
                multiply_blocks(out, a, panels, columns.clone(), terms, n, start);
            }
        }
    });
}

/// Packs `terms` of the `columns` of `b`, on all cores.
fn pack_panels(
    panels: &mut [f32],
    b: Matrix,
    columns: Range<usize>,
    terms: Range<usize>,
    width: usize,
) {
    let depth = terms.len();
    panels
        .par_chunks_mut(depth * width * GROUP)
        .zip(columns.clone().into_par_iter().step_by(width * GROUP))
        .for_each(|(panels, column)| {
            let columns = column..(column + width * GROUP).min(columns.end);
            vectorized(|| pack(panels, b.t(), columns, terms.clone(), width));
        });
}

/// Adds the products with packed panels to `columns` of `out`, block by block of rows.
fn multiply_blocks(
    out: &mut [f32],
    a: Matrix,
    panels: &[f32],
    columns: Range<usize>,
    terms: Range<usize>,
    n: usize,
    start: Start,
) {
    let (m, depth) = (a.rows, terms.len());
    let block = block_rows(m);
    let blocks = out.par_chunks_mut(block * n).enumerate();
    blocks.for_each(|(i, out)| {
        let rows = i * block..(i * block + block).min(m);
        let room = rows.len().next_multiple_of(MR) * depth;
        with_room(&STRIPS, room, |strips| {
            vectorized(|| pack(strips, a, rows, terms.clone(), MR));
            pulp::Arch::new().dispatch(Block {
                out,
                strips,
                panels,
                depth,
                columns: columns.clone(),
                n,
                start,
            });
        });
    });
}

fn pieces(k: usize) -> impl Iterator<Item = Range<usize>> {
    // Of equal length, rather than with a short last one.
    let piece = k.div_ceil(k.div_ceil(KC).max(1)).max(1);
    (0..k)
        .step_by(piece)
        .map(move |start| start..(start + piece).min(k))
}

/// Rows per task: the blocks are as many as the threads, or a multiple.
fn block_rows(m: usize) -> usize {
    let blocks = m
        .div_ceil(MC)
        .next_multiple_of(rayon::current_num_threads());
    m.div_ceil(blocks).next_multiple_of(MR)
}

/// Packs `rows` of `a` in pieces of `width`, the last filled up with zeros: of each piece,
/// `out[term · width + row]`.
#[inline(always)]
fn pack(out: &mut [f32], a: Matrix, rows: Range<usize>, terms: Range<usize>, width: usize) {
    let a = Matrix {
        data: &a.data[rows.start * a.row_stride + terms.start * a.column_stride..],
        rows: rows.len(),
        columns: terms.len(),
        ..a
    };
    match width {
        MR => pack_pieces::<MR>(out, a),
        8 => pack_pieces::<8>(out, a),
        16 => pack_pieces::<16>(out, a),
        32 => pack_pieces::<32>(out, a),
        _ => pack_rest(out, a, width),
    }
}

/// With the width known, a row of `out` is a few vector moves.
#[inline(always)]
fn pack_pieces<const W: usize>(out: &mut [f32], a: Matrix) {
    let full = a.rows / W;
    let (whole, rest) = out.split_at_mut(full * W * a.columns);
    for (i, group) in whole.chunks_mut(GROUP * W * a.columns).enumerate() {
        let data = &a.data[i * GROUP * W * a.row_stride..];
        if a.row_stride == 1 {
            pack_group::<W>(group, data, a.columns, a.column_stride);
        } else {
            for (i, piece) in group.chunks_exact_mut(W * a.columns).enumerate() {
                pack_across::<W>(piece, &data[i * W * a.row_stride..], a);
            }
        }
    }
    if !rest.is_empty() {
        let beyond = Matrix {
            data: &a.data[full * W * a.row_stride..],
            rows: a.rows - full * W,
            ..a
        };
        pack_rest(rest, beyond, W);
    }
}

/// Pieces whose rows lie side by side: term by term through all of them.
#[inline(always)]
fn pack_group<const W: usize>(group: &mut [f32], data: &[f32], columns: usize, stride: usize) {
    let count = group.len() / (W * columns);
    let (group, _) = group.as_chunks_mut::<W>();
    for term in 0..columns {
        let (from, _) = data[term * stride..][..count * W].as_chunks::<W>();
        for (piece, from) in from.iter().enumerate() {
            group[piece * columns + term] = *from;
        }
    }
}

/// A piece whose terms lie side by side.
#[inline(always)]
fn pack_across<const W: usize>(piece: &mut [f32], data: &[f32], a: Matrix) {
    let (piece, _) = piece.as_chunks_mut::<W>();
    if a.column_stride == 1 {
        let rows: [&[f32]; W] =
            std::array::from_fn(|row| &data[row * a.row_stride..][..piece.len()]);
        for (term, out) in piece.iter_mut().enumerate() {
            for (out, row) in out.iter_mut().zip(rows) {
                *out = row[term];
            }
        }
    } else {
        for (term, out) in piece.iter_mut().enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                *out = data[row * a.row_stride + term * a.column_stride];
            }
        }
    }
}

/// Any width; rows beyond the last are zeros.
fn pack_rest(out: &mut [f32], a: Matrix, width: usize) {
    for (i, piece) in out.chunks_mut(width * a.columns).enumerate() {
        let rows = i * width..(i * width + width).min(a.rows);
        for (term, out) in piece.chunks_exact_mut(width).enumerate() {
            let (out, beyond) = out.split_at_mut(rows.len());
            for (row, out) in rows.clone().zip(out) {
                *out = a.data[row * a.row_stride + term * a.column_stride];
            }
            beyond.fill(0.0);
        }
    }
}

/// Columns of a tile.
struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        VECTORS * S::F32_LANES
    }
}

/// One block of rows times all panels.
struct Block<'a> {
    /// `[rows, n]`.
    out: &'a mut [f32],
    strips: &'a [f32],
    panels: &'a [f32],
    depth: usize,
    columns: Range<usize>,
    n: usize,
    start: Start<'a>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = VECTORS * S::F32_LANES;
        let panels = self.panels.chunks_exact(self.depth * width);
        for (panel, column) in panels.zip(self.columns.clone().step_by(width)) {
            let (panel, _) = S::as_simd_f32s(panel);
            let columns = column..(column + width).min(self.columns.end);
            let strips = self.strips.chunks_exact(self.depth * MR);
            for (strip, rows) in strips.zip(self.out.chunks_mut(MR * self.n)) {
                let tile = tile(simd, strip, panel);
                for (sums, row) in tile.iter().zip(rows.chunks_exact_mut(self.n)) {
                    add_to_row(simd, row, columns.clone(), sums, self.start);
                }
            }
        }
    }
}

/// Products of a strip and a panel.
#[inline(always)]
fn tile<S: Simd>(simd: S, strip: &[f32], panel: &[S::f32s]) -> [[S::f32s; VECTORS]; MR] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; MR];
    let (strip, _) = strip.as_chunks::<MR>();
    let (panel, _) = panel.as_chunks::<VECTORS>();
    for (a, b) in strip.iter().zip(panel) {
        for i in 0..MR {
            let a = simd.splat_f32s(a[i]);
            for j in 0..VECTORS {
                sums[i][j] = simd.mul_add_e_f32s(a, b[j], sums[i][j]);
            }
        }
    }
    sums
}

/// Writes one row of a tile.
#[inline(always)]
fn add_to_row<S: Simd>(
    simd: S,
    row: &mut [f32],
    columns: Range<usize>,
    sums: &[S::f32s; VECTORS],
    start: Start,
) {
    let out = &mut row[columns.clone()];
    if out.len() == VECTORS * S::F32_LANES {
        let (out, _) = S::as_mut_simd_f32s(out);
        let sums = sums.iter().copied();
        match start {
            Start::Zero => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum),
            Start::Row(bias) => {
                let (bias, _) = S::as_simd_f32s(&bias[columns]);
                for ((out, sum), &bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out = simd.add_f32s(sum, bias);
                }
            }
            Start::Out => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = simd.add_f32s(sum, *out);
                }
            }
        }
        return;
    }
    let sums: &[f32] = pulp::bytemuck::cast_slice(sums);
    for (i, (out, &sum)) in out.iter_mut().zip(sums).enumerate() {
        *out = sum
            + match start {
                Start::Zero => 0.0,
                Start::Row(bias) => bias[columns.start + i],
                Start::Out => *out,
            };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_and_layout_matches_the_sum() {
        for (m, k, n) in [
            (1, 1, 1),
            (40, 1, 40),
            (7, 5, 17),
            (130, 400, 33),
            (64, 3, 5000),
        ] {
            let fill = |len: usize, step: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * step) % 17) as f32 - 8.0).collect()
            };
            let (a, b, bias) = (fill(m * k, 7), fill(k * n, 5), fill(n, 3));
            let before = fill(m * n, 11);
            let (at, bt) = (transposed(&a, k), transposed(&b, n));
            let exact = |row: usize, column: usize| -> f32 {
                (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum()
            };
            for (a, b) in [
                (Matrix::new(&a, k), Matrix::new(&b, n)),
                (Matrix::new(&at, m).t(), Matrix::new(&bt, k).t()),
            ] {
                for start in [Start::Zero, Start::Row(&bias), Start::Out] {
                    let mut out = before.clone();
                    multiply(&mut out, a, b, start);
                    for (i, &found) in out.iter().enumerate() {
                        let base = match start {
                            Start::Zero => 0.0,
                            Start::Row(bias) => bias[i % n],
                            Start::Out => before[i],
                        };
                        // Small integers: sums are exact in any order.
                        assert_eq!(found, base + exact(i / n, i % n), "{m} {k} {n} at {i}");
                    }
                }
            }
        }
    }

    fn transposed(x: &[f32], columns: usize) -> Vec<f32> {
        let rows = x.len() / columns;
        (0..x.len())
            .map(|i| x[i % rows * columns + i / rows])
            .collect()
    }
}
