//! Devices from NVIDIA's management library (NVML), loaded at run time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{
    ComputeMode as NvmlComputeMode, EccCounter, MemoryError, TemperatureSensor,
    TemperatureThreshold,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use parking_lot::Mutex;

use super::mig::{Partitions, nvml as mig};
use super::snapshot::{ComputeMode, Ecc, Gpu, Instance, Link, Memory, Mig, Pci, Process, Snapshot};
use super::{ReadError, Reader};

/// More links than any GPU has; asking for one that is not there ends the count.
const MOST_LINKS: u32 = 32;
/// Events taken from the driver at one reading.
const MOST_EVENTS: usize = 256;

/// The library stays loaded as long as the process lives, so that events that
/// come between two readings are not lost.
static LIBRARY: OnceLock<Nvml> = OnceLock::new();

/// Reads the machine's NVIDIA GPUs. Without a driver there are none.
#[derive(Default)]
pub struct NvmlReader {
    memory: Mutex<Remembered>,
}

/// What has to be kept between readings.
#[derive(Default)]
struct Remembered {
    /// The GPUs as last seen well, by their number: one that falls off the bus
    /// no longer says who it is.
    seen: BTreeMap<u32, Gpu>,
    events: Option<EventSet<'static>>,
    /// XID errors by UUID.
    xids: BTreeMap<String, Vec<u64>>,
}

impl Reader for NvmlReader {
    fn partitions(&self) -> Option<&dyn Partitions> {
        Some(self)
    }

    fn read(&self) -> Result<Snapshot, ReadError> {
        let Some(nvml) = library()? else {
            return Ok(Snapshot::default());
        };
        let count = nvml
            .device_count()
            .map_err(|error| ReadError::Driver(error.to_string()))?;
        let mut memory = self.memory.lock();
        if memory.events.is_none() {
            memory.events = watch_errors(nvml, count);
        }
        memory.take_events();
        let mut gpus = Vec::new();
        for index in 0..count {
            let (gpu, well) = match nvml.device_by_index(index) {
                Ok(device) => match read_gpu(&device, index) {
                    Ok(gpu) => (gpu, true),
                    Err(error) => (memory.lost(index, error.to_string()), false),
                },
                Err(error) => (memory.lost(index, error.to_string()), false),
            };
            if well {
                memory.seen.insert(index, gpu.clone());
            }
            gpus.push(gpu);
        }
        // The driver counts anew when it is loaded again: what was there is missed.
        let gone: Vec<u32> = memory
            .seen
            .keys()
            .copied()
            .filter(|index| *index >= count)
            .filter(|index| gpus.iter().all(|gpu| gpu.uuid != memory.seen[index].uuid))
            .collect();
        for index in gone {
            gpus.push(memory.lost(index, "the driver no longer lists it".to_owned()));
        }
        for gpu in &mut gpus {
            gpu.xids = memory.xids.get(&gpu.uuid).cloned().unwrap_or_default();
        }
        Ok(Snapshot {
            driver: nvml.sys_driver_version().ok(),
            cuda: nvml.sys_cuda_driver_version().ok().map(|version| {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                format!("{major}.{minor}")
            }),
            gpus,
            cpu: None,
        })
    }
}

impl Remembered {
    fn lost(&self, index: u32, fault: String) -> Gpu {
        let known = self.seen.get(&index).cloned().unwrap_or_default();
        Gpu {
            index,
            fault: Some(fault),
            memory: Memory {
                used: 0,
                ..known.memory
            },
            power_milliwatts: None,
            temperature: None,
            energy_millijoules: None,
            utilization: None,
            processes: Vec::new(),
            ..known
        }
    }

    fn take_events(&mut self) {
        let Some(events) = &self.events else { return };
        for _ in 0..MOST_EVENTS {
            // Ends with a timeout when nothing is left.
            let Ok(event) = events.wait(0) else { return };
            if let (Some(XidError::Value(xid)), Ok(uuid)) = (event.event_data, event.device.uuid())
            {
                let known = self.xids.entry(uuid).or_default();
                if !known.contains(&xid) {
                    known.push(xid);
                }
            }
        }
    }
}

/// The library; `None` where there is no driver.
pub(super) fn library() -> Result<Option<&'static Nvml>, ReadError> {
    if let Some(nvml) = LIBRARY.get() {
        return Ok(Some(nvml));
    }
    match Nvml::init() {
        Ok(nvml) => Ok(Some(LIBRARY.get_or_init(|| nvml))),
        Err(
            NvmlError::LibloadingError(_)
            | NvmlError::LibraryNotFound
            | NvmlError::DriverNotLoaded
            | NvmlError::NotFound,
        ) => Ok(None),
        Err(error) => Err(ReadError::Driver(error.to_string())),
    }
}

