//! What `--set` may say of an installation. Pure.

use std::fmt::Write as _;

/// An installation, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Everything that is in a namespace goes there.
    pub namespace: String,
    /// The image of Cumulo's own roles.
    pub image: String,
    /// The image of the pods that the controllers make; that of the roles when absent.
    pub workload_image: Option<String>,
    /// A Secret with the registry's credentials.
    pub pull_secret: Option<String>,
    /// Replicas of the operator; one works, the others stand by.
    pub operators: u32,
    /// Replicas of the gateway; all work.
    pub gateways: u32,
    /// Replicas of tracking; more than one need a database.
    pub trackings: u32,
    /// Replicas of the scheduler; one works, the others stand by.
    pub schedulers: u32,
    /// Whether Cumulo's scheduler places the pods of Cumulo's kinds.
    pub scheduler: bool,
    /// The StorageClass of tracking's volume; the cluster's default when absent.
    pub storage_class: Option<String>,
    /// The size of tracking's volume.
    pub storage_size: String,
    /// The Secret with PostgreSQL's URL; SQLite on a volume when absent.
    pub database_secret: Option<String>,
    /// The key in that Secret.
    pub database_key: String,
    /// Where artifacts and snapshots lie.
    pub artifacts: Option<String>,
    /// The Secret with the object store's variables (`AWS_ACCESS_KEY_ID` and so on).
    pub artifacts_secret: Option<String>,
    /// Where users reach the gateway from outside.
    pub gateway_url: Option<String>,
    /// Where users reach tracking from outside.
    pub tracking_url: Option<String>,
}

impl Settings {
    /// What holds when nothing is said.
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            image: cumulo_api::RUNTIME_IMAGE.to_owned(),
            workload_image: None,
            pull_secret: None,
            operators: 2,
            gateways: 2,
            trackings: 1,
            schedulers: 1,
            scheduler: true,
            storage_class: None,
            storage_size: "10Gi".to_owned(),
            database_secret: None,
            database_key: "url".to_owned(),
            artifacts: None,
            artifacts_secret: None,
            gateway_url: None,
            tracking_url: None,
        }
    }
}

/// Why settings are refused; each sentence says what is allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Not `KEY=VALUE`.
    #[error("{0:?} is not KEY=VALUE, such as replicas.gateway=3")]
    Form(String),
    /// A key that there is not.
    #[error("there is no setting {key:?}{suggestion}")]
    Key {
        /// As it was written.
        key: String,
        /// What may have been meant, or where the list is.
        suggestion: String,
    },
    /// A value that the key does not take.
    #[error("{key}={value:?}: {expected}")]
    Value {
        /// The key.
        key: String,
        /// As it was written.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Together(&'static str),
}

/// A setting.
struct Key {
    name: &'static str,
    help: &'static str,
    /// Puts a value in, or says what it should be.
    set: fn(&mut Settings, &str) -> Result<(), &'static str>,
}

const REPLICAS: &str = "expected a whole number from 1 to 100";
const NAME: &str = "expected the name of an object: lowercase letters, digits, '-' and '.'";

fn replicas(text: &str) -> Result<u32, &'static str> {
    text.parse()
        .ok()
        .filter(|number| (1..=100).contains(number))
        .ok_or(REPLICAS)
}

fn flag(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "expected true or false")
}

/// A name as Kubernetes has it (RFC 1123 subdomain).
fn name(text: &str) -> Result<Option<String>, &'static str> {
    let fits = text
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    let ends = |edge: Option<char>| edge.is_some_and(|c| c.is_ascii_alphanumeric());
    if fits && text.len() <= 253 && ends(text.chars().next()) && ends(text.chars().last()) {
        Ok(Some(text.to_owned()))
    } else {
        Err(NAME)
    }
}

/// A reference to an image: no spaces, and not a URL.
fn image(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(char::is_whitespace) || text.contains("://") {
        return Err(
            "expected an image, such as registry.example.org/cumulo@sha256:… (`cargo xtask image` makes one)",
        );
    }
    Ok(text.to_owned())
}

fn quantity(text: &str) -> Result<String, &'static str> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let units = ["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    if digits.parse::<u64>().is_ok_and(|number| number > 0) && units.contains(&unit) {
        Ok(text.to_owned())
    } else {
        Err("expected a size, such as 20Gi")
    }
}

fn web(text: &str) -> Result<Option<String>, &'static str> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(Some(text.trim_end_matches('/').to_owned()))
        }
        _ => Err("expected a URL, such as https://cumulo.example.org"),
    }
}

