//! A safe and small wrapper of LightGBM's C API: data sets with categories,
//! one boosting round at a time, the metric of the validation set, the model as
//! text. Training only; prediction is in [`crate::trees`].

#![expect(
    unsafe_code,
    reason = "LightGBM is a C library; every call passes live handles and buffers of the length it is told"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

use crate::native::{self, LightGbm, lightgbm};

/// What LightGBM refused, in its own words.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("LightGBM could not {action}: {message}")]
pub(crate) struct BoosterError {
    action: &'static str,
    message: String,
}

impl BoosterError {
    fn new(action: &'static str, message: impl Into<String>) -> Self {
        Self {
            action,
            message: message.into(),
        }
    }
}

fn library(action: &'static str) -> Result<&'static LightGbm, BoosterError> {
    lightgbm().map_err(|message| BoosterError::new(action, message))
}

fn check(library: &LightGbm, action: &'static str, code: c_int) -> Result<(), BoosterError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: LightGBM returns a pointer to a NUL-terminated string that lives
    // as long as the thread and is not written before its next call.
    let message = unsafe { CStr::from_ptr((library.LGBM_GetLastError)()) };
    Err(BoosterError::new(
        action,
        message.to_string_lossy().into_owned(),
    ))
}

fn c_string(action: &'static str, text: &str) -> Result<CString, BoosterError> {
    CString::new(text).map_err(|_| BoosterError::new(action, "a text contains a NUL character"))
}

/// A row-major matrix of features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f64],
    pub(crate) columns: usize,
}

impl Matrix<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    /// Rows and columns as LightGBM counts them.
    fn shape(&self, action: &'static str) -> Result<(i32, i32), BoosterError> {
        if self.columns == 0 || self.values.is_empty() {
            return Err(BoosterError::new(
                action,
                "there are no rows or no features",
            ));
        }
        if !self.values.len().is_multiple_of(self.columns) {
            return Err(BoosterError::new(action, "the matrix is not rectangular"));
        }
        match (i32::try_from(self.rows()), i32::try_from(self.columns)) {
            (Ok(rows), Ok(columns)) => Ok((rows, columns)),
            _ => Err(BoosterError::new(
                action,
                "there are more than 2,147,483,647 rows or features",
            )),
        }
    }
}

/// Binned features with their labels.
pub(crate) struct Dataset {
    library: &'static LightGbm,
    handle: native::DatasetHandle,
}

impl Dataset {
    /// Bins `matrix`; with a `reference` its bins are used, so that a validation
    /// set agrees with its training set.
    pub(crate) fn new(
        matrix: Matrix<'_>,
        labels: &[f32],
        parameters: &str,
        reference: Option<&Dataset>,
    ) -> Result<Self, BoosterError> {
        const ACTION: &str = "make a data set";
        let (rows, columns) = matrix.shape(ACTION)?;
        if labels.len() != matrix.rows() {
            return Err(BoosterError::new(
                ACTION,
                "rows and labels differ in number",
            ));
        }
        let parameters = c_string(ACTION, parameters)?;
        let library = library(ACTION)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the matrix holds rows × columns doubles (checked above) and is
        // only read during the call; the reference is a live data set or null.
        check(library, ACTION, unsafe {
            (library.LGBM_DatasetCreateFromMat)(
                matrix.values.as_ptr().cast::<c_void>(),
                native::C_API_DTYPE_FLOAT64,
                rows,
                columns,
                1,
                parameters.as_ptr(),
                reference.map_or(ptr::null_mut(), |dataset| dataset.handle),
                &mut handle,
            )
        })?;
        let dataset = Self { library, handle };
        // SAFETY: `labels` holds `rows` floats, copied during the call.
        check(library, ACTION, unsafe {
            (library.LGBM_DatasetSetField)(
                dataset.handle,
                c"label".as_ptr(),
                labels.as_ptr().cast::<c_void>(),
                rows,
                native::C_API_DTYPE_FLOAT32,
            )
        })?;
        Ok(dataset)
    }

    /// Names the features in the model's text.
    pub(crate) fn name_features(&mut self, names: &[String]) -> Result<(), BoosterError> {
        const ACTION: &str = "name the features";
        let names = names
            .iter()
            .map(|name| c_string(ACTION, name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let count = i32::try_from(pointers.len())
            .map_err(|_| BoosterError::new(ACTION, "there are too many features"))?;
        // SAFETY: `pointers` holds `count` pointers to NUL-terminated strings
        // that outlive the call; LightGBM checks the count and copies them.
        check(self.library, ACTION, unsafe {
            (self.library.LGBM_DatasetSetFeatureNames)(self.handle, pointers.as_mut_ptr(), count)
        })
    }
}

impl Drop for Dataset {
    fn drop(&mut self) {
        // SAFETY: the handle is live and freed once; no booster outlives it
        // because `Booster` borrows the data set.
        unsafe {
            (self.library.LGBM_DatasetFree)(self.handle);
        }
    }
}

/// Whether another round can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Grown,
    /// No leaf can be split any more.
    Finished,
}

/// A model in training. It borrows its data sets, which LightGBM reads in every round.
pub(crate) struct Booster<'data> {
    library: &'static LightGbm,
    handle: native::BoosterHandle,
    data: PhantomData<&'data Dataset>,
}

