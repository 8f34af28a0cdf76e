//! Replays of traces of real clusters, to compare policies in one run.

mod bound;
mod dynamic;
mod plot;
mod protocol;
mod run;
mod table;
pub mod trace;

pub use bound::upper_bound;
pub use dynamic::{ClassWait, Discipline, Motion, Options as MotionOptions, simulate};
pub use protocol::{Arrivals, Outcome, Point, replay};
pub use run::{MotionRow, Options, Progress, Report, Row, run};
