//! Searches that go through all pages.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Client, Error, Result, quote};
use crate::wire::{Experiment, ModelVersion};

/// Pages that one search asks for at most; more is a mistake on the other side.
const MOST_PAGES: usize = 1000;

impl Client {
    /// The active experiments.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn experiments(&self) -> Result<Vec<Experiment>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            experiments: Vec<Experiment>,
            #[serde(default)]
            next_page_token: Option<String>,
        }
        let path = "mlflow/experiments/search";
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let body = json!({"max_results": 1000, "page_token": token});
            let page: Page = self.transport.send(Method::POST, path, &body).await?;
            all.extend(page.experiments);
            token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(all);
            }
        }
        Err(endless(path))
    }

    /// The versions of a registered model, oldest first; none when it is missing.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn model_versions(&self, name: &str) -> Result<Vec<ModelVersion>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            model_versions: Vec<ModelVersion>,
            #[serde(default)]
            next_page_token: Option<String>,
        }
        let path = "mlflow/model-versions/search";
        let filter = format!("name = {}", quote(name));
        let mut all = Vec::new();
        let mut token = String::new();
        for _ in 0..MOST_PAGES {
            let mut query = vec![("filter", filter.as_str()), ("max_results", "1000")];
            if !token.is_empty() {
                query.push(("page_token", &token));
            }
            let page: Page = self.transport.get(path, &query).await?;
            all.extend(page.model_versions);
            token = page.next_page_token.unwrap_or_default();
            if token.is_empty() {
                all.sort_by_key(|version| version.version.parse::<u64>().unwrap_or(0));
                return Ok(all);
            }
        }
        Err(endless(path))
    }
}

fn endless(path: &str) -> Error {
    Error::Answer {
        what: path.to_owned(),
        reason: format!("it has more than {MOST_PAGES} pages"),
    }
}
