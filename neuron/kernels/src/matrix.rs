//! Products of matrices with rows of activations, shared out over the threads.

use crate::{
    Pool,
    acts::Acts,
    cpu::Level,
    dense::{self, DenseMatrix},
    quant::{self, QuantMatrix},
    shared::Shared,
};

/// Bytes of a matrix that a task takes from memory at least: less, and sharing out costs more than it brings.
const TASK_BYTES: usize = 16 << 10;
/// Tasks for each thread, so that a thread that is put aside holds nobody up for long.
const TASKS_A_THREAD: usize = 8;
/// Bytes of activations that are gone over again and again while panels pass: they have to stay in the cache.
const TILE_BYTES: usize = 192 << 10;

/// A matrix of either kind, `[rows, columns]`.
#[derive(Debug)]
pub enum Matrix {
    Quant(QuantMatrix),
    Dense(DenseMatrix),
}

impl Matrix {
    pub fn rows(&self) -> usize {
        match self {
            Self::Quant(matrix) => matrix.rows(),
            Self::Dense(matrix) => matrix.rows(),
        }
    }

    pub fn columns(&self) -> usize {
        match self {
            Self::Quant(matrix) => matrix.columns(),
            Self::Dense(matrix) => matrix.columns(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Quant(matrix) => matrix.bytes(),
            Self::Dense(matrix) => matrix.bytes(),
        }
    }

    /// Whether what it is multiplied with is rounded to eight bits.
    pub fn rounds_input(&self) -> bool {
        matches!(self, Self::Quant(_))
    }

    /// A row as floats: `[columns]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Quant(matrix) => matrix.row(row, out),
            Self::Dense(matrix) => matrix.row(row, out),
        }
    }

    fn panel_rows(&self) -> usize {
        match self {
            Self::Quant(_) => quant::PANEL,
            Self::Dense(_) => dense::LANES,
        }
    }
}

/// Rows of activations, `[rows, columns]`, in the forms that matrices want.
#[derive(Debug, Default)]
pub struct Input {
    rows: usize,
    columns: usize,
    floats: Vec<f32>,
    acts: Acts,
    quantized: bool,
}

impl Input {
    /// Makes room for `rows` of `columns` and returns it to be written to; call [`Input::ready`] then.
    pub fn start(&mut self, rows: usize, columns: usize) -> &mut [f32] {
        (self.rows, self.columns, self.quantized) = (rows, columns, false);
        self.floats.resize(rows * columns, 0.0);
        &mut self.floats[..rows * columns]
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// All rows as they are, to be changed; call [`Input::ready`] then.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        self.quantized = false;
        &mut self.floats[..self.rows * self.columns]
    }

    /// A row's floats.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.floats[row * self.columns..(row + 1) * self.columns]
    }

    /// Quantises, where one of `matrices` wants it.
    pub fn ready<'a>(&mut self, pool: &mut Pool, matrices: impl IntoIterator<Item = &'a Matrix>) {
        if self.quantized || !matrices.into_iter().any(|m| matches!(m, Matrix::Quant(_))) {
            return;
        }
        self.quantized = true;
        let tasks = tasks_for(pool, self.rows, self.rows * self.columns * 4);
        self.acts.fill(pool, tasks, &self.floats, self.rows, self.columns);
    }
}

/// One matrix, what it is multiplied with, and where the products go.
pub struct Product<'a> {
    pub matrix: &'a Matrix,
    pub input: &'a Input,
    /// `[input.rows, matrix.rows]`
    pub out: &'a mut [f32],
    /// Add to what is there.
    pub add: bool,
    /// Added to each row of products: `[matrix.rows]`
    pub bias: Option<&'a [f32]>,
    /// Done to the products after that, element by element, before they are put anywhere.
    pub then: Option<fn(&mut [f32])>,
}

impl<'a> Product<'a> {
    /// out = input * matrix
    pub fn new(matrix: &'a Matrix, input: &'a Input, out: &'a mut [f32]) -> Self {
        Self { matrix, input, out, add: false, bias: None, then: None }
    }

    /// out += input * matrix
    pub fn adding(matrix: &'a Matrix, input: &'a Input, out: &'a mut [f32]) -> Self {
        Self { add: true, ..Self::new(matrix, input, out) }
    }
}

/// How many tasks `items` are worth that go over `bytes` in all.
pub(crate) fn tasks_for(pool: &Pool, items: usize, bytes: usize) -> usize {
    let worth = (bytes / TASK_BYTES).max(1);
    worth.min(pool.threads() * TASKS_A_THREAD).min(items)
}

/// Calls `with(row, its floats)` for every row of `width`, on any thread.
pub fn each_row(pool: &mut Pool, data: &mut [f32], width: usize, with: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = data.len() / width;
    let each = rows.div_ceil(tasks_for(pool, rows, data.len() * 8).max(1)).max(1);
    let data = Shared::new(data);
    pool.run(rows.div_ceil(each), |task| {
        for row in task * each..((task + 1) * each).min(rows) {
            // SAFETY: each row belongs to one task.
            with(row, unsafe { data.slice(row * width, width) });
        }
    });
}

struct Part<'a> {
    matrix: &'a Matrix,
    input: &'a Input,
    out: Shared<'a, f32>,
    add: bool,
    bias: Option<&'a [f32]>,
    then: Option<fn(&mut [f32])>,
    first_task: usize,
    panels: usize,
    panels_a_task: usize,
}

