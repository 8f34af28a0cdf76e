//! MIG through NVIDIA's management library. Nothing else here reaches into it unsafely.
#![expect(
    unsafe_code,
    reason = "nvml-wrapper names the library's functions and wraps none of these"
)]

use std::ffi::CStr;
use std::ptr;

use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    nvmlComputeInstance_t, nvmlComputeInstanceProfileInfo_t, nvmlDevice_t, nvmlGpuInstance_t,
    nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_v2_t,
};

use super::{PartitionError, Partitions, Place};
use crate::devices::NvmlReader;
use crate::devices::nvml::library;
use crate::devices::snapshot::{Bare, Profile};

/// Numbers below which the library has profiles of GPU instances, with room for more.
const GPU_PROFILES: u32 = 32;
/// The same of compute instances.
const COMPUTE_PROFILES: u32 = 16;
/// The engine profile of compute instances that share copy engines and the like: the
/// only one there is.
const SHARED: u32 = 0;
/// More instances or placements of one profile than any GPU has.
const MOST: usize = 16;
/// Version 2 of the structure that describes a profile, as the library wants it told.
const VERSION: u32 = 2 << 24;

/// Answers of the library (`nvmlReturn_t`).
const SUCCESS: u32 = 0;
const NO_PERMISSION: u32 = 4;
const NOT_FOUND: u32 = 6;
const IN_USE: u32 = 19;
const INSUFFICIENT_RESOURCES: u32 = 23;

fn answer(code: u32, what: &str) -> Result<(), PartitionError> {
    Err(match code {
        SUCCESS => return Ok(()),
        INSUFFICIENT_RESOURCES => PartitionError::NoRoom,
        IN_USE => PartitionError::InUse,
        NOT_FOUND => PartitionError::Unknown(what.to_owned()),
        NO_PERMISSION => PartitionError::Driver(
            "no permission: the platform has to run as root to change MIG instances".to_owned(),
        ),
        other => PartitionError::Driver(format!("{what}: error {other}")),
    })
}

/// A function of the library, or that the driver is too old to have it.
macro_rules! call {
    ($nvml:expr, $name:ident) => {
        $nvml
            .lib()
            .$name
            .as_ref()
            .map_err(|_| PartitionError::Driver(format!("it has no {}", stringify!($name))))
    };
}

/// The profiles that a GPU in MIG mode has, and where each can lie.
pub(in crate::devices) fn profiles(device: &Device<'_>) -> Vec<Profile> {
    (0..GPU_PROFILES)
        .filter_map(|number| profile(device, number).ok())
        .filter(|profile| !profile.starts.is_empty())
        .collect()
}

fn profile(device: &Device<'_>, number: u32) -> Result<Profile, PartitionError> {
    let nvml = device.nvml();
    let describe = call!(nvml, nvmlDeviceGetGpuInstanceProfileInfoV)?;
    let list = call!(nvml, nvmlDeviceGetGpuInstancePossiblePlacements_v2)?;
    let handle = handle(device);
    // SAFETY: zeros are a valid value of this plain C structure; the handle is valid as
    // long as `device` lives, and what the call writes to is only used after it.
    let found = unsafe {
        let mut found: nvmlGpuInstanceProfileInfo_v2_t = std::mem::zeroed();
        let size = u32::try_from(size_of_val(&found)).unwrap_or(0);
        found.version = size | VERSION;
        answer(describe(handle, number, &raw mut found), "profile")?;
        found
    };
    let mut placements = [nvmlGpuInstancePlacement_t { start: 0, size: 0 }; MOST];
    let mut count = 0;
    // SAFETY: as above; without a place to write to, the library only counts, and then
    // writes at most as many as that, for which there is room.
    unsafe {
        let counted = list(handle, found.id, ptr::null_mut(), &raw mut count);
        answer(counted, "placement")?;
        if count as usize > MOST {
            return Err(PartitionError::Unknown("placement".to_owned()));
        }
        let listed = list(handle, found.id, placements.as_mut_ptr(), &raw mut count);
        answer(listed, "placement")?;
    }
    let placements = placements.get(..count as usize).unwrap_or_default();
    let name: Vec<u8> = found
        .name
        .iter()
        .map(|letter| letter.to_ne_bytes()[0])
        .chain([0])
        .collect();
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    let name = name.to_string_lossy();
    Ok(Profile {
        name: name.trim().trim_start_matches("MIG ").to_owned(),
        id: found.id,
        compute: found.sliceCount,
        memory: found.memorySizeMB << 20,
        most: found.instanceCount,
        size: placements.first().map_or(0, |placement| placement.size),
        starts: placements.iter().map(|placement| placement.start).collect(),
    })
}

