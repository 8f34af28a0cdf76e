//! Where state is: the addresses of the database and of the artifact store.

use std::fmt;
use std::path::{Path, PathBuf};

use url::Url;

use crate::error::{Error, Result};

/// Where the tracking database is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum DatabaseAddress {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server, which several platforms may share.
    Postgres(Box<Url>),
}

/// Where artifacts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreAddress {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket of an S3 service, and what all keys in it begin with.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
}

/// The address without its password: the only form that may be shown or logged.
pub(crate) fn redacted(address: &str) -> String {
    let Ok(mut url) = Url::parse(address) else {
        // What is not a URL may still hold a password before its last `@`.
        return match address.rsplit_once('@') {
            Some((_, rest)) => format!("…@{rest}"),
            None => address.to_owned(),
        };
    };
    if url.password().is_some() {
        let _ = url.set_password(Some("…"));
    }
    if url.query().is_some() {
        let kept: Vec<(String, String)> = url
            .query_pairs()
            .map(|(key, value)| {
                let secret = key.eq_ignore_ascii_case("password");
                let value = if secret { "…" } else { &value };
                (key.into_owned(), value.to_owned())
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(kept);
    }
    // The mark reads better than its percent-encoding.
    url.to_string().replace("%E2%80%A6", "…")
}

/// The `file:` or `sqlite:` URL of a path.
pub(crate) fn of_path(scheme: &str, path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match Url::from_file_path(&absolute) {
        Ok(url) => format!("{scheme}{}", url.as_str().trim_start_matches("file")),
        // Cannot happen: the path is absolute.
        Err(()) => format!("{scheme}://{}", absolute.display()),
    }
}

/// The path that a URL such as `file:///var/lib/x` names.
fn path_of(text: &str, url: &Url) -> Option<PathBuf> {
    // Only `file:` URLs are known to name paths, and `x:y` would become absolute.
    let rest = url.as_str().strip_prefix(url.scheme())?;
    let absolute = text.get(url.scheme().len()..)?;
    if !absolute.starts_with(":///") && !absolute.starts_with("://localhost/") {
        return None;
    }
    let plain = url.query().is_none() && url.fragment().is_none();
    let path = Url::parse(&format!("file{rest}"))
        .ok()?
        .to_file_path()
        .ok()?;
    let local = matches!(url.host_str(), None | Some("" | "localhost"));
    (plain && local && path != Path::new("/")).then_some(path)
}

impl DatabaseAddress {
    /// # Errors
    /// When it is neither `sqlite:///path` nor `postgres://host/database`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::invalid(format!(
                "The tracking database '{}' cannot be used: {why}. Give \
                 sqlite:///absolute/path/tracking.db or \
                 postgres://user@host:5432/database (the password in PGPASSWORD, or a file that \
                 PGPASSFILE names).",
                redacted(text)
            ))
        };
        let url = Url::parse(text).map_err(|error| refuse(&format!("it is no URL ({error})")))?;
        match url.scheme() {
            "sqlite" => match path_of(text, &url) {
                Some(path) => Ok(Self::Sqlite(path)),
                None => Err(refuse("it is not the absolute path of a file")),
            },
            "postgres" | "postgresql" => {
                if url.path().trim_matches('/').is_empty() {
                    return Err(refuse("it names no database"));
                }
                Ok(Self::Postgres(Box::new(url)))
            }
            other => Err(refuse(&format!("'{other}' is not a database known here"))),
        }
    }
}

