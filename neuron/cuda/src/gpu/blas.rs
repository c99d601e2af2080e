//! Products of dense matrices by cuBLAS, where it is installed.

use std::{ffi::c_void, panic::catch_unwind};

use cudarc::{
    cublas::{result, sys},
    driver,
};
use neuron_kernels::dense::Float;

use super::failed;
use crate::{Error, ErrorKind, driver::Product};

/// Bytes that it works with: what it would allocate by itself cannot be noted in a graph.
const WORKSPACE: usize = 32 << 20;

pub(super) struct Blas {
    handle: sys::cublasHandle_t,
    workspace: u64,
}

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
        Some(Self { handle, workspace })
    }

    pub(super) fn multiply(&self, product: &Product) -> Result<(), Error> {
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
        .map_err(|e| {
            // What the device itself says tells whether it is lost.
            match driver::result::ctx::synchronize() {
                Err(error) => failed("cuBLAS", error),
                Ok(()) => Error::new(ErrorKind::Failed, format!("cuBLAS: {e:?}")),
            }
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