fn artifacts(text: &str) -> Result<Option<String>, &'static str> {
    const EXPECTED: &str =
        "expected s3://BUCKET/PREFIX, or file:///PATH of a folder that every node has";
    let url = url::Url::parse(text).map_err(|_| EXPECTED)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "credentials do not belong here: put them into a Secret, artifacts.secret names it",
        );
    }
    let known = match url.scheme() {
        "s3" => url.host_str().is_some_and(|bucket| !bucket.is_empty()),
        "file" => url.path().len() > 1 && url.host_str().is_none_or(str::is_empty),
        _ => false,
    };
    if known {
        Ok(Some(text.trim_end_matches('/').to_owned()))
    } else {
        Err(EXPECTED)
    }
}

const KEYS: &[Key] = &[
    Key {
        name: "artifacts",
        help: "where artifacts and snapshots lie: s3://BUCKET/PREFIX (needed)",
        set: |settings, text| {
            settings.artifacts = artifacts(text)?;
            Ok(())
        },
    },
    Key {
        name: "artifacts.secret",
        help: "Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL …",
        set: |settings, text| {
            settings.artifacts_secret = name(text)?;
            Ok(())
        },
    },
    Key {
        name: "database.secret",
        help: "Secret with PostgreSQL's URL (without one: SQLite on a volume)",
        set: |settings, text| {
            settings.database_secret = name(text)?;
            Ok(())
        },
    },
    Key {
        name: "database.key",
        help: "the key in that Secret [url]",
        set: |settings, text| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if text.is_empty() || !text.chars().all(fits) {
                return Err("expected a key: letters, digits, '-', '_' and '.'");
            }
            settings.database_key = text.to_owned();
            Ok(())
        },
    },
    Key {
        name: "gateway.url",
        help: "where users reach the gateway (without it: through the API server)",
        set: |settings, text| {
            settings.gateway_url = web(text)?;
            Ok(())
        },
    },
    Key {
        name: "image",
        help: "image of Cumulo's roles, as --image",
        set: |settings, text| {
            settings.image = image(text)?;
            Ok(())
        },
    },
    Key {
        name: "image.pullSecret",
        help: "Secret with the registry's credentials",
        set: |settings, text| {
            settings.pull_secret = name(text)?;
            Ok(())
        },
    },
    Key {
        name: "replicas.gateway",
        help: "gateways, all of which work [2]",
        set: |settings, text| {
            settings.gateways = replicas(text)?;
            Ok(())
        },
    },
    Key {
        name: "replicas.operator",
        help: "operators, one of which works [2]",
        set: |settings, text| {
            settings.operators = replicas(text)?;
            Ok(())
        },
    },
    Key {
        name: "replicas.scheduler",
        help: "schedulers, one of which works [1]",
        set: |settings, text| {
            settings.schedulers = replicas(text)?;
            Ok(())
        },
    },
    Key {
        name: "replicas.tracking",
        help: "tracking servers; more than one need a database [1]",
        set: |settings, text| {
            settings.trackings = replicas(text)?;
            Ok(())
        },
    },
    Key {
        name: "scheduler.enabled",
        help: "place pods with Cumulo's scheduler [true]",
        set: |settings, text| {
            settings.scheduler = flag(text)?;
            Ok(())
        },
    },
    Key {
        name: "storage.class",
        help: "StorageClass of tracking's volume [the cluster's default]",
        set: |settings, text| {
            settings.storage_class = name(text)?;
            Ok(())
        },
    },
    Key {
        name: "storage.size",
        help: "size of tracking's volume [10Gi]",
        set: |settings, text| {
            settings.storage_size = quantity(text)?;
            Ok(())
        },
    },
    Key {
        name: "tracking.url",
        help: "where users reach tracking (without it: through the API server)",
        set: |settings, text| {
            settings.tracking_url = web(text)?;
            Ok(())
        },
    },
    Key {
        name: "workloads.image",
        help: "image of the pods that the controllers make [that of the roles]",
        set: |settings, text| {
            settings.workload_image = Some(image(text)?);
            Ok(())
        },
    },
];

/// The settings, one a line, for `--help`.
pub fn help() -> String {
    let width = KEYS.iter().map(|key| key.name.len()).max().unwrap_or(0);
    let mut text = String::from("Settings:\n");
    for key in KEYS {
        let _ = writeln!(text, "  {:width$}  {}", key.name, key.help);
    }
    text
}