impl fmt::Display for DatabaseAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "{}", path.display()),
            Self::Postgres(url) => formatter.write_str(&redacted(url.as_str())),
        }
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl StoreAddress {
    /// # Errors
    /// When it is neither `file:///path` nor `s3://bucket/prefix`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::invalid(format!(
                "The artifact store '{}' cannot be used: {why}. Give \
                 file:///absolute/path/artifacts or s3://bucket/prefix (credentials in \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, another service than Amazon's in \
                 AWS_ENDPOINT_URL).",
                redacted(text)
            ))
        };
        let url = Url::parse(text).map_err(|error| refuse(&format!("it is no URL ({error})")))?;
        match url.scheme() {
            "file" => match path_of(text, &url) {
                Some(path) => Ok(Self::Folder(path)),
                None => Err(refuse("it is not the absolute path of a folder")),
            },
            "s3" => {
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(refuse("credentials do not belong into the address"));
                }
                if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
                    return Err(refuse("it has more than a bucket and a prefix"));
                }
                let bucket = url.host_str().unwrap_or_default().to_owned();
                if bucket.is_empty() {
                    return Err(refuse("it names no bucket"));
                }
                let prefix = url.path().trim_matches('/').to_owned();
                let plain = prefix.split('/').all(|part| {
                    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.=".contains(c);
                    !matches!(part, "." | "..") && part.chars().all(fine)
                });
                let empty_part = !prefix.is_empty() && prefix.split('/').any(str::is_empty);
                if !plain || empty_part {
                    return Err(refuse(
                        "its prefix may have letters, digits, '-', '_', '.', '=' and single slashes",
                    ));
                }
                Ok(Self::S3 { bucket, prefix })
            }
            other => Err(refuse(&format!(
                "'{other}' is not a kind of store known here"
            ))),
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(formatter, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(formatter, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(formatter, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DatabaseAddress, StoreAddress, of_path, redacted};
    use std::path::Path;

    fn shown<T: std::fmt::Debug>(result: crate::Result<T>) -> String {
        match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => error
                .message
                .split(". Give ")
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }

    #[test]
    fn databases_are_files_or_postgresql() {
        let all: Vec<String> = [
            "sqlite:///var/lib/cumulo/tracking.db",
            "sqlite:///with%20space/%C3%BC.db",
            "postgres://cumulo:geheim@db:5432/cumulo?sslmode=require",
            "postgresql://db/cumulo?password=geheim",
            "sqlite://tracking.db",
            "sqlite:tracking.db",
            "postgres://cumulo:geheim@db",
            "mysql://cumulo:geheim@db/x",
            "/var/lib/tracking.db",
            "postgres//u:geheim@db/x",
        ]
        .iter()
        .map(|text| shown(DatabaseAddress::parse(text)))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r"
        /var/lib/cumulo/tracking.db
        /with space/ü.db
        postgres://cumulo:…@db:5432/cumulo?sslmode=require
        postgresql://db/cumulo?password=…
        The tracking database 'sqlite://tracking.db' cannot be used: it is not the absolute path of a file
        The tracking database 'sqlite:tracking.db' cannot be used: it is not the absolute path of a file
        The tracking database 'postgres://cumulo:…@db' cannot be used: it names no database
        The tracking database 'mysql://cumulo:…@db/x' cannot be used: 'mysql' is not a database known here
        The tracking database '/var/lib/tracking.db' cannot be used: it is no URL (relative URL without a base)
        The tracking database '…@db/x' cannot be used: it is no URL (relative URL without a base)
        ");
    }

    #[test]
    fn stores_are_folders_or_buckets() {
        let all: Vec<String> = [
            "file:///var/lib/cumulo/artifacts",
            "s3://models",
            "s3://models/team-a/prod/",
            "s3://key:geheim@models/x",
            "s3://models/a/../b c",
            "s3://models/a//b",
            "s3:///x",
            "gs://models",
            "artifacts",
            "file://host/x",
            "file:///",
        ]
        .iter()
        .map(|text| shown(StoreAddress::parse(text)))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r#"
        Folder("/var/lib/cumulo/artifacts")
        S3 { bucket: "models", prefix: "" }
        S3 { bucket: "models", prefix: "team-a/prod" }
        The artifact store 's3://key:…@models/x' cannot be used: credentials do not belong into the address
        The artifact store 's3://models/b%20c' cannot be used: its prefix may have letters, digits, '-', '_', '.', '=' and single slashes
        The artifact store 's3://models/a//b' cannot be used: its prefix may have letters, digits, '-', '_', '.', '=' and single slashes
        The artifact store 's3:///x' cannot be used: it names no bucket
        The artifact store 'gs://models' cannot be used: 'gs' is not a kind of store known here
        The artifact store 'artifacts' cannot be used: it is no URL (relative URL without a base)
        The artifact store 'file://host/x' cannot be used: it is not the absolute path of a folder
        The artifact store 'file:///' cannot be used: it is not the absolute path of a folder
        "#);
    }

    #[test]
    fn a_path_comes_back_from_its_url() {
        for path in ["/a/b.db", "/with space/ü#?%.db"] {
            let DatabaseAddress::Sqlite(back) =
                DatabaseAddress::parse(&of_path("sqlite", Path::new(path))).unwrap()
            else {
                panic!("{path} became PostgreSQL");
            };
            assert_eq!(back, Path::new(path));
        }
    }

    #[test]
    fn no_password_is_shown() {
        for text in [
            "postgres://u:geheim@db/x",
            "postgres://db/x?user=u&password=geheim&sslmode=require",
            "postgres//u:geheim@db/x",
        ] {
            assert!(!redacted(text).contains("geheim"), "{}", redacted(text));
        }
    }
}
