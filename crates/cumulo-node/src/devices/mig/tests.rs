//! A simulated driver with NVIDIA's placement rules that fails and crashes at every step.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cumulo_api::GpuAsk;
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    Change, ChangeError, Given, Layout, Made, Managed, Manager, MigInstances, PartitionError,
    Partitions, Place, Plan, Simulated, exactly, plan, present,
};
use crate::devices::tests::recorded;
use crate::devices::{Held, Holder, Profile, ReadError, Reader, Refusal, Snapshot};

/// What happens at one step of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The driver refuses.
    Refuses,
    /// The node agent dies before the step.
    DiesBefore,
    /// The node agent dies after the step, before it hears of it.
    DiesAfter,
}

struct World {
    snapshot: Snapshot,
    /// What is yet to happen, last first.
    faults: Vec<Fault>,
    steps: usize,
    /// The journal as it was when the node agent died.
    dead: Option<Option<Vec<u8>>>,
    journal: PathBuf,
}

impl World {
    fn step<T>(
        &mut self,
        work: impl FnOnce(&mut Simulated<'_>) -> Result<T, PartitionError>,
    ) -> Result<T, PartitionError> {
        let dead = || PartitionError::Driver("the node agent is dead".to_owned());
        if self.dead.is_some() {
            return Err(dead());
        }
        self.steps += 1;
        let fault = self.faults.pop().unwrap_or(Fault::None);
        let die = |world: &mut Self| world.dead = Some(std::fs::read(&world.journal).ok());
        match fault {
            Fault::None => work(&mut Simulated(&mut self.snapshot)),
            Fault::Refuses => Err(PartitionError::Driver("not now".to_owned())),
            Fault::DiesBefore => {
                die(self);
                Err(dead())
            }
            Fault::DiesAfter => {
                let _ = work(&mut Simulated(&mut self.snapshot));
                die(self);
                Err(dead())
            }
        }
    }
}

struct Driver(Mutex<World>);

impl Reader for Driver {
    fn read(&self) -> Result<Snapshot, ReadError> {
        let world = self.0.lock();
        match world.dead {
            None => Ok(world.snapshot.clone()),
            Some(_) => Err(ReadError::Driver("the node agent is dead".to_owned())),
        }
    }

    fn partitions(&self) -> Option<&dyn Partitions> {
        Some(self)
    }
}

impl Partitions for Driver {
    fn make(&self, place: &Place) -> Result<u32, PartitionError> {
        self.0.lock().step(|driver| driver.make(place))
    }

    fn complete(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        self.0.lock().step(|driver| driver.complete(gpu, id))
    }

    fn dismantle(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        self.0.lock().step(|driver| driver.dismantle(gpu, id))
    }

    fn remove(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        self.0.lock().step(|driver| driver.remove(gpu, id))
    }
}

/// A machine, its node agent, its pods and its administrator.
struct Machine {
    folder: TempDir,
    driver: Arc<Driver>,
    manager: Manager,
    holders: Vec<Holder>,
    /// What the administrator made.
    foreign: BTreeSet<(Place, u32)>,
    changes: usize,
}

fn ask(text: &str) -> GpuAsk {
    text.parse::<cumulo_api::Gpu>().unwrap().ask().unwrap()
}

fn all(snapshot: &Snapshot) -> BTreeSet<(Place, u32)> {
    let gpus = snapshot.gpus.iter();
    gpus.flat_map(|gpu| {
        present(gpu).into_iter().map(|one| {
            let place = Place {
                gpu: gpu.identity(),
                profile: one.profile,
                start: one.start.unwrap(),
            };
            (place, one.id)
        })
    })
    .collect()
}

impl Machine {
    fn new(snapshot: Snapshot) -> Self {
        // A journal is written some hundred thousand times.
        let memory = tempfile::tempdir_in("/dev/shm");
        let folder = memory.or_else(|_| tempfile::tempdir()).unwrap();
        let journal = folder.path().join("mig.json");
        let foreign = all(&snapshot);
        let driver = Arc::new(Driver(Mutex::new(World {
            snapshot,
            faults: Vec::new(),
            steps: 0,
            dead: None,
            journal: journal.clone(),
        })));
        Self {
            manager: agent(&driver, &journal),
            folder,
            driver,
            holders: Vec::new(),
            foreign,
            changes: 0,
        }
    }

