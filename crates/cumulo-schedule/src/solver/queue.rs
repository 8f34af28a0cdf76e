//! Queues: a tree with quotas per flavor, after Kueue's cohorts.

use std::collections::BTreeMap;

/// A queue, or an inner node of the tree that holds quota for its children.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queue {
    /// Its name; unique.
    pub name: String,
    /// The queue it lies under.
    pub parent: Option<String>,
    /// Fair share beside its siblings; a queue of weight 2 is owed twice what
    /// one of weight 1 is. At least 1.
    pub weight: u32,
    /// Quotas by flavor and resource (`cpu`, `memory`, `gpu` in thousandths of
    /// a device, or a countable's name). What no queue of a tree has a quota
    /// for is not limited there.
    pub quotas: BTreeMap<String, BTreeMap<String, Quota>>,
}

impl Queue {
    /// A root queue of weight 1 without quotas.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            weight: 1,
            ..Self::default()
        }
    }

    /// The same under a parent.
    #[must_use]
    pub fn under(mut self, parent: &str) -> Self {
        self.parent = Some(parent.to_owned());
        self
    }

    /// The same with a quota.
    #[must_use]
    pub fn quota(mut self, flavor: &str, resource: &str, quota: Quota) -> Self {
        self.quotas
            .entry(flavor.to_owned())
            .or_default()
            .insert(resource.to_owned(), quota);
        self
    }
}

/// A quota of one resource in one flavor, in the resource's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// What is the queue's own.
    pub nominal: u64,
    /// Most that it may use beyond its own, from what others leave idle; none: no limit.
    pub borrowing: Option<u64>,
    /// Most of its own that others may use while it is idle; none: all.
    pub lending: Option<u64>,
}

impl Quota {
    /// A quota that may borrow and lend without limit.
    #[must_use]
    pub fn nominal(nominal: u64) -> Self {
        Self {
            nominal,
            borrowing: None,
            lending: None,
        }
    }

    /// The same, never used beyond nominal.
    #[must_use]
    pub fn fixed(nominal: u64) -> Self {
        Self {
            nominal,
            borrowing: Some(0),
            lending: None,
        }
    }
}

/// Name of the resource that devices count under in quotas.
pub const DEVICE_QUOTA: &str = "gpu";
