//! What was decided and is under way: it counts as done until the copies show
//! it, or it failed. The copies alone would not do: an older change of a pod that
//! arrives late would bring the pod back as one that has no place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::known::Known;
use super::pod::Pod;
use crate::key::ObjectKey;

/// By UID, for pods and claims.
#[derive(Default)]
pub(crate) struct Assumed {
    state: Mutex<State>,
}

/// Annotations that a binding sets.
pub(crate) type Annotations = BTreeMap<String, String>;

#[derive(Default)]
struct State {
    /// Nodes of pods that are being bound, and what is written on them with it.
    places: HashMap<String, (String, Annotations)>,
    /// Nodes that are being promised to pods; none where a promise is taken back.
    promises: HashMap<String, Option<String>>,
    /// Pods that are being evicted.
    going: HashSet<String>,
    /// Devices that claims are being given.
    devices: HashMap<ObjectKey, AllocationResult>,
}

impl Assumed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod is being bound.
    pub(crate) fn bound(&self, pod: &Pod, node: &str, annotations: &Annotations) {
        let mut state = self.state();
        let place = (node.to_owned(), annotations.clone());
        state.places.insert(pod.uid().to_owned(), place);
    }

    /// It was not bound.
    pub(crate) fn not_bound(&self, pod: &Pod) {
        self.state().places.remove(pod.uid());
    }

    /// A claim is being given devices.
    pub(crate) fn given(&self, claim: &ObjectKey, devices: &AllocationResult) {
        let mut state = self.state();
        state.devices.insert(claim.clone(), devices.clone());
    }

    /// The copies tell again what a claim has.
    pub(crate) fn told_of_claim(&self, claim: &ObjectKey) {
        self.state().devices.remove(claim);
    }

    /// A place is being promised to a pod, or the promise taken back.
    pub(crate) fn promised(&self, pod: &Pod, node: Option<&str>) {
        let mut state = self.state();
        let node = node.map(str::to_owned);
        state.promises.insert(pod.uid().to_owned(), node);
    }

    /// The copies tell again what a pod is promised.
    pub(crate) fn told_of_promise(&self, pod: &Pod) {
        self.state().promises.remove(pod.uid());
    }

    /// A pod is being evicted.
    pub(crate) fn goes(&self, pod: &Pod) {
        self.state().going.insert(pod.uid().to_owned());
    }

    /// It was not evicted.
    pub(crate) fn stays(&self, pod: &Pod) {
        self.state().going.remove(pod.uid());
    }

    /// The pods as they are to be counted. What the copies show is no longer assumed.
    pub(crate) fn pods(&self, mut pods: Vec<Arc<Pod>>, now: Timestamp) -> Vec<Arc<Pod>> {
        let mut state = self.state();
        if state.places.is_empty() && state.promises.is_empty() && state.going.is_empty() {
            return pods;
        }
        let mut places = HashMap::new();
        let mut going = HashSet::new();
        for pod in &mut pods {
            let uid = pod.uid().to_owned();
            if pod.node.is_none()
                && let Some(place) = state.places.remove(&uid)
            {
                let assumed = Arc::make_mut(pod);
                assumed.node = Some(place.0.clone());
                let annotations = assumed.metadata.annotations.get_or_insert_default();
                annotations.extend(place.1.clone());
                places.insert(uid.clone(), place);
            }
            if let Some(node) = state.promises.get(&uid) {
                Arc::make_mut(pod).status.nominated = node.clone();
            }
            if !pod.deleting() && state.going.contains(&uid) {
                Arc::make_mut(pod).metadata.deletion_timestamp = Some(Time(now));
                going.insert(uid);
            }
        }
        state.places = places;
        state.going = going;
        pods
    }

    /// The claims as they are to be counted.
    pub(crate) fn claims(&self, claims: &mut HashMap<ObjectKey, Arc<Known<ResourceClaim>>>) {
        for (key, devices) in &self.state().devices {
            if let Some(claim) = claims.get_mut(key) {
                let object = &mut Arc::make_mut(claim).object;
                object.status.get_or_insert_default().allocation = Some(devices.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(node: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"nodeName": node, "containers": [{"name": "main"}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn older_news_do_not_undo_what_is_under_way() {
        let assumed = Assumed::default();
        let annotations = Annotations::from([("devices".to_owned(), "gpu-0".to_owned())]);
        let seen = |node: Value| assumed.pods(vec![pod(node)], now()).remove(0);
        assumed.bound(&pod(Value::Null), "a", &annotations);
        // However often a change of it from before the binding arrives.
        for _ in 0..2 {
            let counted = seen(Value::Null);
            assert_eq!(counted.node.as_deref(), Some("a"));
            assert_eq!(counted.mark("devices"), Some("gpu-0"));
        }
        // Once the copies show it, they are believed again.
        assert_eq!(seen(json!("a")).node.as_deref(), Some("a"));
        assert_eq!(seen(Value::Null).node, None);

        assumed.bound(&pod(Value::Null), "a", &annotations);
        assumed.not_bound(&pod(Value::Null));
        assert_eq!(seen(Value::Null).node, None);
    }

    #[test]
    fn who_is_being_evicted_leaves_and_who_is_promised_a_place_has_it() {
        let assumed = Assumed::default();
        let seen = || assumed.pods(vec![pod(json!("a"))], now()).remove(0);
        assumed.goes(&pod(json!("a")));
        assert!(seen().deleting() && seen().deleting());
        assumed.stays(&pod(json!("a")));
        assert!(!seen().deleting());
        assumed.promised(&pod(json!("a")), Some("b"));
        assert_eq!(seen().status.nominated.as_deref(), Some("b"));
        assumed.promised(&pod(json!("a")), None);
        assert_eq!(seen().status.nominated, None);
        assumed.told_of_promise(&pod(json!("a")));
        // A pod that is gone is forgotten.
        assumed.goes(&pod(json!("a")));
        assumed.pods(Vec::new(), now());
        assert!(!seen().deleting());
    }
}