/// Asks to be told of XID errors. Without that, health is what can be read.
fn watch_errors(nvml: &'static Nvml, count: u32) -> Option<EventSet<'static>> {
    let mut events = nvml.create_event_set().ok()?;
    for index in 0..count {
        let Ok(device) = nvml.device_by_index(index) else {
            continue;
        };
        // A device that refuses takes the set with it, so it is made anew.
        events = match device.register_events(EventTypes::CRITICAL_XID_ERROR, events) {
            Ok(events) => events,
            Err(error) => {
                tracing::debug!(%error, index, "the driver reports no errors of this gpu");
                return None;
            }
        };
    }
    Some(events)
}

/// What a device says of itself. Only what every GPU knows is an error when it
/// is missing; the rest is absent where the model has it not.
fn read_gpu(device: &Device<'_>, index: u32) -> Result<Gpu, NvmlError> {
    let pci = device.pci_info()?;
    let memory = memory_of(device)?;
    let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
    Ok(Gpu {
        index,
        uuid: device.uuid()?,
        name: device.name()?,
        minor: device.minor_number().ok(),
        compute_capability: device
            .cuda_compute_capability()
            .ok()
            .map(|version| format!("{}.{}", version.major, version.minor)),
        memory,
        mig: read_mig(device),
        pci: place(&pci.bus_id, Path::new("/sys/bus/pci/devices")),
        links: read_links(device),
        power_milliwatts: device.power_usage().ok(),
        energy_millijoules: device.total_energy_consumption().ok(),
        compute_mode: device.compute_mode().ok().map(|mode| match mode {
            NvmlComputeMode::Default => ComputeMode::Default,
            NvmlComputeMode::Prohibited => ComputeMode::Prohibited,
            NvmlComputeMode::ExclusiveThread | NvmlComputeMode::ExclusiveProcess => {
                ComputeMode::ExclusiveProcess
            }
        }),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        slowdown_temperature: device
            .temperature_threshold(TemperatureThreshold::Slowdown)
            .ok(),
        utilization: device.utilization_rates().ok().map(|rates| rates.gpu),
        ecc: ecc(MemoryError::Corrected)
            .zip(ecc(MemoryError::Uncorrected))
            .map(|(corrected, uncorrected)| Ecc {
                corrected,
                uncorrected,
            }),
        processes: read_processes(device),
        ..Gpu::default()
    })
}

fn memory_of(device: &Device<'_>) -> Result<Memory, NvmlError> {
    let memory = device.memory_info()?;
    Ok(Memory {
        total: memory.total,
        reserved: memory.reserved,
        used: memory.used,
    })
}

/// Processes with a context of their own, and clients of MPS servers: the driver
/// has a list of each, and some drivers name a client in both.
fn read_processes(device: &Device<'_>) -> Vec<Process> {
    let own = device.running_compute_processes().unwrap_or_default();
    let clients = device.mps_running_compute_processes().unwrap_or_default();
    let lists = [(own, false), (clients, true)];
    let mut busy: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
    // Without a time: what the driver still has, some seconds. The newest counts.
    for sample in device
        .process_utilization_stats(None::<u64>)
        .unwrap_or_default()
    {
        let known = busy.entry(sample.pid).or_default();
        if sample.timestamp >= known.0 {
            *known = (sample.timestamp, sample.sm_util.min(100));
        }
    }
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    for (list, mps) in lists {
        for process in list {
            let memory = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            let known = processes.entry(process.pid).or_insert(Process {
                pid: process.pid,
                memory,
                instance: process.gpu_instance_id,
                utilization: busy.get(&process.pid).map(|(_, percent)| *percent),
                mps,
            });
            known.memory = known.memory.max(memory);
            known.mps |= mps;
        }
    }
    processes.into_values().collect()
}

fn read_links(device: &Device<'_>) -> Vec<Link> {
    let mut peers: BTreeMap<String, u32> = BTreeMap::new();
    for number in 0..MOST_LINKS {
        let link = device.link_wrapper_for(number);
        match link.is_active() {
            Ok(true) => {
                if let Ok(peer) = link.remote_pci_info() {
                    let up = peers.entry(sysfs_address(&peer.bus_id)).or_default();
                    *up = up.saturating_add(1);
                }
            }
            Ok(false) => {}
            Err(_) => break,
        }
    }
    peers
        .into_iter()
        .map(|(peer, up)| Link { peer, up })
        .collect()
}

fn read_mig(device: &Device<'_>) -> Option<Mig> {
    let mode = device.mig_mode().ok()?;
    let mut mig = Mig {
        enabled: mode.current == 1,
        ..Mig::default()
    };
    if !mig.enabled {
        return Some(mig);
    }
    for number in 0..device.mig_device_count().unwrap_or(0) {
        // Numbers without an instance answer "not found".
        let Ok(instance) = device.mig_device_by_index(number) else {
            continue;
        };
        let (Ok(uuid), Ok(name), Ok(memory)) =
            (instance.uuid(), instance.name(), memory_of(&instance))
        else {
            continue;
        };
        let id = instance_id(&instance).unwrap_or(number);
        mig.instances.push(Instance {
            uuid,
            profile: profile_of(&name),
            id,
            start: instance_start(device, id),
            memory,
        });
    }
    mig.profiles = mig::profiles(device);
    let known: Vec<u32> = mig.instances.iter().map(|instance| instance.id).collect();
    mig.bare = mig::bare(device, &mig.profiles, &known);
    Some(mig)
}

/// `NVIDIA A100-SXM4-80GB MIG 1g.10gb` is of profile `1g.10gb`.
fn profile_of(name: &str) -> String {
    name.rsplit(' ').next().unwrap_or(name).to_owned()
}

/// The number of the GPU instance that a MIG device lies in.
fn instance_id(instance: &Device<'_>) -> Option<u32> {
    let call = instance
        .nvml()
        .lib()
        .nvmlDeviceGetGpuInstanceId
        .as_ref()
        .ok()?;
    let mut id = 0;
    #[expect(unsafe_code, reason = "nvml-wrapper has no method for this call")]
    // SAFETY: the handle is valid as long as `instance` lives, and `id` is
    // written to during the call only.
    let code = unsafe { call(instance.handle(), &raw mut id) };
    (code == 0).then_some(id)
}

/// The first memory slice of a GPU instance, where the driver tells.
fn instance_start(device: &Device<'_>, id: u32) -> Option<u32> {
    let library = device.nvml().lib();
    let by_id = library.nvmlDeviceGetGpuInstanceById.as_ref().ok()?;
    let information = library.nvmlGpuInstanceGetInfo.as_ref().ok()?;
    #[expect(unsafe_code, reason = "nvml-wrapper has no method for these calls")]
    // SAFETY: the handle is valid as long as `device` lives; both structures are
    // plain C data for which zeros are a valid value, written to during the calls
    // only, and the second is read only after its call succeeded.
    unsafe {
        let mut instance = std::mem::zeroed();
        if by_id(device.handle(), id, &raw mut instance) != 0 {
            return None;
        }
        let mut found = std::mem::zeroed();
        if information(instance, &raw mut found) != 0 {
            return None;
        }
        Some(found.placement.start)
    }
}

/// NVML writes `00000000:07:00.0` where the kernel writes `0000:07:00.0`.
fn sysfs_address(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 && domain.starts_with("0000") => {
            format!("{}:{rest}", &domain[domain.len() - 4..])
        }
        _ => lower,
    }
}

