//! Events do not last: they are removed some time after they were last seen.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::engine::Engine;
use crate::operation::{DeleteOptions, Target};
use crate::storage::Key;

/// How often old events are looked for, at most.
const ROUND: Duration = Duration::from_secs(60);
/// Most events that are kept, however young.
const MOST: usize = 20_000;

pub(super) async fn run(engine: &Engine) {
    let events: Arc<str> = "/events".into();
    loop {
        tokio::time::sleep(ROUND).await;
        remove_old(engine, &events).await;
    }
}

async fn remove_old(engine: &Engine, events: &Arc<str>) {
    let lifetime =
        TimeDelta::from_std(engine.settings.event_lifetime).unwrap_or(TimeDelta::hours(1));
    let limit = engine.clock.now() - lifetime;
    let mut all: Vec<(DateTime<Utc>, Key, String)> = engine
        .store
        .all(events, None)
        .iter()
        .filter_map(|event| {
            let key = Key {
                resource: events.clone(),
                id: event.id.clone(),
            };
            Some((last_seen(&event.value())?, key, event.meta.uid.clone()))
        })
        .collect();
    all.sort_by_key(|(seen, ..)| *seen);
    let surplus = all.len().saturating_sub(MOST);
    let catalog = engine.registry.catalog();
    for (n, (seen, key, uid)) in all.into_iter().enumerate() {
        if n >= surplus && seen >= limit {
            break;
        }
        let Some(target) = Target::of_key(&catalog, &key) else {
            continue;
        };
        let options = DeleteOptions {
            uid: Some(uid),
            ..DeleteOptions::default()
        };
        if let Err(error) = engine.delete(&target, &options).await {
            tracing::debug!(%key, %error, "an old event was not removed");
        }
    }
}

/// When an event was last seen; its creation when it does not say.
fn last_seen(event: &Value) -> Option<DateTime<Utc>> {
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .iter()
    .filter_map(|pointer| event.pointer(pointer)?.as_str())
    .find_map(|text| DateTime::parse_from_rfc3339(text).ok())
    .map(|time| time.with_timezone(&Utc))
}
