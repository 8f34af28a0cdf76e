//! Models that run in this process.
//!
//! A prediction of some microseconds runs where the request is handled: handing
//! it to another thread would cost more than the work. A long one would hold up
//! every other request of that thread, so it goes to a thread of its own, of
//! which there are as many as cores.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::{InferError, Metadata, Model};
use crate::tensor::Tensor;

/// Longest prediction that runs in place.
const IN_PLACE: Duration = Duration::from_micros(500);

/// A model that computes in the thread that calls it.
pub(super) trait Compute: Send + Sync + 'static {
    fn metadata(&self) -> Metadata;
    fn compute(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError>;
}

/// Runs a [`Compute`] without holding up others.
pub(super) struct InProcess<C: ?Sized> {
    /// What one row took lately, in nanoseconds.
    nanoseconds_per_row: AtomicU64,
    places: Arc<Semaphore>,
    model: Arc<C>,
}

impl<C: Compute> InProcess<C> {
    /// `concurrency`: how many predictions the model can make at once; none
    /// means one per core.
    pub(super) fn new(model: C, concurrency: Option<usize>) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            // Until it is known, nothing runs in place.
            nanoseconds_per_row: AtomicU64::new(u64::MAX),
            places: Arc::new(Semaphore::new(concurrency.unwrap_or_else(cores))),
            model: Arc::new(model),
        }
    }

    fn learn(&self, took: Duration, rows: u64) {
        let now = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / rows;
        let before = self.nanoseconds_per_row.load(Ordering::Relaxed);
        let mixed = match before {
            u64::MAX => now,
            _ => before - before / 8 + now / 8,
        };
        self.nanoseconds_per_row.store(mixed, Ordering::Relaxed);
    }
}

/// A panic of the model is this request's failure and nobody else's.
fn guarded(model: &impl Compute, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
    let computing = AssertUnwindSafe(|| model.compute(inputs));
    std::panic::catch_unwind(computing).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|message| (*message).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(InferError::Model(format!("the model panicked: {message}")))
    })
}

fn rows(inputs: &[Tensor]) -> u64 {
    let rows = inputs.first().and_then(|input| input.shape.first());
    rows.map_or(1, |rows| *rows as u64).max(1)
}

#[async_trait]
impl<C: Compute> Model for InProcess<C> {
    fn metadata(&self) -> Metadata {
        self.model.metadata()
    }

    async fn infer(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let rows = rows(&inputs);
        let expected = self
            .nanoseconds_per_row
            .load(Ordering::Relaxed)
            .saturating_mul(rows);
        if u128::from(expected) <= IN_PLACE.as_nanos() {
            let start = Instant::now();
            let result = guarded(&*self.model, inputs);
            // A refused request says nothing of what a prediction takes.
            if result.is_ok() {
                self.learn(start.elapsed(), rows);
            }
            return result;
        }
        let closed = |_| InferError::Unavailable("the server is shutting down".into());
        let place = self.places.clone().acquire_owned().await.map_err(closed)?;
        let model = self.model.clone();
        let work = move || {
            let start = Instant::now();
            let result = guarded(&*model, inputs);
            drop(place);
            (result, start.elapsed())
        };
        let joined = tokio::task::spawn_blocking(work).await;
        let (result, took) = joined.map_err(|error| InferError::Model(error.to_string()))?;
        if result.is_ok() {
            self.learn(took, rows);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;

    /// Panics when it is asked for nothing, else tells in which thread it ran.
    struct Picky(Duration);

    impl Compute for Picky {
        fn metadata(&self) -> Metadata {
            Metadata {
                platform: String::new(),
                inputs: Vec::new(),
                outputs: Vec::new(),
            }
        }

        fn compute(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
            assert!(!inputs.is_empty(), "nothing was asked");
            let start = Instant::now();
            while start.elapsed() < self.0 {
                std::hint::spin_loop();
            }
            let thread = format!("{:?}", std::thread::current().id());
            Ok(vec![Tensor::column(
                "thread",
                Data::Text(vec![Some(thread)]),
            )])
        }
    }

    async fn threads(model: &InProcess<Picky>) -> Vec<bool> {
        let here = format!("{:?}", std::thread::current().id());
        let mut in_place = Vec::new();
        for _ in 0..3 {
            let inputs = vec![Tensor::column("x", Data::I64(vec![1]))];
            let outputs = model.infer(inputs).await.expect("an answer");
            in_place.push(outputs[0].data == Data::Text(vec![Some(here.clone())]));
        }
        in_place
    }

    #[tokio::test]
    async fn short_work_stays_and_long_work_leaves() {
        let short = InProcess::new(Picky(Duration::ZERO), None);
        assert_eq!(threads(&short).await, [false, true, true]);
        let long = InProcess::new(Picky(IN_PLACE * 4), Some(1));
        assert_eq!(threads(&long).await, [false, false, false]);
        let panicked = short.infer(Vec::new()).await;
        let message = InferError::Model("the model panicked: nothing was asked".into());
        assert_eq!(panicked, Err(message));
    }
}