    /// GPUs 1 to 3 of a recording: divided by the administrator, into sevenths, and not.
    fn mixed() -> Self {
        let mut snapshot = recorded("mixed-mig");
        snapshot.gpus.remove(0);
        Self::new(snapshot)
    }

    /// One GPU in MIG mode with nothing on it.
    fn empty() -> Self {
        let mut snapshot = recorded("mixed-mig");
        snapshot.gpus.drain(..3);
        Self::new(snapshot)
    }

    fn snapshot(&self) -> Snapshot {
        self.driver.0.lock().snapshot.clone()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("mig.json")
    }

    fn is_dead(&self) -> bool {
        self.driver.0.lock().dead.is_some()
    }

    /// The next node agent, with what the last one had written.
    fn restart(&mut self) {
        let journal = self.driver.0.lock().dead.take();
        match journal {
            Some(Some(text)) => std::fs::write(self.journal(), text).unwrap(),
            Some(None) => {
                let _ = std::fs::remove_file(self.journal());
            }
            None => {}
        }
        self.manager = agent(&self.driver, &self.journal());
    }

    /// Starts node agents until one lives and has closed what was open.
    fn settle(&mut self) {
        for _ in 0..100 {
            if self.is_dead() {
                self.restart();
            }
            if self.manager.recover().is_ok() {
                return;
            }
        }
        panic!("never settled: {}", self.text());
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.journal()).unwrap_or_default()
    }

    /// As the node agent does it. `Err` with the refusal or the failure.
    fn give(&mut self, wish: &str) -> Result<Vec<Held>, String> {
        let others: Vec<&Holder> = self.holders.iter().collect();
        let snapshot = self.snapshot();
        let plan = plan(&snapshot, &others, &ask(wish), &self.manager.managed());
        self.carry_out(plan)
    }

    /// What a scheduler decided.
    fn claim(&mut self, places: &[Place]) -> Result<Vec<Held>, String> {
        let others: Vec<&Holder> = self.holders.iter().collect();
        let decided = places.iter().cloned().map(Given::at).collect();
        let snapshot = self.snapshot();
        let plan = exactly(&snapshot, &others, decided, &self.manager.managed());
        let held = self.carry_out(plan)?;
        for (held, place) in held.iter().zip(places) {
            let snapshot = self.snapshot();
            let expected = Given::at(place.clone()).resolve(&snapshot);
            assert_eq!(Some(held), expected.as_ref(), "another than was decided");
        }
        Ok(held)
    }

    fn carry_out(&mut self, plan: Result<Plan, Refusal>) -> Result<Vec<Held>, String> {
        let plan = plan.map_err(|refusal| refusal.to_string())?;
        for change in plan.changes {
            self.changes += 1;
            let done = self.manager.change(change);
            done.map_err(|error| error.to_string())?;
        }
        let snapshot = self.snapshot();
        let held = plan.given.iter().map(|given| given.resolve(&snapshot));
        let held: Vec<Held> = held.collect::<Option<_>>().expect("what was made is there");
        self.holders.push(Holder {
            namespace: "default".to_owned(),
            pod: format!("pod-{}", self.holders.len()),
            held: held.clone(),
            energy: None,
        });
        Ok(held)
    }

    fn place(&self, profile: &str, start: u32, gpu: usize) -> Place {
        let gpus = self.snapshot().gpus;
        Place {
            gpu: gpus[gpu % gpus.len()].identity(),
            profile: profile.to_owned(),
            start,
        }
    }

