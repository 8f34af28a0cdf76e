//! Who may have a device beside whom.

use super::decide::{Held, Refusal, decide};
use super::ledger::Ledger;
use super::mig::{Given, MigInstances};
use super::tests::recorded;
use super::{ReadError, Reader, Snapshot};

struct Recorded;

impl Reader for Recorded {
    fn read(&self) -> Result<Snapshot, ReadError> {
        Ok(recorded("a100-8"))
    }
}

struct Node {
    ledger: Ledger,
    _folder: tempfile::TempDir,
}

fn node() -> Node {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("instances.json");
    Node {
        ledger: Ledger::new(Box::new(Recorded), journal, MigInstances::Keep),
        _folder: folder,
    }
}

/// Thousandths of the first GPU by a claim.
fn part(milli: u32, claim: Option<&str>) -> Held {
    Held {
        gpu: recorded("a100-8").gpus[0].uuid.clone(),
        instance: None,
        milli,
        memory: u64::from(milli) << 20,
        claim: claim.map(str::to_owned),
    }
}

impl Node {
    async fn take(&self, pod: &str, held: &[Held]) -> Result<Vec<Held>, Refusal> {
        let given: Vec<Given> = held.iter().cloned().map(Given::Held).collect();
        self.ledger.take(pod, "default", pod, |_| Ok(given)).await
    }

    /// Whether a pod gets the share of the first GPU that others leave.
    fn has_room(&self, milli: u32) -> bool {
        let mut machine = recorded("a100-8");
        machine.gpus.truncate(1);
        let holders = self.ledger.holders();
        let holders: Vec<_> = holders.values().collect();
        let wish = format!("{}", f64::from(milli) / 1000.0);
        let ask: cumulo_api::Gpu = wish.parse().unwrap();
        decide(&machine, &holders, &ask.ask().unwrap()).is_ok()
    }
}

#[tokio::test]
async fn a_claim_is_counted_once_however_many_pods_share_it() {
    let node = node();
    let shared = [part(700, Some("shared"))];
    for pod in ["first", "second", "third"] {
        assert_eq!(node.take(pod, &shared).await.unwrap(), shared);
    }
    assert!(node.has_room(300) && !node.has_room(400));
    // Another claim's part counts, and so does one that no claim gave.
    node.take("beside", &[part(300, Some("other"))])
        .await
        .unwrap();
    for claim in [Some("more"), None] {
        let refused = node.take("late", &[part(100, claim)]).await.unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains("other pods on this node have too much"),
            "{said}"
        );
    }
    // It is free when the last of its pods has ended.
    node.ledger.free("first");
    node.ledger.free("third");
    assert!(!node.has_room(100));
    node.ledger.free("second");
    assert!(node.has_room(700) && !node.has_room(800));
}

#[tokio::test]
async fn a_claim_may_give_two_parts_of_one_gpu_and_no_more_than_there_is() {
    let node = node();
    let two = [part(600, Some("shared")), part(300, Some("shared"))];
    node.take("first", &two).await.unwrap();
    node.take("second", &two).await.unwrap();
    assert!(node.has_room(100) && !node.has_room(200));
    let beyond = [part(600, Some("own")), part(500, Some("own"))];
    let other = self::node();
    assert!(other.take("first", &beyond).await.is_err());
}

#[tokio::test]
async fn who_only_looks_takes_nothing_and_is_never_in_the_way() {
    let node = node();
    node.take("worker", &[part(1000, Some("whole"))])
        .await
        .unwrap();
    let look = [part(1000, Some("look")).for_administration()];
    let held = node.take("administrator", &look).await.unwrap();
    assert_eq!(held[0].visible(), part(1, None).visible());
    node.ledger.free("worker");
    assert!(node.has_room(1000));
}