/// The library's own name for a device, valid as long as the device is.
fn handle(device: &Device<'_>) -> nvmlDevice_t {
    // SAFETY: it is only handed to functions of the same library.
    unsafe { device.handle() }
}

/// The GPU instances of these profiles that are not among `known`.
pub(in crate::devices) fn bare(
    device: &Device<'_>,
    profiles: &[Profile],
    known: &[u32],
) -> Vec<Bare> {
    let mut found = Vec::new();
    let nvml = device.nvml();
    let (Ok(list), Ok(describe)) = (
        call!(nvml, nvmlDeviceGetGpuInstances),
        call!(nvml, nvmlGpuInstanceGetInfo),
    ) else {
        return found;
    };
    for profile in profiles
        .iter()
        .filter(|profile| profile.most as usize <= MOST)
    {
        let mut instances: [nvmlGpuInstance_t; MOST] = [ptr::null_mut(); MOST];
        let mut count = 0;
        // SAFETY: a GPU has at most `most` instances of a profile, for which there is room.
        let code = unsafe {
            let room = instances.as_mut_ptr();
            list(handle(device), profile.id, room, &raw mut count)
        };
        if code != SUCCESS {
            continue;
        }
        for instance in instances.iter().take(count as usize) {
            // SAFETY: zeros are a valid value of this plain C structure, and the handle is
            // the library's own.
            let told = unsafe {
                let mut told: nvmlGpuInstanceInfo_t = std::mem::zeroed();
                (describe(*instance, &raw mut told) == SUCCESS).then_some(told)
            };
            if let Some(told) = told.filter(|told| !known.contains(&told.id)) {
                found.push(Bare {
                    profile: profile.name.clone(),
                    id: told.id,
                    start: Some(told.placement.start),
                });
            }
        }
    }
    found
}

fn driver() -> Result<&'static Nvml, PartitionError> {
    library()
        .map_err(|error| PartitionError::Driver(error.to_string()))?
        .ok_or_else(|| PartitionError::Driver("it is not there".to_owned()))
}

fn device<'a>(nvml: &'a Nvml, gpu: &str) -> Result<Device<'a>, PartitionError> {
    nvml.device_by_uuid(gpu)
        .map_err(|error| PartitionError::Driver(error.to_string()))
}

fn instance(device: &Device<'_>, id: u32) -> Result<nvmlGpuInstance_t, PartitionError> {
    let find = call!(device.nvml(), nvmlDeviceGetGpuInstanceById)?;
    let mut found = ptr::null_mut();
    // SAFETY: the handle is valid as long as `device` lives.
    let code = unsafe { find(handle(device), id, &raw mut found) };
    answer(code, &format!("GPU instance {id}"))?;
    Ok(found)
}

