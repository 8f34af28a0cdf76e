//! An image as an OCI archive: a tar file of an image layout
//! (OCI Image Format 1.1, `image-layout.md`).

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tree::Tree;
use super::{STATE, USER};

/// A finished image.
pub struct Image {
    /// The archive.
    pub archive: Vec<u8>,
    /// The manifest's digest: what a registry knows it by.
    pub digest: String,
    /// As images name it.
    pub architecture: &'static str,
    /// Digest and size of each layer, for people.
    pub layers: Vec<String>,
    /// What the image says of itself.
    pub labels: Vec<(&'static str, String)>,
}

/// Writes an image of these layers.
pub fn write(
    name: &str,
    architecture: &'static str,
    labels: Vec<(&'static str, String)>,
    trees: &[Tree],
) -> Result<Image> {
    let mut blobs = Tree::default();
    let (mut layers, mut uncompressed, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for tree in trees {
        let plain = tree.tar()?;
        uncompressed.push(digest(&plain));
        let mut encoder = GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), Compression::new(6));
        encoder.write_all(&plain)?;
        let packed = encoder.finish()?;
        let (digest, size) = (digest(&packed), packed.len());
        told.push(format!(
            "{digest} ({:.1} MiB)",
            size as f64 / f64::from(1 << 20)
        ));
        layers.push(descriptor(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            &digest,
            size,
        ));
        put(&mut blobs, &digest, packed)?;
    }
    let all: BTreeMap<&str, &str> = labels
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": [
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "LANG=C.UTF-8",
                format!("HOME={STATE}"),
                format!("CUMULO_HOME={STATE}"),
                "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            ],
            "Entrypoint": ["cumulo"],
            "Cmd": ["--help"],
            "WorkingDir": STATE,
            "Volumes": {STATE: {}},
            "Labels": all,
        },
        "rootfs": {"type": "layers", "diff_ids": uncompressed},
    });
    let configuration = put_json(
        &mut blobs,
        "application/vnd.oci.image.config.v1+json",
        &configuration,
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": configuration,
        "layers": layers,
        "annotations": all,
    });
    let mut manifest = put_json(&mut blobs, MANIFEST, &manifest)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
    manifest["annotations"] = json!({
        "org.opencontainers.image.ref.name": format!("{name}:{}", env!("CARGO_PKG_VERSION")),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    blobs.file("index.json", index.to_string())?;
    blobs.file(
        "oci-layout",
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )?;
    Ok(Image {
        archive: blobs.tar()?,
        digest,
        architecture,
        layers: told,
        labels,
    })
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn descriptor(media: &str, digest: &str, size: usize) -> Value {
    json!({"mediaType": media, "digest": digest, "size": size})
}

fn put(blobs: &mut Tree, digest: &str, content: Vec<u8>) -> Result<()> {
    blobs.file(&format!("blobs/{}", digest.replace(':', "/")), content)
}

fn put_json(blobs: &mut Tree, media: &str, value: &Value) -> Result<Value> {
    let content = value.to_string().into_bytes();
    let (digest, size) = (digest(&content), content.len());
    put(blobs, &digest, content)?;
    Ok(descriptor(media, &digest, size))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn every_digest_is_of_what_it_names() {
        let mut tree = Tree::default();
        tree.file("/etc/motd", "hello").unwrap();
        let make = || {
            write(
                "n",
                "amd64",
                vec![("a", "b".to_owned())],
                std::slice::from_ref(&tree),
            )
            .unwrap()
        };
        let image = make();
        assert_eq!(image.archive, make().archive);
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(image.archive.as_slice())
            .entries()
            .unwrap()
        {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
        let blobs: Vec<_> = files
            .iter()
            .filter(|(path, content)| path.starts_with("blobs/sha256/") && !content.is_empty())
            .collect();
        assert_eq!(blobs.len(), 3);
        for (path, content) in blobs {
            assert_eq!(
                format!("blobs/{}", digest(content).replace(':', "/")),
                *path
            );
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], image.digest.as_str());
    }
}