    /// An administrator's own work, which the driver never fails.
    fn administrator_makes(&mut self, profile: &str, start: u32, gpu: usize) {
        let mut world = self.driver.0.lock();
        let gpus = &world.snapshot.gpus;
        let place = Place {
            gpu: gpus[gpu % gpus.len()].identity(),
            profile: profile.to_owned(),
            start,
        };
        let mut driver = Simulated(&mut world.snapshot);
        if let Ok(id) = driver.make(&place) {
            driver.complete(&place.gpu, id).unwrap();
            self.foreign.insert((place, id));
        }
    }

    /// Whoever made it: what no pod has, the administrator may remove.
    fn administrator_removes(&mut self, which: usize) {
        let mut world = self.driver.0.lock();
        let held: BTreeSet<&str> = self
            .holders
            .iter()
            .flat_map(|holder| &holder.held)
            .filter_map(|held| held.instance.as_deref())
            .collect();
        let gpus = world.snapshot.gpus.iter();
        let idle: Vec<(String, u32)> = gpus
            .flat_map(|gpu| {
                let instances = gpu.instances().unwrap_or_default().iter();
                let idle = instances.filter(|one| !held.contains(one.uuid.as_str()));
                idle.map(|one| (gpu.identity(), one.id))
            })
            .collect();
        let Some((gpu, id)) = idle.get(which % idle.len().max(1)).cloned() else {
            return;
        };
        let mut driver = Simulated(&mut world.snapshot);
        if driver.dismantle(&gpu, id).is_ok() {
            driver.remove(&gpu, id).unwrap();
            self.foreign
                .retain(|(place, known)| place.gpu != gpu || *known != id);
        }
    }

    /// Nothing is lost, doubled or without an owner.
    fn check(&self) -> Result<(), TestCaseError> {
        let snapshot = self.snapshot();
        let made = self.manager.managed().made;
        for gpu in &snapshot.gpus {
            prop_assert!(Layout::of(gpu).is_some());
            prop_assert!(gpu.mig.as_ref().unwrap().bare.is_empty(), "unfinished");
        }
        let own: BTreeSet<(Place, u32)> = made
            .iter()
            .map(|made| (made.place.clone(), made.id))
            .collect();
        prop_assert_eq!(own.len(), made.len(), "counted twice");
        prop_assert!(
            own.is_disjoint(&self.foreign),
            "another's is taken for its own"
        );
        let owned: BTreeSet<(Place, u32)> = own.union(&self.foreign).cloned().collect();
        prop_assert_eq!(
            owned,
            all(&snapshot),
            "an instance without owner, or one that is gone"
        );
        let mut held = BTreeSet::new();
        for one in self.holders.iter().flat_map(|holder| &holder.held) {
            let instance = one.instance.clone().unwrap();
            let there = snapshot
                .gpus
                .iter()
                .flat_map(|gpu| gpu.instances().unwrap_or_default())
                .any(|there| there.uuid == instance);
            prop_assert!(there, "removed under a pod");
            prop_assert!(held.insert(instance), "given twice");
        }
        prop_assert!(!self.text().contains("open"), "{}", self.text());
        Ok(())
    }
}

fn agent(driver: &Arc<Driver>, journal: &Path) -> Manager {
    let reader: Arc<dyn Reader> = Arc::clone(driver) as _;
    Manager::since(reader, journal, MigInstances::Manage, "this boot")
}