/// Where the kernel says that a device is plugged in.
pub(super) fn place(bus_id: &str, devices: &Path) -> Pci {
    let bus_id = sysfs_address(bus_id);
    let folder = devices.join(&bus_id);
    // /sys/devices/pci0000:00/0000:00:01.0/0000:07:00.0
    let root = std::fs::canonicalize(&folder).ok().and_then(|path| {
        path.components().find_map(|part| {
            let part = part.as_os_str().to_str()?;
            part.starts_with("pci").then(|| part.to_owned())
        })
    });
    // -1 where the machine has one memory only.
    let numa = std::fs::read_to_string(folder.join("numa_node"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Pci { bus_id, root, numa }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_profiles_are_read() {
        assert_eq!(sysfs_address("00000000:07:00.0"), "0000:07:00.0");
        assert_eq!(sysfs_address("00000001:A7:00.0"), "0001:a7:00.0");
        assert_eq!(sysfs_address("0000:07:00.0"), "0000:07:00.0");
        assert_eq!(profile_of("NVIDIA A100-SXM4-80GB MIG 1g.10gb"), "1g.10gb");
    }

    #[test]
    fn the_place_comes_from_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("devices/pci0000:00/0000:07:00.0");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(device.join("numa_node"), "1\n").unwrap();
        let bus = folder.path().join("bus");
        std::fs::create_dir(&bus).unwrap();
        std::os::unix::fs::symlink(&device, bus.join("0000:07:00.0")).unwrap();
        let expected = Pci {
            bus_id: "0000:07:00.0".to_owned(),
            root: Some("pci0000:00".to_owned()),
            numa: Some(1),
        };
        assert_eq!(place("00000000:07:00.0", &bus), expected);
    }

    /// On a machine with a driver this reads it; on one without there is nothing.
    #[test]
    fn no_driver_is_no_error() {
        let snapshot = NvmlReader::default().read().unwrap();
        if snapshot.driver.is_none() {
            assert_eq!(snapshot, Snapshot::default());
        }
    }
}
