//! What is free on one node.

use super::catalogue::Shape;

/// The most GPUs of one node.
pub const MAX_GPUS: usize = 16;

/// A whole GPU in thousandths.
pub const WHOLE: u16 = 1000;

/// Which device of a node a pod gets, told by what is free on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// The tightest devices that fit: what whole GPUs and CPU pods take.
    #[default]
    Tightest,
    /// A device with this much free.
    Free(u16),
}

/// What is free on a node. Devices are sorted by what is free on them: which
/// of two equal devices is used makes no difference to anything that follows,
/// so nodes that differ only in that are in equal states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeState {
    /// Free CPU in thousandths of a core.
    pub cpu: u32,
    /// Free memory in MiB.
    pub memory: u32,
    /// The kind of node.
    pub kind: u16,
    /// Which classes of GPU pods run here, a bit each: bit 0 a fraction, bit n
    /// n whole GPUs. Zero where the policy does not ask for it.
    pub tags: u32,
    /// Number of devices.
    pub count: u8,
    /// Free thousandths of each device, ascending; zero beyond `count`.
    pub gpus: [u16; MAX_GPUS],
}

impl NodeState {
    /// Free thousandths of each device, ascending.
    pub fn devices(&self) -> &[u16] {
        &self.gpus[..usize::from(self.count)]
    }

    /// Free thousandths in all.
    pub fn gpu_free(&self) -> u32 {
        self.devices().iter().map(|free| u32::from(*free)).sum()
    }

    /// Devices that nobody uses.
    pub fn whole_free(&self) -> usize {
        let devices = self.devices();
        devices.len() - devices.partition_point(|free| *free < WHOLE)
    }

    /// Whether CPU, memory and devices suffice; models are not looked at.
    pub fn has_room(&self, shape: &Shape) -> bool {
        if shape.cpu > self.cpu || shape.memory > self.memory || shape.gpus > self.count {
            return false;
        }
        // Ascending: the device that must still fit is counted from the end.
        shape.gpus == 0 || self.gpus[usize::from(self.count - shape.gpus)] >= shape.milli
    }

    /// The choices of device that differ: what is free on each distinct
    /// device for a fraction, the tightest otherwise.
    pub fn choices(&self, shape: &Shape) -> impl Iterator<Item = Choice> {
        let fraction = shape.is_fraction();
        let devices = self.devices();
        let first = devices.partition_point(|free| *free < shape.milli);
        let levels = devices[first..]
            .iter()
            .enumerate()
            .filter(move |(at, free)| *at == 0 || devices[first + at - 1] != **free)
            .map(|(_, free)| Choice::Free(*free));
        let one = std::iter::once(Choice::Tightest);
        levels
            .filter(move |_| fraction)
            .chain(one.filter(move |_| !fraction))
    }

    /// The state after a pod came. The caller has checked the room.
    #[must_use]
    pub fn after(&self, shape: &Shape, choice: Choice) -> Self {
        let mut next = *self;
        next.cpu -= shape.cpu;
        next.memory -= shape.memory;
        if shape.gpus == 0 {
            return next;
        }
        let count = usize::from(self.count);
        let at = match choice {
            Choice::Free(level) => next.gpus[..count].partition_point(|free| *free < level),
            Choice::Tightest => next.gpus[..count].partition_point(|free| *free < shape.milli),
        };
        // Lowering one device may pass smaller ones: move it to its place.
        for device in at..at + usize::from(shape.gpus) {
            let left = next.gpus[device] - shape.milli;
            let place = next.gpus[..device].partition_point(|free| *free <= left);
            next.gpus.copy_within(place..device, place + 1);
            next.gpus[place] = left;
        }
        next
    }
}
