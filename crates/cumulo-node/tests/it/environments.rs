//! Python environments with the real uv and a small pure package.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cumulo_node::environment::{Environment, EnvironmentOptions, EnvironmentSpec, prepare};
use parking_lot::Mutex;

struct Cache {
    folder: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
    options: EnvironmentOptions,
}

impl Cache {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut options = EnvironmentOptions::new(folder.path());
        options.progress = Arc::new({
            let told = Arc::clone(&told);
            move |line| told.lock().push(line.to_owned())
        });
        Self {
            folder,
            told,
            options,
        }
    }
}

fn packages(packages: &[&str]) -> EnvironmentSpec {
    EnvironmentSpec {
        packages: packages
            .iter()
            .map(|package| (*package).to_owned())
            .collect(),
        ..EnvironmentSpec::default()
    }
}

fn six_version(environment: &Environment) -> String {
    let output = Command::new(&environment.python)
        .args(["-c", "import six; print(six.__version__)"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn environments_are_shared_by_those_who_agree_and_by_no_others() {
    let cache = Cache::new();
    let (old, new) = (packages(&["six==1.15.0"]), packages(&["six==1.16.0"]));
    let (one, same, other) = tokio::join!(
        prepare(&old, &cache.options),
        prepare(&old, &cache.options),
        prepare(&new, &cache.options),
    );
    let (one, same, other) = (one.unwrap(), same.unwrap(), other.unwrap());
    assert_eq!(one, same);
    assert_ne!(one.lock_hash, other.lock_hash);
    assert_eq!(six_version(&one), "1.15.0");
    assert_eq!(six_version(&other), "1.16.0");
    assert!(one.lock_text.contains("six==1.15.0") && one.lock_text.contains("--hash=sha256:"));
    let built = cache
        .told
        .lock()
        .iter()
        .filter(|line| line.contains("building"))
        .count();
    assert_eq!(built, 2, "{:?}", cache.told.lock());

    // Again: neither resolver nor network nor uv.
    let offline = EnvironmentOptions {
        uv: Some(PathBuf::from("/nonexistent/uv")),
        ..cache.options.clone()
    };
    assert_eq!(prepare(&old, &offline).await.unwrap(), one);

    // Another request with the same lock shares the environment.
    let locked = EnvironmentSpec {
        lock: Some(one.lock_text.clone()),
        ..EnvironmentSpec::default()
    };
    assert_eq!(prepare(&locked, &cache.options).await.unwrap().bin, one.bin);

    // One that was left half built is built anew.
    std::fs::remove_file(one.bin.parent().unwrap().join("ready")).unwrap();
    let again = prepare(&old, &cache.options).await.unwrap();
    assert_eq!(six_version(&again), "1.15.0");
    assert!(
        cache
            .told
            .lock()
            .iter()
            .any(|line| line.contains("half built"))
    );
    assert!(cache.folder.path().join("environments").exists());
}

#[tokio::test]
async fn what_cannot_be_resolved_says_why() {
    let cache = Cache::new();
    let error = prepare(&packages(&["six==1.15.0", "six==1.16.0"]), &cache.options)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the environment cannot be resolved: "),
        "{error}"
    );
    assert!(
        error.contains("six==1.15.0") && error.contains("six==1.16.0"),
        "{error}"
    );
    assert!(!error.contains('\n'), "{error}");
    let left = std::fs::read_dir(cache.folder.path().join("environments"))
        .unwrap()
        .count();
    assert_eq!(left, 1, "only the folder of requests");

    let python = EnvironmentSpec {
        python: Some("3.1".to_owned()),
        ..EnvironmentSpec::default()
    };
    let error = prepare(&python, &cache.options)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("Python 3.1 is not installed here and could not be installed: "),
        "{error}"
    );
    assert!(error.contains("or ask for one of: 3."), "{error}");
}

#[tokio::test]
async fn an_environment_without_packages_is_just_python() {
    let cache = Cache::new();
    let environment = prepare(&EnvironmentSpec::default(), &cache.options)
        .await
        .unwrap();
    assert!(environment.python.exists());
    let variables = environment.variables("/usr/bin");
    assert_eq!(
        variables[0].1,
        format!("{}:/usr/bin", environment.bin.display())
    );
}