/// The compute instance profiles of a GPU instance.
fn compute_profiles(
    nvml: &Nvml,
    instance: nvmlGpuInstance_t,
) -> Result<Vec<nvmlComputeInstanceProfileInfo_t>, PartitionError> {
    let describe = call!(nvml, nvmlGpuInstanceGetComputeInstanceProfileInfo)?;
    let profiles = (0..COMPUTE_PROFILES).filter_map(|number| {
        // SAFETY: zeros are a valid value of this plain C structure, and the handle is
        // the library's own.
        unsafe {
            let mut found: nvmlComputeInstanceProfileInfo_t = std::mem::zeroed();
            (describe(instance, number, SHARED, &raw mut found) == SUCCESS).then_some(found)
        }
    });
    Ok(profiles.collect())
}

impl Partitions for NvmlReader {
    fn make(&self, place: &Place) -> Result<u32, PartitionError> {
        let nvml = driver()?;
        let device = device(nvml, &place.gpu)?;
        let profile = profiles(&device)
            .into_iter()
            .find(|profile| profile.name == place.profile)
            .ok_or_else(|| PartitionError::Unknown(format!("profile {}", place.profile)))?;
        let create = call!(nvml, nvmlDeviceCreateGpuInstanceWithPlacement)?;
        let describe = call!(nvml, nvmlGpuInstanceGetInfo)?;
        let destroy = call!(nvml, nvmlGpuInstanceDestroy)?;
        let wanted = nvmlGpuInstancePlacement_t {
            start: place.start,
            size: profile.size,
        };
        let mut made = ptr::null_mut();
        // SAFETY: the handle is valid as long as `device` lives; the others are the
        // library's own; zeros are a valid value of the plain C structure.
        unsafe {
            let code = create(
                handle(&device),
                profile.id,
                &raw const wanted,
                &raw mut made,
            );
            answer(code, "placement")?;
            let mut told: nvmlGpuInstanceInfo_t = std::mem::zeroed();
            let code = describe(made, &raw mut told);
            if code != SUCCESS {
                // Nobody could name it again.
                destroy(made);
            }
            answer(code, "GPU instance")?;
            Ok(told.id)
        }
    }

    fn complete(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        let nvml = driver()?;
        let instance = instance(&device(nvml, gpu)?, id)?;
        let create = call!(nvml, nvmlGpuInstanceCreateComputeInstance)?;
        let profiles = compute_profiles(nvml, instance)?;
        let most = profiles.iter().map(|profile| profile.sliceCount).max();
        let all = profiles
            .iter()
            .find(|profile| Some(profile.sliceCount) == most)
            .ok_or_else(|| PartitionError::Unknown("profile of compute instances".to_owned()))?;
        let mut made: nvmlComputeInstance_t = ptr::null_mut();
        // SAFETY: the handle is the library's own.
        let code = unsafe { create(instance, all.id, &raw mut made) };
        answer(code, "compute instance")
    }

    fn dismantle(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        let nvml = driver()?;
        let instance = instance(&device(nvml, gpu)?, id)?;
        let list = call!(nvml, nvmlGpuInstanceGetComputeInstances)?;
        let destroy = call!(nvml, nvmlComputeInstanceDestroy)?;
        for profile in compute_profiles(nvml, instance)? {
            if profile.instanceCount as usize > MOST {
                continue;
            }
            let mut there: [nvmlComputeInstance_t; MOST] = [ptr::null_mut(); MOST];
            let mut count = 0;
            // SAFETY: the handles are the library's own, and it lists at most
            // `instanceCount` of them, for which there is room.
            unsafe {
                let room = there.as_mut_ptr();
                let code = list(instance, profile.id, room, &raw mut count);
                answer(code, "compute instance")?;
                for one in there.iter().take(count as usize) {
                    answer(destroy(*one), "compute instance")?;
                }
            }
        }
        Ok(())
    }

    fn remove(&self, gpu: &str, id: u32) -> Result<(), PartitionError> {
        let nvml = driver()?;
        let instance = instance(&device(nvml, gpu)?, id)?;
        let destroy = call!(nvml, nvmlGpuInstanceDestroy)?;
        // SAFETY: the handle is the library's own, and not used again.
        answer(unsafe { destroy(instance) }, "GPU instance")
    }
}