impl<'data> Booster<'data> {
    pub(crate) fn new(training: &'data Dataset, parameters: &str) -> Result<Self, BoosterError> {
        const ACTION: &str = "start training";
        let parameters = c_string(ACTION, parameters)?;
        let library = library(ACTION)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the data set is live and outlives the booster ('data).
        check(library, ACTION, unsafe {
            (library.LGBM_BoosterCreate)(training.handle, parameters.as_ptr(), &mut handle)
        })?;
        Ok(Self {
            library,
            handle,
            data: PhantomData,
        })
    }

    pub(crate) fn add_validation(
        &mut self,
        validation: &'data Dataset,
    ) -> Result<(), BoosterError> {
        // SAFETY: both handles are live; the data set outlives the booster ('data).
        check(self.library, "add validation rows", unsafe {
            (self.library.LGBM_BoosterAddValidData)(self.handle, validation.handle)
        })
    }

    /// Adds one round of trees.
    pub(crate) fn update(&mut self) -> Result<Round, BoosterError> {
        let mut finished = 0;
        // SAFETY: the handle and its data sets are live.
        check(self.library, "train a round", unsafe {
            (self.library.LGBM_BoosterUpdateOneIter)(self.handle, &mut finished)
        })?;
        Ok(if finished == 0 {
            Round::Grown
        } else {
            Round::Finished
        })
    }

    /// The metric on the first validation set after the rounds so far.
    pub(crate) fn validation_metric(&self) -> Result<f64, BoosterError> {
        const ACTION: &str = "evaluate the validation rows";
        let mut count = 0;
        // SAFETY: the handle is live.
        check(self.library, ACTION, unsafe {
            (self.library.LGBM_BoosterGetEvalCounts)(self.handle, &mut count)
        })?;
        let mut values = vec![0.0; usize::try_from(count).unwrap_or(0).max(1)];
        let mut written = 0;
        // SAFETY: `values` has room for as many metrics as LightGBM said there are.
        check(self.library, ACTION, unsafe {
            (self.library.LGBM_BoosterGetEval)(self.handle, 1, &mut written, values.as_mut_ptr())
        })?;
        if written < 1 {
            return Err(BoosterError::new(ACTION, "no metric is configured"));
        }
        Ok(values[0])
    }

    /// The model's text with its first `rounds` rounds (all when `None`).
    pub(crate) fn save(&self, rounds: Option<usize>) -> Result<String, BoosterError> {
        const ACTION: &str = "write the model";
        let rounds = match rounds {
            Some(rounds) => i32::try_from(rounds.max(1))
                .map_err(|_| BoosterError::new(ACTION, "there are too many rounds"))?,
            None => -1,
        };
        let mut needed = 0i64;
        // SAFETY: with a length of 0 LightGBM writes nothing and returns the length needed.
        check(self.library, ACTION, unsafe {
            (self.library.LGBM_BoosterSaveModelToString)(
                self.handle,
                0,
                rounds,
                0,
                0,
                &mut needed,
                ptr::null_mut(),
            )
        })?;
        let mut buffer = vec![0u8; usize::try_from(needed).unwrap_or(0)];
        // SAFETY: the buffer has the length passed.
        check(self.library, ACTION, unsafe {
            (self.library.LGBM_BoosterSaveModelToString)(
                self.handle,
                0,
                rounds,
                0,
                needed,
                &mut needed,
                buffer.as_mut_ptr().cast::<c_char>(),
            )
        })?;
        while buffer.last() == Some(&0) {
            buffer.pop();
        }
        String::from_utf8(buffer).map_err(|_| BoosterError::new(ACTION, "its text is not UTF-8"))
    }

    /// Predicts with LightGBM itself, to hold our own evaluation of trees against it.
    #[cfg(test)]
    pub(crate) fn predict(
        &self,
        matrix: Matrix<'_>,
        classes: usize,
    ) -> Result<Vec<f64>, BoosterError> {
        const ACTION: &str = "predict";
        let (rows, columns) = matrix.shape(ACTION)?;
        let mut out = vec![0.0; matrix.rows() * classes];
        let mut written = 0i64;
        // SAFETY: the matrix holds rows × columns doubles and `out` has room for
        // one number per row and class.
        check(self.library, ACTION, unsafe {
            (self.library.LGBM_BoosterPredictForMat)(
                self.handle,
                matrix.values.as_ptr().cast::<c_void>(),
                native::C_API_DTYPE_FLOAT64,
                rows,
                columns,
                1,
                native::C_API_PREDICT_NORMAL,
                0,
                -1,
                c"".as_ptr(),
                &mut written,
                out.as_mut_ptr(),
            )
        })?;
        assert_eq!(written as usize, out.len());
        Ok(out)
    }
}

impl Drop for Booster<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and freed once.
        unsafe {
            (self.library.LGBM_BoosterFree)(self.handle);
        }
    }
}
