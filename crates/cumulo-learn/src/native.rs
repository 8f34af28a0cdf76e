//! LightGBM's library: embedded in the program as the `lightgbm` Python package
//! ships it, loaded when the first model is trained. Compiling it takes five
//! minutes of processor time and needs CMake and libclang.

#![expect(
    unsafe_code,
    reason = "LightGBM is a C library; its functions have the types of its header c_api.h"
)]

use std::ffi::{c_char, c_double, c_int, c_void};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use libloading::Library;
use nix::sys::memfd::{MFdFlags, memfd_create};

pub(crate) type DatasetHandle = *mut c_void;
pub(crate) type BoosterHandle = *mut c_void;

/// The element types of LightGBM's arrays.
pub(crate) const C_API_DTYPE_FLOAT32: c_int = 0;
pub(crate) const C_API_DTYPE_FLOAT64: c_int = 1;
#[cfg(test)]
pub(crate) const C_API_PREDICT_NORMAL: c_int = 0;

static EMBEDDED: &[u8] = include_bytes!(env!("LIGHTGBM_LIBRARY"));

/// Declares the functions that are used and looks them all up when loading.
macro_rules! functions {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        /// The functions of LightGBM's C API (`include/LightGBM/c_api.h`) that are used here.
        #[expect(non_snake_case, reason = "the names of the C API")]
        pub(crate) struct LightGbm {
            $($(#[$attribute])* pub(crate) $name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
            /// Keeps the functions mapped.
            _library: Library,
        }

        impl LightGbm {
            fn resolve(library: Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of the header of the embedded
                // version, and the library lives as long as the pointers.
                unsafe {
                    Ok(Self {
                        $($(#[$attribute])* $name: *library.get(concat!(stringify!($name), "\0").as_bytes())?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}

functions! {
    fn LGBM_GetLastError() -> *const c_char;
    fn LGBM_DatasetCreateFromMat(data: *const c_void, data_type: c_int, rows: i32, columns: i32, row_major: c_int, parameters: *const c_char, reference: DatasetHandle, out: *mut DatasetHandle) -> c_int;
    fn LGBM_DatasetSetField(dataset: DatasetHandle, field: *const c_char, data: *const c_void, elements: c_int, data_type: c_int) -> c_int;
    fn LGBM_DatasetSetFeatureNames(dataset: DatasetHandle, names: *mut *const c_char, count: c_int) -> c_int;
    fn LGBM_DatasetFree(dataset: DatasetHandle) -> c_int;
    fn LGBM_BoosterCreate(training: DatasetHandle, parameters: *const c_char, out: *mut BoosterHandle) -> c_int;
    fn LGBM_BoosterAddValidData(booster: BoosterHandle, validation: DatasetHandle) -> c_int;
    fn LGBM_BoosterUpdateOneIter(booster: BoosterHandle, finished: *mut c_int) -> c_int;
    fn LGBM_BoosterGetEvalCounts(booster: BoosterHandle, count: *mut c_int) -> c_int;
    fn LGBM_BoosterGetEval(booster: BoosterHandle, data_set: c_int, written: *mut c_int, values: *mut c_double) -> c_int;
    fn LGBM_BoosterSaveModelToString(booster: BoosterHandle, first_round: c_int, rounds: c_int, importance: c_int, capacity: i64, needed: *mut i64, text: *mut c_char) -> c_int;
    #[cfg(test)]
    fn LGBM_BoosterPredictForMat(booster: BoosterHandle, data: *const c_void, data_type: c_int, rows: i32, columns: i32, row_major: c_int, kind: c_int, first_round: c_int, rounds: c_int, parameters: *const c_char, written: *mut i64, values: *mut c_double) -> c_int;
    fn LGBM_BoosterFree(booster: BoosterHandle) -> c_int;
}

/// The library, loaded once.
///
/// # Errors
///
/// A sentence when the system has no room for it or lacks what it links
/// (libgomp and libstdc++).
pub(crate) fn lightgbm() -> Result<&'static LightGbm, String> {
    static LIBRARY: OnceLock<Result<LightGbm, String>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| load().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(Clone::clone)
}

fn load() -> Result<LightGbm, Box<dyn std::error::Error>> {
    // A file in memory: nothing is left on a disk, and no disk need allow execution.
    let file = memfd_create(c"lib_lightgbm.so", MFdFlags::MFD_CLOEXEC)?;
    let mut rest = EMBEDDED;
    while !rest.is_empty() {
        rest = &rest[nix::unistd::write(&file, rest)?..];
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the library's initialisers are those of the stock package, which
    // Python programs load in the same way.
    let library = unsafe { Library::new(path) }?;
    Ok(LightGbm::resolve(library)?)
}