#[derive(Debug, Clone)]
enum Deed {
    Ask(&'static str),
    Claim(Vec<(&'static str, u32, usize)>),
    Free(usize),
    AdministratorMakes(&'static str, u32, usize),
    AdministratorRemoves(usize),
    Restart,
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => proptest::sample::select(&[
            "1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb", "1g.20gb", "0.3", "9Gi", "1",
            "{profile: 1g.10gb, count: 3}", "{profile: 2g.20gb, count: 2}",
        ][..]).prop_map(Deed::Ask),
        4 => proptest::collection::vec((
            proptest::sample::select(&["1g.10gb", "1g.10gb+me", "2g.20gb", "3g.40gb", "7g.80gb"][..]),
            0..7u32,
            0..3usize,
        ), 1..4).prop_map(Deed::Claim),
        3 => (0..9usize).prop_map(Deed::Free),
        1 => (
            proptest::sample::select(&["1g.10gb", "2g.20gb", "3g.40gb"][..]),
            0..7u32,
            0..3usize,
        ).prop_map(|(profile, start, gpu)| Deed::AdministratorMakes(profile, start, gpu)),
        1 => (0..9usize).prop_map(Deed::AdministratorRemoves),
        1 => Just(Deed::Restart),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        5 => Just(Fault::None),
        1 => Just(Fault::Refuses),
        1 => Just(Fault::DiesBefore),
        1 => Just(Fault::DiesAfter),
    ]
}

proptest! {
    #[test]
    fn no_instance_is_lost_doubled_or_left_without_owner(
        deeds in proptest::collection::vec(deeds(), 1..25),
        faults in proptest::collection::vec(faults(), 0..60),
    ) {
        let mut machine = Machine::mixed();
        machine.driver.0.lock().faults = faults;
        for deed in deeds {
            match deed {
                Deed::Ask(wish) => {
                    machine.settle();
                    let _ = machine.give(wish);
                }
                Deed::Claim(wanted) => {
                    machine.settle();
                    let places: Vec<Place> = wanted
                        .into_iter()
                        .map(|(profile, start, gpu)| machine.place(profile, start, gpu))
                        .collect();
                    // One result per device, as the scheduler has it.
                    let different: BTreeSet<&Place> = places.iter().collect();
                    if different.len() == places.len() {
                        let _ = machine.claim(&places);
                    }
                }
                Deed::Free(_) if machine.holders.is_empty() => {}
                Deed::Free(which) => {
                    let which = which % machine.holders.len();
                    machine.holders.remove(which);
                }
                Deed::AdministratorMakes(profile, start, gpu) => {
                    machine.administrator_makes(profile, start, gpu);
                }
                Deed::AdministratorRemoves(which) => machine.administrator_removes(which),
                Deed::Restart => machine.restart(),
            }
        }
        machine.settle();
        machine.check()?;
    }
}

#[test]
fn a_claim_gets_the_very_place_that_was_decided() {
    let mut machine = Machine::empty();
    let at = |machine: &Machine, profile: &str, start| machine.place(profile, start, 0);
    let places = [
        at(&machine, "1g.10gb", 6),
        at(&machine, "2g.20gb", 0),
        at(&machine, "3g.40gb", 4),
    ];
    // The last lies on the first: no scheduler gives both, and nothing is begun.
    assert_eq!(
        machine.claim(&places).unwrap_err(),
        "was given a 3g.40gb at 4 of a GPU, of which others have the room"
    );
    assert_eq!((all(&machine.snapshot()).len(), machine.changes), (0, 0));
    machine.claim(&places[..2]).unwrap();
    // Both of one GPU come together.
    assert_eq!(machine.changes, 1);
    assert_eq!(
        machine.claim(&places[..1]).unwrap_err(),
        "was given a 1g.10gb at 6 of a GPU, which others have"
    );
    assert_eq!(
        machine.claim(&[at(&machine, "7g.80gb", 0)]).unwrap_err(),
        "was given a 7g.80gb at 0 of a GPU, of which others have the room"
    );
    // What nobody has any more goes where it is in the way, and else stays.
    machine.holders.clear();
    machine.claim(&places[2..]).unwrap();
    let there = all(&machine.snapshot());
    let there: Vec<(&str, u32)> = there
        .iter()
        .map(|(place, _)| (place.profile.as_str(), place.start))
        .collect();
    assert_eq!(there, [("2g.20gb", 0), ("3g.40gb", 4)]);
    // It is there already: nothing is changed for it.
    let changes = machine.changes;
    machine.claim(&places[1..2]).unwrap();
    assert_eq!(machine.changes, changes);
    // Of two that lie on each other, one is there and idle: it does not go for the other,
    // and is not given when it would have gone.
    machine.holders.clear();
    let mut both = vec![places[1].clone(), at(&machine, "1g.10gb", 1)];
    for _ in 0..2 {
        let refused = machine.claim(&both).unwrap_err();
        assert!(
            refused.ends_with("of which others have the room"),
            "{refused}"
        );
        both.reverse();
    }
    let twice = machine.claim(&[places[1].clone(), places[1].clone()]);
    assert_eq!(
        twice.unwrap_err(),
        "was given a 2g.20gb at 0 of a GPU, which others have"
    );
    assert_eq!(machine.changes, changes);
    let managed = Managed {
        instances: MigInstances::Keep,
        ..machine.manager.managed()
    };
    let decided = vec![Given::at(at(&machine, "1g.10gb", 2))];
    assert_eq!(
        exactly(&machine.snapshot(), &[], decided, &managed)
            .unwrap_err()
            .to_string(),
        "was given a 1g.10gb at 2 of a GPU, and this node makes no instances (migInstances: manage)"
    );
    machine.check().unwrap();
}

/// Two sevenths that nobody uses go for two halves of a GPU.
fn exchange() -> (Machine, Change) {
    let mut machine = Machine::empty();
    for _ in 0..3 {
        machine.give("1g.10gb").unwrap();
    }
    machine.holders.clear();
    let made = machine.manager.managed().made;
    assert_eq!(made.len(), 3);
    let gpu = machine.snapshot().gpus[0].identity();
    let change = Change {
        gpu: gpu.clone(),
        remove: made,
        create: [0, 4]
            .map(|start| Place {
                gpu: gpu.clone(),
                profile: "3g.40gb".to_owned(),
                start,
            })
            .into(),
    };
    (machine, change)
}

/// Every step of a change, and every step of what follows, refused or cut off: all of it
/// is done in the end, or none.
#[test]
fn a_change_is_whole_whatever_fails_at_whatever_step() {
    let places = |machine: &Machine| {
        let made = machine.manager.managed().made;
        made.into_iter()
            .map(|made| (made.place.profile, made.place.start))
            .collect::<BTreeSet<_>>()
    };
    let (machine, change) = exchange();
    let before = places(&machine);
    let begun = machine.driver.0.lock().steps;
    machine.manager.change(change).unwrap();
    let after = places(&machine);
    let steps = machine.driver.0.lock().steps - begun;
    assert_eq!((before.len(), after.len(), steps), (3, 2, 10));
    let faults = [Fault::Refuses, Fault::DiesBefore, Fault::DiesAfter];
    let (mut done, mut undone) = (0, 0);
    for first in 0..steps {
        for second in 0..=2 * steps {
            for (one, other) in faults
                .iter()
                .flat_map(|one| faults.map(|other| (*one, other)))
            {
                let (mut machine, change) = exchange();
                let mut script = vec![Fault::None; first];
                script.push(one);
                script.extend(vec![Fault::None; second]);
                script.push(other);
                script.reverse();
                machine.driver.0.lock().faults = script;
                let answer = machine.manager.change(change);
                let said = answer.is_ok();
                machine.settle();
                machine.check().unwrap();
                let now = places(&machine);
                assert!(now == before || now == after, "{now:?}");
                assert!(!said || now == after, "said to be done, and is not");
                if now == after {
                    done += 1;
                } else {
                    undone += 1;
                }
            }
        }
    }
    assert!(done > 0 && undone > 0);
}

#[test]
fn nothing_is_done_without_a_journal() {
    let (machine, change) = exchange();
    let before = machine.snapshot();
    let reader: Arc<dyn Reader> = Arc::clone(&machine.driver) as _;
    let nowhere = machine.folder.path().join("not/there/mig.json");
    let manager = Manager::since(reader, nowhere, MigInstances::Manage, "this boot");
    // Nothing is its own there, so it is asked to make something only.
    let change = Change {
        remove: Vec::new(),
        create: vec![Place {
            profile: "1g.10gb".to_owned(),
            start: 0,
            gpu: change.gpu,
        }],
        gpu: before.gpus[0].identity(),
    };
    assert!(matches!(
        manager.change(change),
        Err(ChangeError::Journal { .. })
    ));
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn another_ones_instance_is_never_removed() {
    let mut machine = Machine::mixed();
    let (place, id) = machine.foreign.iter().next().unwrap().clone();
    let change = Change {
        gpu: place.gpu.clone(),
        remove: vec![Made {
            id,
            place,
            uuid: None,
        }],
        create: Vec::new(),
    };
    assert!(matches!(
        machine.manager.change(change),
        Err(ChangeError::Foreign { .. })
    ));
    // Nor for a pod, however idle: only the empty GPU can give a whole one.
    machine.give("7g.80gb").unwrap();
    let refusal = machine.give("7g.80gb").unwrap_err();
    insta::assert_snapshot!(refusal, @"asks for a 7g.80gb partition of a GPU, which is not free: the free MIG instances are 3g.40gb, 2g.20gb, 8 × 1g.10gb; and there is no room for another instance");
    machine.check().unwrap();
}

/// After a start of the machine no instance is left: what lies there is another's.
/// The node agent dies right after it took back what could not be finished, and an
/// administrator's instance comes to the same place with the same number.
#[test]
fn what_came_after_an_undone_one_stays() {
    let mut machine = Machine::empty();
    // The first happens last: it is made, not completed, and removed.
    machine.driver.0.lock().faults = vec![Fault::DiesAfter, Fault::Refuses, Fault::None];
    machine.give("2g.20gb").unwrap_err();
    assert!(machine.is_dead());
    let place = |machine: &Machine| machine.place("2g.20gb", 4, 0);
    machine.administrator_makes("2g.20gb", 4, 0);
    let made: Vec<Place> = all(&machine.snapshot())
        .into_iter()
        .map(|one| one.0)
        .collect();
    assert_eq!(made, [place(&machine)]);
    machine.settle();
    machine.check().unwrap();
    assert_eq!(machine.foreign.len(), 1);
}

#[test]
fn instances_end_with_the_machine() {
    let (machine, _) = exchange();
    let made = machine.manager.managed().made;
    let reader: Arc<dyn Reader> = Arc::clone(&machine.driver) as _;
    let file = machine.journal();
    let later = Manager::since(reader, file, MigInstances::Manage, "another boot");
    later.recover().unwrap();
    assert!(!made.is_empty() && later.managed().made.is_empty());
}

#[test]
fn a_journal_that_is_none_makes_everything_anothers() {
    let (machine, _) = exchange();
    std::fs::write(machine.journal(), "").unwrap();
    let manager = agent(&machine.driver, &machine.journal());
    manager.recover().unwrap();
    assert!(manager.managed().made.is_empty());
}

/// What was asked for, where it was put, and what lies on the GPUs in the end.
fn story(mut machine: Machine, deeds: &[&str]) -> String {
    let mut lines = Vec::new();
    for deed in deeds {
        if let Some(which) = deed.strip_prefix("end ") {
            machine.holders.remove(which.parse().unwrap());
            lines.push((*deed).to_owned());
            continue;
        }
        let changes = machine.changes;
        let line = match machine.give(deed) {
            Ok(held) => {
                let snapshot = machine.snapshot();
                let names: Vec<String> = held
                    .iter()
                    .map(|held| {
                        let gpu = snapshot.gpus.iter().find(|gpu| gpu.identity() == held.gpu);
                        let gpu = gpu.unwrap();
                        let mut instances = gpu.instances().unwrap().iter();
                        let one = instances.find(|one| Some(&one.uuid) == held.instance.as_ref());
                        let one = one.unwrap();
                        format!(
                            "{} at {} of GPU {}",
                            one.profile,
                            one.start.unwrap(),
                            gpu.index
                        )
                    })
                    .collect();
                let how = if machine.changes > changes {
                    "made"
                } else {
                    "was there"
                };
                format!("{deed}: {} ({how})", names.join(", "))
            }
            Err(refusal) => format!("{deed}: {refusal}"),
        };
        lines.push(line);
    }
    machine.check().unwrap();
    lines.join("\n")
}

#[test]
fn large_profiles_remain_possible() {
    let small_first = ["1g.10gb", "1g.10gb", "1g.10gb", "4g.40gb"];
    insta::assert_snapshot!("small_first", story(Machine::empty(), &small_first));
    let mixed = ["2g.20gb", "1g.10gb", "3g.40gb", "1g.10gb"];
    insta::assert_snapshot!("mixed_sizes", story(Machine::empty(), &mixed));
}

#[test]
fn instances_are_made_as_they_are_asked_for() {
    let deeds = [
        "1g.10gb", "0.3", "9Gi", "3g.40gb", "end 3", "4g.40gb", "1", "end 0", "7g.80gb",
    ];
    insta::assert_snapshot!("beside_an_administrator", story(Machine::mixed(), &deeds));
    // Idle ones that were made go for a larger one; those of pods stay.
    let deeds = [
        "1g.10gb",
        "1g.10gb",
        "2g.20gb",
        "end 0",
        "end 1",
        "7g.80gb",
        "end 0",
        "7g.80gb",
        "{profile: 1g.10gb, count: 3}",
    ];
    insta::assert_snapshot!("on_an_empty_gpu", story(Machine::empty(), &deeds));
}

#[test]
fn nothing_is_made_where_instances_are_kept() {
    let machine = Machine::empty();
    let wish = ask("1g.10gb");
    let refused = plan(&machine.snapshot(), &[], &wish, &Managed::default());
    assert!(matches!(refused, Err(Refusal::Never(_))));
    let managed = machine.manager.managed();
    let made = plan(&machine.snapshot(), &[], &wish, &managed).unwrap();
    assert!(matches!(made.given[..], [Given::New { .. }]));
}

/// A GPU whose driver tells its profiles is divided as one whose model is known.
#[test]
fn a_driver_that_tells_its_profiles_is_believed() {
    let known = Machine::empty();
    let mut snapshot = known.snapshot();
    let gigabyte = 1u64 << 30;
    let told = [
        ("1g.10gb", 19, 1, 7, 1, &[0, 1, 2, 3, 4, 5, 6][..]),
        ("1g.10gb+me", 20, 1, 1, 1, &[0, 1, 2, 3, 4, 5, 6]),
        ("1g.20gb", 15, 1, 4, 2, &[0, 2, 4, 6]),
        ("2g.20gb", 14, 2, 3, 2, &[0, 2, 4]),
        ("3g.40gb", 9, 3, 2, 4, &[0, 4]),
        ("4g.40gb", 5, 4, 1, 4, &[0]),
        ("7g.80gb", 0, 7, 1, 8, &[0]),
    ];
    snapshot.gpus[0].name = "NVIDIA X900".to_owned();
    snapshot.gpus[0].mig.as_mut().unwrap().profiles = told
        .iter()
        .map(|(name, id, compute, most, size, starts)| Profile {
            name: (*name).to_owned(),
            id: *id,
            compute: *compute,
            memory: u64::from(*size) * 10 * gigabyte,
            most: *most,
            size: *size,
            starts: starts.to_vec(),
        })
        .collect();
    let deeds = [
        "2g.20gb",
        "1g.10gb+me",
        "1g.10gb+me",
        "3g.40gb",
        "0.1",
        "0.1",
    ];
    let mine = story(Machine::new(snapshot), &deeds);
    insta::assert_snapshot!("as_the_driver_tells", mine);
    let without = |text: String| text.replace("X900", "").replace("A100-SXM4-80GB", "");
    assert_eq!(without(mine), without(story(known, &deeds)));
}