/// Reads the settings of an installation.
///
/// # Errors
/// For an unknown key (with the one that is nearest), a value that a key does not
/// take, and settings that do not go together.
pub fn read(
    namespace: &str,
    image: Option<&str>,
    sets: &[String],
) -> Result<Settings, SettingsError> {
    let settings = read_partly(namespace, image, sets)?;
    check(&settings)?;
    Ok(settings)
}

/// Reads settings that are not all of an installation's: what is needed may be missing.
///
/// # Errors
/// As [`read`], but for the last.
pub fn read_partly(
    namespace: &str,
    image: Option<&str>,
    sets: &[String],
) -> Result<Settings, SettingsError> {
    let refuse = |key: &str, value: &str, expected| SettingsError::Value {
        key: key.to_owned(),
        // Somebody may have put a password into an address.
        value: match value.contains("://") && value.contains('@') {
            true => "…".to_owned(),
            false => value.to_owned(),
        },
        expected,
    };
    name(namespace).map_err(|expected| refuse("namespace", namespace, expected))?;
    let mut settings = Settings::new(namespace);
    let given = image.map(|image| ("image", image));
    let mut pairs = Vec::new();
    for set in sets {
        let pair = set
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()));
        pairs.push(pair.ok_or_else(|| SettingsError::Form(set.clone()))?);
    }
    for (key, value) in given.into_iter().chain(pairs) {
        let found = KEYS
            .iter()
            .find(|known| known.name == key)
            .ok_or_else(|| unknown(key))?;
        (found.set)(&mut settings, value).map_err(|expected| refuse(key, value, expected))?;
    }
    Ok(settings)
}

fn unknown(key: &str) -> SettingsError {
    let suggestion = KEYS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(known.name, key), known.name))
        .min()
        .filter(|(distance, _)| *distance <= 4)
        .map_or_else(
            || ": `cumulo manifests --help` lists them".to_owned(),
            |(_, known)| format!(", did you mean {known:?}?"),
        );
    SettingsError::Key {
        key: key.to_owned(),
        suggestion,
    }
}

fn check(settings: &Settings) -> Result<(), SettingsError> {
    if settings.artifacts.is_none() {
        return Err(SettingsError::Together(
            "pods on several nodes need one place for artifacts and snapshots: --set artifacts=s3://BUCKET/PREFIX, and --set artifacts.secret=NAME for its credentials",
        ));
    }
    if settings.trackings > 1 && settings.database_secret.is_none() {
        return Err(SettingsError::Together(
            "replicas.tracking above 1 needs PostgreSQL (database.secret=NAME): one SQLite file has one writer",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        match read("cumulo-system", None, &sets) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn mistakes_are_answered_with_what_is_allowed() {
        let all = [
            answer(&["artifacts=s3://b/p", "replicas.gatway=3"]),
            answer(&["artifacts=s3://b/p", "colour=blue"]),
            answer(&["artifacts=s3://b/p", "replicas.gateway"]),
            answer(&["artifacts=s3://b/p", "replicas.gateway=none"]),
            answer(&["artifacts=s3://b/p", "storage.size=10 GB"]),
            answer(&["artifacts=s3://b/p", "scheduler.enabled=yes"]),
            answer(&["artifacts=s3://b/p", "image=https://example.org/cumulo"]),
            answer(&["artifacts=s3://b/p", "tracking.url=example.org"]),
            answer(&["artifacts=s3://key:secret@b/p"]),
            answer(&["artifacts=gs://b/p"]),
            answer(&["artifacts=s3://b/p", "replicas.tracking=2"]),
            answer(&[
                "artifacts=s3://b/p",
                "database.secret=db",
                "replicas.tracking=2",
            ]),
            answer(&[]),
            read("Cumulo", None, &[]).unwrap_err().to_string(),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn every_setting_sets_something() {
        let values = [
            "s3://b/p",
            "a",
            "a",
            "dsn",
            "https://g",
            "r/i@sha256:0",
            "a",
            "5",
            "5",
            "5",
            "5",
            "false",
            "fast",
            "1Ti",
            "https://t",
            "w/i",
        ];
        assert_eq!(values.len(), KEYS.len());
        for (key, value) in KEYS.iter().zip(values) {
            let mut settings = Settings::new("n");
            (key.set)(&mut settings, value).unwrap();
            assert_ne!(settings, Settings::new("n"), "{}", key.name);
        }
    }

    #[test]
    fn what_is_said_last_holds() {
        let sets = ["artifacts=s3://b", "image=a:1", "image=b:2"].map(str::to_owned);
        assert_eq!(read("n", Some("c:3"), &sets).unwrap().image, "b:2");
    }
}
