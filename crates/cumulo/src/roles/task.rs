//! How a role gets its task and tells its result.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The longest termination message that Kubernetes keeps, in bytes.
pub const MESSAGE_LIMIT: usize = 4096;
/// Where the message goes when the node agent names no place.
const DEFAULT_TERMINATION_LOG: &str = "/dev/termination-log";

/// Reads a task, JSON in an environment variable.
pub fn read<T: DeserializeOwned>(variable: &str) -> Result<T> {
    let text = std::env::var(variable).with_context(|| {
        format!("{variable} is not set: this command is run by Cumulo's pods, not by hand")
    })?;
    serde_json::from_str(&text).with_context(|| format!("{variable} is not understood"))
}

/// A required environment variable.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

/// Leaves a message for the controller; a message that is too long is cut at a character.
fn leave_message(message: &str) {
    let mut end = message.len().min(MESSAGE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let path = std::env::var("CUMULO_TERMINATION_LOG")
        .unwrap_or_else(|_| DEFAULT_TERMINATION_LOG.to_owned());
    if let Err(error) = std::fs::write(&path, &message[..end]) {
        eprintln!("cannot write the result to {path}: {error}");
    }
}

/// Why a role failed: a word for the condition's reason, and a sentence.
#[derive(Debug)]
pub struct Failure {
    reason: &'static str,
    message: String,
    /// What a controller reads besides.
    detail: serde_json::Map<String, Value>,
}

impl Failure {
    /// A failure with a reason of its own.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            detail: serde_json::Map::new(),
        }
    }

    /// Adds something for the controller; all of it has to be well below
    /// [`MESSAGE_LIMIT`], as the sentence gets what is left.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.detail.insert(key.to_owned(), value);
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new("Failed", format!("{error:#}"))
    }
}

/// Ends a role: its result becomes the message, its failure a reason and a sentence.
pub fn finish(result: std::result::Result<String, Failure>) -> ExitCode {
    match result {
        Ok(message) => {
            leave_message(&message);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            leave_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// Leaves a failure as JSON, its sentence shortened until it fits.
fn leave_failure(failure: &Failure) {
    let mut sentence: String = failure.message.chars().take(MESSAGE_LIMIT / 2).collect();
    loop {
        let mut told = json!({"reason": failure.reason, "message": sentence});
        for (key, value) in &failure.detail {
            told[key] = value.clone();
        }
        let text = told.to_string();
        if text.len() <= MESSAGE_LIMIT || sentence.is_empty() {
            return leave_message(&text);
        }
        sentence = sentence
            .chars()
            .take(sentence.chars().count() / 2)
            .collect();
    }
}

/// A runtime for a role: its work is its own threads, the runtime only waits.
pub fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

/// Logs of roles go to standard error, short.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CUMULO_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .try_init();
}
