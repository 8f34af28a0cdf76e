//! The arrows between crates, and what deciding crates must not know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The crates and what each depends on: `[dependencies]` only, tests may know more.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(crates()).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let mut inside = false;
        let mut found = BTreeSet::new();
        for line in manifest.lines() {
            if line.starts_with('[') {
                inside = line == "[dependencies]";
            } else if inside && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
                found.insert(name.trim().to_owned());
            }
        }
        all.insert(
            folder.file_name().unwrap().to_string_lossy().into_owned(),
            found,
        );
    }
    all
}

#[test]
fn arrows_point_one_way() {
    // A crate may depend on crates of a lower layer only. Two adapters never
    // import each other: they meet in the API or in a protocol.
    let layers: [&[&str]; 4] = [
        &["cumulo-api"],
        &["cumulo-scale", "cumulo-learn", "cumulo-schedule"],
        &[
            "cumulo-apiserver",
            "cumulo-control",
            "cumulo-data",
            "cumulo-gateway",
            "cumulo-node",
            "cumulo-serve",
            "cumulo-track",
        ],
        &["cumulo"],
    ];
    let layer = |name: &str| layers.iter().position(|layer| layer.contains(&name));
    for (name, found) in dependencies() {
        let own = layer(&name).unwrap_or_else(|| {
            panic!("{name} has no layer: give it one here and in ARCHITECTURE.md")
        });
        for dependency in found
            .iter()
            .filter(|dependency| dependency.starts_with("cumulo"))
        {
            let lower = layer(dependency).unwrap_or_else(|| panic!("{dependency} has no layer"));
            assert!(
                lower < own,
                "{name} must not depend on {dependency}: arrows point one way"
            );
        }
    }
}

#[test]
fn what_each_crate_must_not_know() {
    let all = dependencies();
    let forbidden: [(&str, &[&str]); 8] = [
        (
            "cumulo-scale",
            &[
                "kube",
                "k8s-openapi",
                "tokio",
                "axum",
                "reqwest",
                "chrono",
                "rand",
                "sqlx",
            ],
        ),
        (
            "cumulo-schedule",
            &[
                "cumulo-api",
                "kube",
                "k8s-openapi",
                "tokio",
                "axum",
                "reqwest",
                "chrono",
                "sqlx",
            ],
        ),
        (
            "cumulo-learn",
            &[
                "kube",
                "k8s-openapi",
                "tokio",
                "axum",
                "reqwest",
                "rand",
                "sqlx",
            ],
        ),
        (
            "cumulo-api",
            &["tokio", "axum", "reqwest", "chrono", "rand", "sqlx"],
        ),
        ("cumulo-apiserver", &["cumulo-api"]),
        ("cumulo-serve", &["kube", "k8s-openapi"]),
        ("cumulo-data", &["kube", "k8s-openapi"]),
        ("cumulo-track", &["kube", "k8s-openapi"]),
    ];
    for (name, unwanted) in forbidden {
        for dependency in unwanted {
            assert!(
                !all[name].contains(*dependency),
                "{name} must not know {dependency}"
            );
        }
    }
}

#[test]
fn deciding_reads_no_clock_and_does_no_input_or_output() {
    let banned = [
        "SystemTime::now",
        "Instant::now",
        "Utc::now",
        "std::net",
        "std::process",
        "std::env::var",
        "thread_rng",
    ];
    for name in [
        "cumulo-scale/src",
        "cumulo-schedule/src",
        "cumulo-learn/src",
        "cumulo-api/src",
        "cumulo-apiserver/src/rbac",
    ] {
        let mut folders = vec![crates().join(name)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let is_test = path
                    .file_name()
                    .is_some_and(|file| file.to_string_lossy().contains("test"));
                if is_test || path.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                for word in banned {
                    assert!(
                        !code.contains(word),
                        "{} uses {word}: deciding is pure",
                        path.display()
                    );
                }
                let may_write = path.ends_with("artifact/mod.rs") || path.ends_with("model.rs");
                assert!(
                    may_write || !code.contains("std::fs"),
                    "{} touches files: only the artifact module does",
                    path.display()
                );
            }
        }
    }
}
