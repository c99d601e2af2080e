//! Products of dense matrices by cuBLAS, where it is installed.

use std::{cell::Cell, ffi::c_void, panic::catch_unwind};

use cudarc::{
    cublas::{result, sys},
    driver,
};
use neuron_kernels::dense::Float;

use crate::{Error, ErrorKind, driver::Product};

/// Bytes that it works with: what it would allocate by itself cannot be noted in a graph.
const WORKSPACE: usize = 32 << 20;

pub(super) struct Blas {
    handle: sys::cublasHandle_t,
    workspace: u64,
    /// It has said that it does not know this device.
    unsuited: Cell<bool>,
}

/// The library is of another time than the device: our own kernels can do it.
const UNSUITED: [sys::cublasStatus_t; 2] =
    [sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED, sys::cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH];

impl Blas {
    /// `None`: it is not installed, or does not start.
    pub(super) fn new(stream: driver::sys::CUstream) -> Option<Self> {
        // SAFETY: it only tries to open the library, and cudarc panics where a function is missing in it.
        let present = catch_unwind(|| unsafe { sys::is_culib_present() }).unwrap_or(false);
        if !present {
            return None;
        }
        let handle = result::create_handle().ok()?;
        // SAFETY: memory that nothing else has; both live as long as the handle.
        let set_up = unsafe {
            let workspace = driver::result::malloc_sync(WORKSPACE);
            let set = result::set_stream(handle, stream.cast());
            workspace.ok().filter(|_| set.is_ok()).filter(|workspace| {
                sys::cublasSetWorkspace_v2(handle, *workspace as *mut c_void, WORKSPACE).result().is_ok()
            })
        };
        let Some(workspace) = set_up else {
            // SAFETY: it was just made.
            unsafe { result::destroy_handle(handle) }.ok();
            return None;
        };
        Some(Self { handle, workspace, unsuited: Cell::new(false) }).filter(Self::works)
    }

    /// One product, waited for, before any is relied on.
    fn works(&self) -> bool {
        // SAFETY: memory that nothing else has, large enough for three matrices of 16 x 16.
        let Ok(memory) = (unsafe { driver::result::malloc_sync(4096) }) else { return false };
        let product = Product {
            w: memory,
            x: memory + 512,
            out: memory + 1024,
            tokens: 16,
            rows: 16,
            columns: 16,
            out_stride: 16,
            float: Float::BF16,
        };
        let multiplied = self.multiply(&product).is_ok_and(|done| done);
        let waited = driver::result::ctx::synchronize().is_ok();
        // SAFETY: nothing uses it any more.
        unsafe { driver::result::free_sync(memory) }.ok();
        multiplied && waited
    }

    /// `false`: it cannot, on this device.
    pub(super) fn multiply(&self, product: &Product) -> Result<bool, Error> {
        if self.unsuited.get() {
            return Ok(false);
        }
        use sys::{cublasComputeType_t as Compute, cublasOperation_t as Operation, cudaDataType_t as Type};
        let kind = match product.float {
            Float::F32 => Type::CUDA_R_32F,
            Float::F16 => Type::CUDA_R_16F,
            Float::BF16 => Type::CUDA_R_16BF,
        };
        let size = |n: usize| {
            i32::try_from(n).map_err(|_| Error::new(ErrorKind::Failed, format!("{n} is too much for cuBLAS")))
        };
        let (rows, tokens, columns) = (size(product.rows)?, size(product.tokens)?, size(product.columns)?);
        let stride = size(product.out_stride)?;
        let (one, zero) = (1.0f32, 0.0f32);
        // It thinks in columns: out, transposed, is w times x transposed.
        // SAFETY: `ops` has checked that the matrices are there in full.
        unsafe {
            result::gemm_ex(
                self.handle,
                Operation::CUBLAS_OP_T,
                Operation::CUBLAS_OP_N,
                rows,
                tokens,
                columns,
                (&raw const one).cast(),
                product.w as *const c_void,
                kind,
                columns,
                product.x as *const c_void,
                kind,
                columns,
                (&raw const zero).cast(),
                product.out as *mut c_void,
                Type::CUDA_R_32F,
                stride,
                Compute::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map(|()| true)
        .or_else(|error| match UNSUITED.contains(&error.0) {
            true => {
                self.unsuited.set(true);
                Ok(false)
            }
            // Whether the device is lost is asked after each failure.
            false => Err(Error::new(ErrorKind::Failed, format!("cuBLAS: {error:?}"))),
        })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: nothing uses them any more.
        unsafe {
            result::destroy_handle(self.handle).ok();
            driver::result::free_sync(self.workspace).ok();
        }
    }
}
