//! What can be set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What runs the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeChoice {
    /// Chosen by the model's flavors.
    #[default]
    Auto,
    /// ONNX Runtime where it is installed, RTen otherwise.
    Onnx,
    /// Gradient-boosted trees, in process.
    Lightgbm,
    /// A Python worker that loads any MLflow pyfunc.
    Python,
}

impl std::str::FromStr for RuntimeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "onnx" => Ok(Self::Onnx),
            "lightgbm" => Ok(Self::Lightgbm),
            "python" => Ok(Self::Python),
            _ => Err(format!(
                "`{text}` is no runtime; choose auto, onnx, lightgbm or python"
            )),
        }
    }
}

/// What is served, where, and within which limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// The model's name in the protocol.
    pub name: String,
    /// The model's version, as `model_version` in answers.
    pub version: Option<String>,
    /// A folder with an `MLmodel` file, or an `.onnx` file, or a folder with one.
    pub model: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What runs the model.
    pub runtime: RuntimeChoice,
    /// The command that runs Python with what the model requires. `{model}` is
    /// replaced by the model's folder; the worker's script is appended.
    pub python_command: Vec<String>,
    /// `libonnxruntime.so`; else `CUMULO_ONNXRUNTIME` and `ORT_DYLIB_PATH` are asked.
    pub onnxruntime: Option<PathBuf>,
    /// Threads that one prediction may use; 0 means all cores.
    pub threads: usize,
    /// Largest request body in bytes; a larger one is answered 413.
    pub body_limit: u64,
    /// Requests that may wait for the Python worker.
    pub queue_limit: usize,
    /// How long one prediction may take, in seconds.
    pub predict_seconds: u64,
    /// How long a Python worker may take to load the model, in seconds; its
    /// environment may have to be made first.
    pub start_seconds: u64,
    /// How long the server still takes requests after it was told to stop, in
    /// milliseconds, for those who do not know yet.
    pub drain_milliseconds: u64,
    /// How long requests that have begun may take to finish, in seconds.
    pub grace_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "model".into(),
            version: None,
            model: PathBuf::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            runtime: RuntimeChoice::Auto,
            python_command: vec!["python3".into()],
            onnxruntime: None,
            threads: 0,
            body_limit: 32 << 20,
            queue_limit: 256,
            predict_seconds: 60,
            start_seconds: 600,
            drain_milliseconds: 1_000,
            grace_seconds: 25,
        }
    }
}

impl Options {
    pub(crate) fn predict(&self) -> Duration {
        Duration::from_secs(self.predict_seconds)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_milliseconds)
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}