/// All the products, in one region.
///
/// Panics where a length does not fit, or where an input was not made ready for its matrix.
pub fn multiply(pool: &mut Pool, products: &mut [Product<'_>]) {
    multiply_at(Level::best(), pool, products);
}

pub(crate) fn multiply_at(level: Level, pool: &mut Pool, products: &mut [Product<'_>]) {
    let mut tasks = 0;
    let mut parts = Vec::with_capacity(products.len());
    for Product { matrix, input, out, add, bias, then } in products {
        assert_eq!(matrix.columns(), input.columns, "columns of {matrix:?} and its input");
        assert_eq!(out.len(), input.rows * matrix.rows(), "the products of {matrix:?}");
        assert!(input.quantized || matches!(matrix, Matrix::Dense(_)), "{matrix:?} wants quantised input");
        assert!(bias.is_none_or(|bias| bias.len() == matrix.rows()), "the bias of {matrix:?}");
        if input.rows == 0 {
            continue;
        }
        let panels = matrix.rows().div_ceil(matrix.panel_rows());
        let wanted = tasks_for(pool, panels, matrix.bytes() * input.rows);
        let panels_a_task = panels.div_ceil(wanted.max(1));
        let out = Shared::new(out);
        parts.push(Part {
            matrix,
            input,
            out,
            add: *add,
            bias: *bias,
            then: *then,
            first_task: tasks,
            panels,
            panels_a_task,
        });
        tasks += panels.div_ceil(panels_a_task);
    }
    pool.run(tasks, |task| {
        let at = parts.partition_point(|part| part.first_task <= task) - 1;
        let part = &parts[at];
        let from = (task - part.first_task) * part.panels_a_task;
        part.run(level, from..(from + part.panels_a_task).min(part.panels));
    });
}

impl Part<'_> {
    fn run(&self, level: Level, panels: std::ops::Range<usize>) {
        let rows = self.input.rows;
        let row_bytes = match self.matrix {
            Matrix::Quant(_) => self.input.columns * 2,
            Matrix::Dense(_) => self.input.columns * 4,
        };
        let is_quant = matches!(self.matrix, Matrix::Quant(_));
        let most = if is_quant { quant::MOST } else { dense::rows_a_pass(level) };
        let tile = (TILE_BYTES / row_bytes.max(1)).max(1).next_multiple_of(most);
        for from in (0..rows).step_by(tile) {
            let to = (from + tile).min(rows);
            let mut panel = panels.start;
            while panel < panels.end {
                let mut x = from;
                let has_next = panel + 1 < panels.end;
                while has_next && x + dense::MOST <= to && self.pair(level, panel, x) {
                    x += dense::MOST;
                }
                for panel in panel..panels.end.min(panel + 2) {
                    for x in (x..to).step_by(most) {
                        self.block(level, panel, x..(x + most).min(to));
                    }
                }
                panel += 2;
            }
        }
    }

    /// Two panels times many rows of activations; `false`: they are done one by one.
    fn pair(&self, level: Level, panel: usize, x: usize) -> bool {
        let Matrix::Dense(matrix) = self.matrix else { return false };
        let rows: [_; dense::MOST] = std::array::from_fn(|n| self.input.row(x + n));
        let mut out = [[[0.0; dense::LANES]; dense::MOST]; 2];
        if !matrix.pair_times(level, panel, &rows, &mut out) {
            return false;
        }
        for (panel, out) in (panel..).zip(&mut out) {
            self.put(panel, x, out);
        }
        true
    }

    /// One panel times a few rows of activations.
    fn block(&self, level: Level, panel: usize, x: std::ops::Range<usize>) {
        match self.matrix {
            Matrix::Quant(matrix) => {
                let rows: [_; quant::MOST] =
                    std::array::from_fn(|n| self.input.acts.row((x.start + n).min(x.end - 1)));
                let mut out = [[0.0; quant::PANEL]; quant::MOST];
                matrix.panel_times(level, panel, &rows[..x.len()], &mut out);
                self.put(panel, x.start, &mut out[..x.len()]);
            }
            Matrix::Dense(matrix) => {
                let rows: [_; dense::MOST] =
                    std::array::from_fn(|n| self.input.row((x.start + n).min(x.end - 1)));
                let mut out = [[0.0; dense::LANES]; dense::MOST];
                matrix.panel_times(level, panel, &rows[..x.len()], &mut out);
                self.put(panel, x.start, &mut out[..x.len()]);
            }
        }
    }

    /// Products of a panel with the rows of activations from `first` on.
    fn put<const N: usize>(&self, panel: usize, first: usize, products: &mut [[f32; N]]) {
        let (all, from) = (self.matrix.rows(), panel * N);
        let len = N.min(all - from);
        if let Some(bias) = self.bias {
            let bias = &bias[from..from + len];
            for products in &mut *products {
                products.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
            }
        }
        if let Some(then) = self.then {
            then(products.as_flattened_mut());
        }
        for (row, products) in (first..).zip(products) {
            // SAFETY: a panel's rows are written by one task alone.
            let out = unsafe { self.out.slice(row * all + from, len) };
            // Nearly every panel is whole, and of a length that is known here.
            match <&mut [f32; N]>::try_from(&mut *out) {
                Ok(out) if self.add => {
                    out.iter_mut().zip(products).for_each(|(out, product)| *out += *product)
                }
                Ok(out) => *out = *products,
                Err(_) if self.add => {
                    out.iter_mut().zip(products).for_each(|(out, product)| *out += *product)
                }
                Err(_) => out.copy_from_slice(&products[..len]),
            }
        }
    }
}

#[cfg(test)]
mod tests;
