//! The range of Services' addresses that every Kubernetes has.

use serde_json::json;

use super::namespaces::options;
use crate::engine::Engine;
use crate::operation::Target;
use crate::status::ApiError;
use crate::storage::Key;

/// Its name, on every cluster.
const NAME: &str = "kubernetes";
/// The range that installations usually have.
const RANGE: &str = "10.96.0.0/12";

/// Makes the ServiceCIDR that clients look up. Its condition says that nothing
/// is given out of it.
pub(crate) async fn ensure_default_service_range(engine: &Engine) -> Result<(), ApiError> {
    let catalog = engine.registry.catalog();
    let Some(ranges) = catalog.find("networking.k8s.io", "v1", "servicecidrs") else {
        return Ok(());
    };
    let there = engine.store.get(&Key::new(&ranges.storage, "", NAME));
    if there.is_some() {
        return Ok(());
    }
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": NAME},
        "spec": {"cidrs": [RANGE]},
    });
    let written = engine.create(ranges, "", NAME, object, &options()).await?;
    let mut object = crate::convert::present_value(ranges, &written.object);
    object["status"] = json!({"conditions": [{
        "type": "Ready",
        "status": "False",
        "reason": "NotAllocated",
        "message": "Services get no addresses here",
        "lastTransitionTime": engine.clock.timestamp(),
    }]});
    let target = Target::new(ranges, "", NAME);
    engine
        .update(&target, Some("status"), object, &options())
        .await?;
    Ok(())
}
