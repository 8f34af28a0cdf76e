//! How the pods of one TrainJob find each other. The first says in a tag of the
//! tracked run where it listens; the others wait for that. So it works wherever
//! tracking is reached, without names of pods or a Service.

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use cumulo_track::client::Client;
use serde::Deserialize;

use super::task;

/// On runs: `ATTEMPT@ADDRESS:PORT`.
const TAG: &str = "cumulo.rendezvous";
/// How often the others look for it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After so many looks it is said that they wait.
const LOOKS_BEFORE_WORD: u32 = 20;

/// Where a pod stands among those that run together.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Together {
    /// How many they are.
    pub nodes: u32,
    /// Which one this is, from 0.
    pub rank: u32,
    /// Addresses of earlier attempts count no more.
    pub attempt: u32,
}

impl Together {
    /// The variables by which launchers and frameworks find each other
    /// (`torch.distributed`'s and, with `PET_`, `torchrun`'s), with one process in each pod.
    /// Waits until the first pod has said where it is; the platform ends all of them when that one fails.
    ///
    /// # Errors
    /// When tracking cannot be reached, or this pod has no address.
    pub async fn variables(&self, client: &Client, run_id: &str) -> Result<Vec<(String, String)>> {
        let (address, port) = match self.rank {
            0 => self.lead(client, run_id).await?,
            _ => self.find(client, run_id).await?,
        };
        let (nodes, rank) = (self.nodes.to_string(), self.rank.to_string());
        Ok([
            ("MASTER_ADDR", &address),
            ("MASTER_PORT", &port),
            ("WORLD_SIZE", &nodes),
            ("RANK", &rank),
            ("NODE_RANK", &rank),
            ("LOCAL_RANK", &"0".to_owned()),
            ("LOCAL_WORLD_SIZE", &"1".to_owned()),
            ("PET_NNODES", &nodes),
            ("PET_NODE_RANK", &rank),
            ("PET_MASTER_ADDR", &address),
            ("PET_MASTER_PORT", &port),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .into())
    }

    async fn lead(&self, client: &Client, run_id: &str) -> Result<(String, String)> {
        let address = task::variable("POD_IP")?;
        let own: IpAddr = address
            .parse()
            .with_context(|| format!("POD_IP {address:?} is no address"))?;
        // The program itself will listen there; until then the port is most likely left alone.
        let port = TcpListener::bind((own, 0))
            .and_then(|listener| listener.local_addr())
            .with_context(|| format!("no port is free on {address}"))?
            .port();
        let said = format!("{}@{}", self.attempt, std::net::SocketAddr::new(own, port));
        client
            .set_tag(run_id, TAG, &said)
            .await
            .context("tracking")?;
        Ok((address, port.to_string()))
    }

    async fn find(&self, client: &Client, run_id: &str) -> Result<(String, String)> {
        let mut looks = 0u32;
        loop {
            let run = client.get_run(run_id).await.context("tracking")?;
            let said = run.data.tags.iter().find(|tag| tag.key == TAG);
            if let Some(found) = said.and_then(|tag| self.read(&tag.value)) {
                return found;
            }
            looks = looks.saturating_add(1);
            if looks == LOOKS_BEFORE_WORD {
                tracing::info!(
                    "waits for the first of {} pods to say where it is",
                    self.nodes
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What a tag says; `None` when it is of another attempt.
    fn read(&self, said: &str) -> Option<Result<(String, String)>> {
        let (attempt, place) = said.split_once('@')?;
        if attempt.parse() != Ok(self.attempt) {
            return None;
        }
        Some(match place.parse::<std::net::SocketAddr>() {
            Ok(place) => Ok((place.ip().to_string(), place.port().to_string())),
            Err(_) => Err(anyhow!("the run's tag {TAG} is not an address: {place:?}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_the_same_attempt_counts() {
        let second = Together {
            nodes: 2,
            rank: 1,
            attempt: 2,
        };
        let found = second.read("2@127.0.0.1:29500").unwrap().unwrap();
        assert_eq!(found, ("127.0.0.1".to_owned(), "29500".to_owned()));
        let found = second.read("2@[::1]:29500").unwrap().unwrap();
        assert_eq!(found, ("::1".to_owned(), "29500".to_owned()));
        assert!(second.read("1@127.0.0.1:29500").is_none());
        assert!(second.read("nonsense").is_none());
        assert!(second.read("2@nowhere").unwrap().is_err());
    }
}
