//! What a node that runs pods as processes cannot run.

use k8s_openapi::api::core::v1::Pod;

use crate::engine::lifecycle::{self, Failure};
use crate::options::Options;

/// A reason not to run a pod on this node at all.
pub(in crate::engine) fn refusal(pod: &Pod, options: &Options) -> Option<Failure> {
    let spec = pod.spec.as_ref()?;
    for (_, container) in lifecycle::containers(spec) {
        let image = container.image.as_deref().unwrap_or_default();
        if !is_runtime_image(image, &options.runtime_images) {
            return Some(Failure {
                reason: "UnsupportedImage".to_owned(),
                message: format!(
                    "container {:?}: image {image:?} needs a container engine, and this node runs pods as processes; use image {:?}, which stands for this program and any command that is installed here, or a cluster",
                    container.name,
                    options.runtime_images.first().map_or("", String::as_str),
                ),
            });
        }
        let probes = [
            &container.startup_probe,
            &container.readiness_probe,
            &container.liveness_probe,
        ];
        if probes
            .into_iter()
            .flatten()
            .any(|probe| probe.grpc.is_some())
        {
            return Some(Failure {
                reason: "UnsupportedProbe".to_owned(),
                message: format!(
                    "container {:?}: gRPC probes are not supported on this node; use httpGet, tcpSocket or exec",
                    container.name
                ),
            });
        }
    }
    None
}

/// Whether an image, whatever its tag or digest, means "this program".
fn is_runtime_image(image: &str, runtime_images: &[String]) -> bool {
    let without_digest = image.split('@').next().unwrap_or_default();
    let repository = match without_digest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => without_digest,
    };
    runtime_images.iter().any(|runtime| runtime == repository)
}
