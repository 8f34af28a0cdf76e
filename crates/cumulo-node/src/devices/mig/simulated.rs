//! What a driver does with instances, on a snapshot: recordings and tests have this
//! instead of a GPU.

use cumulo_schedule::solver::geometry::{Geometry, Slot};

use super::{PartitionError, Place, present};
use crate::devices::convert::geometry_of;
use crate::devices::snapshot::{Bare, Gpu, Instance, Memory, Snapshot};

/// How a GPU in MIG mode can be divided, and how it is.
pub(in crate::devices) struct Layout {
    pub geometry: Geometry,
    /// What is taken of each counter.
    pub used: Vec<u32>,
}

impl Layout {
    /// `None` where the GPU is not in MIG mode, its geometry is not known, or an instance
    /// does not lie as that says.
    pub fn of(gpu: &Gpu) -> Option<Self> {
        gpu.instances()?;
        let geometry = geometry_of(gpu)?;
        let mut used = vec![0u32; geometry.counters.len()];
        for one in present(gpu) {
            let slot = slot(&geometry, &one.profile, one.start?)?;
            if !geometry.fits(slot, &used) {
                return None;
            }
            for (used, uses) in used.iter_mut().zip(&slot.uses) {
                *used = used.saturating_add(*uses);
            }
        }
        Some(Self { geometry, used })
    }
}

/// Where a profile can start.
pub(super) fn slot<'a>(geometry: &'a Geometry, profile: &str, start: u32) -> Option<&'a Slot> {
    let profile = &geometry.profiles[geometry.profile(profile)?];
    profile.slots.iter().find(|slot| slot.start == start)
}

/// A driver's work on a snapshot.
pub(in crate::devices) struct Simulated<'a>(pub &'a mut Snapshot);

impl Simulated<'_> {
    fn gpu(&mut self, identity: &str) -> Result<&mut Gpu, PartitionError> {
        let mut gpus = self.0.gpus.iter_mut();
        gpus.find(|gpu| gpu.identity() == identity)
            .ok_or_else(|| PartitionError::Unknown(format!("GPU {identity}")))
    }

    pub fn make(&mut self, place: &Place) -> Result<u32, PartitionError> {
        let gpu = self.gpu(&place.gpu)?;
        let layout = Layout::of(gpu);
        let layout = layout.ok_or_else(|| {
            PartitionError::Driver("MIG mode is off, or the model is not known".to_owned())
        })?;
        let slot = slot(&layout.geometry, &place.profile, place.start).ok_or_else(|| {
            PartitionError::Unknown(format!("placement of {} at {}", place.profile, place.start))
        })?;
        if !layout.geometry.fits(slot, &layout.used) {
            return Err(PartitionError::NoRoom);
        }
        let taken: Vec<u32> = present(gpu).iter().map(|one| one.id).collect();
        // Numbers come back, as the driver's do.
        let id = (1..).find(|id| !taken.contains(id)).unwrap_or(u32::MAX);
        let mig = gpu.mig.get_or_insert_default();
        mig.bare.push(Bare {
            profile: place.profile.clone(),
            id,
            start: Some(place.start),
        });
        Ok(id)
    }

    pub fn complete(&mut self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        let gpu = self.gpu(gpu)?;
        let geometry = geometry_of(gpu);
        let mig = gpu.mig.get_or_insert_default();
        let unknown = || PartitionError::Unknown(format!("GPU instance {id}"));
        let mut bare = mig.bare.iter();
        let at = bare.position(|bare| bare.id == id).ok_or_else(unknown)?;
        let bare = mig.bare.remove(at);
        let total = geometry.and_then(|geometry| {
            let profile = geometry.profile(&bare.profile)?;
            Some(geometry.profiles[profile].memory)
        });
        mig.instances.push(Instance {
            uuid: format!("MIG-{}", uuid::Uuid::new_v4()),
            profile: bare.profile,
            id,
            start: bare.start,
            memory: Memory {
                total: total.unwrap_or(0),
                ..Memory::default()
            },
        });
        Ok(())
    }

    pub fn dismantle(&mut self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        let gpu = self.gpu(gpu)?;
        let mut processes = gpu.processes.iter();
        if processes.any(|process| process.instance == Some(id)) {
            return Err(PartitionError::InUse);
        }
        let mig = gpu.mig.get_or_insert_default();
        let (gone, stay): (Vec<Instance>, Vec<Instance>) = std::mem::take(&mut mig.instances)
            .into_iter()
            .partition(|instance| instance.id == id);
        mig.instances = stay;
        mig.bare.extend(gone.into_iter().next().map(|one| Bare {
            profile: one.profile,
            id,
            start: one.start,
        }));
        Ok(())
    }

    pub fn remove(&mut self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        let mig = self.gpu(gpu)?.mig.get_or_insert_default();
        if mig.instances.iter().any(|instance| instance.id == id) {
            return Err(PartitionError::InUse);
        }
        let before = mig.bare.len();
        mig.bare.retain(|bare| bare.id != id);
        if mig.bare.len() == before {
            return Err(PartitionError::Unknown(format!("GPU instance {id}")));
        }
        Ok(())
    }
}
