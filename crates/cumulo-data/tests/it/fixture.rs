//! A project folder and an artifact store, both temporary.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use cumulo_data::request::FileFormatName;
use cumulo_data::{
    ArtifactStore, BuildError, BuildOutcome, BuildRequest, Check, Options, SourceOptions,
    SourceSpec, build, fetch_snapshot, read_snapshot,
};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore, ObjectStoreExt};

use crate::peer::Peer;

/// Everything a build needs.
pub struct Fixture {
    folder: tempfile::TempDir,
    pub store: ArtifactStore,
    bucket: Option<Bucket>,
    pub options: Options,
}

/// The bucket behind the store, looked at from outside.
struct Bucket {
    prefix: String,
    url: String,
    environment: [(String, String); 5],
}

impl Bucket {
    /// A client of its own: the connections of another belong to the runtime of the
    /// test, which stands still while it waits.
    fn client(&self) -> AmazonS3 {
        let environment = self.environment.iter();
        let builder = environment.fold(AmazonS3Builder::new(), |builder, (name, value)| {
            let key = name.to_lowercase().parse().expect("a setting's name");
            builder.with_config(key, value)
        });
        builder.with_url(&self.url).build().expect("a client")
    }

    fn key(&self, path: &str) -> object_store::path::Path {
        format!("{}/{path}", self.prefix).into()
    }
}

/// The S3 server that tests share, each with prefixes of its own.
fn s3() -> &'static [String] {
    static S3: OnceLock<Peer> = OnceLock::new();
    &S3.get_or_init(|| Peer::start("s3.py")).words
}

/// Waits for a future, from within a test that is one itself.
fn wait<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let run = || {
        tokio::runtime::Runtime::new()
            .expect("a runtime")
            .block_on(future)
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
}

impl Fixture {
    /// The store in a bucket.
    pub fn in_a_bucket() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let [endpoint, key, secret, bucket] = s3() else {
            panic!("four words are told of an S3 server");
        };
        let prefix = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let environment = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", key),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = format!("s3://{bucket}/{prefix}");
        Self {
            store: ArtifactStore::from_url_with(&url, &environment).expect("a store"),
            bucket: Some(Bucket {
                prefix,
                url,
                environment,
            }),
            ..Self::new()
        }
    }

    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let project = folder.path().join("project");
        std::fs::create_dir(&project).expect("a folder");
        let project = project.canonicalize().expect("a path");
        let store = ArtifactStore::local(&folder.path().join("artifacts")).expect("a store");
        Self {
            store,
            bucket: None,
            options: Options {
                roots: vec![project],
                threads: 2,
                ..Options::default()
            },
            folder,
        }
    }

    /// Writes a file of the project.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.options.roots[0].join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path
    }

    /// The same, through gzip.
    pub fn gzip(&self, name: &str, content: &str) -> PathBuf {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content.as_bytes()).expect("compressed");
        self.file(name, encoder.finish().expect("compressed"))
    }

    /// The same, through zstd.
    pub fn zstd(&self, name: &str, content: &str) -> PathBuf {
        self.file(
            name,
            zstd::encode_all(content.as_bytes(), 1).expect("compressed"),
        )
    }

    pub async fn build(&self, request: &BuildRequest) -> Result<BuildOutcome, BuildError> {
        build(request, &self.store, &self.options, |_| {}).await
    }

    /// Builds, and gives the message of the failure with the folder's name taken out.
    pub async fn failure(&self, request: &BuildRequest) -> String {
        let error = self
            .build(request)
            .await
            .expect_err("the build should be refused");
        assert!(
            self.versions(request).is_empty(),
            "nothing may be published on {error}"
        );
        let folder = self.folder.path().canonicalize().expect("a path");
        format!("[{}] {error}", error.reason())
            .replace(&*folder.to_string_lossy(), "FOLDER")
            .replace(&*self.folder.path().to_string_lossy(), "FOLDER")
    }

    /// The versions in the store, and nothing else may lie there.
    pub fn versions(&self, request: &BuildRequest) -> Vec<String> {
        let path = format!("datasets/{}/{}", request.namespace, request.name);
        if let Some(bucket) = &self.bucket {
            let key = bucket.key(&path);
            let listed = wait(bucket.client().list_with_delimiter(Some(&key))).expect("a listing");
            assert!(listed.objects.is_empty(), "{listed:?}");
            let names = listed.common_prefixes.iter().filter_map(|p| p.filename());
            return names.map(str::to_owned).collect();
        }
        let folder = self.store.local_path(&path).expect("a path");
        let Ok(entries) = std::fs::read_dir(folder.expect("a local store")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    }

    fn path_of(request: &BuildRequest, outcome: &BuildOutcome) -> String {
        format!(
            "datasets/{}/{}/{}",
            request.namespace, request.name, outcome.version
        )
    }

    /// When a file of a snapshot was written.
    pub fn written(&self, request: &BuildRequest, outcome: &BuildOutcome, file: &str) -> String {
        let path = format!("{}/{file}", Self::path_of(request, outcome));
        if let Some(bucket) = &self.bucket {
            let meta = wait(bucket.client().head(&bucket.key(&path))).expect("an object");
            return format!("{} {:?}", meta.last_modified, meta.e_tag);
        }
        let path = self.store.local_path(&path).expect("a path");
        let metadata = std::fs::metadata(path.expect("a local store")).expect("a file");
        format!("{:?}", metadata.modified().expect("a time"))
    }

    /// Removes a file of a snapshot behind the store's back.
    pub fn lose(&self, request: &BuildRequest, outcome: &BuildOutcome, file: &str) {
        let path = format!("{}/{file}", Self::path_of(request, outcome));
        if let Some(bucket) = &self.bucket {
            wait(bucket.client().delete(&bucket.key(&path))).expect("deleted");
            return;
        }
        let path = self.store.local_path(&path).expect("a path");
        std::fs::remove_file(path.expect("a local store")).expect("removed");
    }

    /// The snapshot's folder on this machine, fetched anew where the store is elsewhere.
    pub fn folder_of(&self, request: &BuildRequest, outcome: &BuildOutcome) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let to = self.folder.path().join(format!("fetched/{number}"));
        let path = Self::path_of(request, outcome);
        let fetched = match &self.bucket {
            None => wait(fetch_snapshot(&self.store, &path, &to)),
            Some(bucket) => {
                let store = ArtifactStore::from_url_with(&bucket.url, &bucket.environment);
                wait(fetch_snapshot(&store.expect("a store"), &path, &to))
            }
        };
        fetched.expect("fetched")
    }

    /// The snapshot's rows.
    pub fn rows(&self, request: &BuildRequest, outcome: &BuildOutcome) -> Vec<RecordBatch> {
        read_snapshot(&self.folder_of(request, outcome), None).expect("readable")
    }

    /// The snapshot's rows as text.
    pub fn show(&self, request: &BuildRequest, outcome: &BuildOutcome) -> String {
        pretty_format_batches(&self.rows(request, outcome))
            .expect("printable")
            .to_string()
    }
}

/// A request over sources given as (name, uri).
pub fn request(sources: &[(&str, &str)], query: &str) -> BuildRequest {
    BuildRequest {
        namespace: "default".to_owned(),
        name: "d".to_owned(),
        sources: sources
            .iter()
            .map(|(name, uri)| SourceSpec {
                name: (*name).to_owned(),
                uris: vec![(*uri).to_owned()],
                ..SourceSpec::default()
            })
            .collect(),
        query: query.to_owned(),
        checks: Vec::new(),
    }
}

/// The same with checks in JSON.
pub fn with_checks(mut request: BuildRequest, checks: serde_json::Value) -> BuildRequest {
    request.checks = serde_json::from_value::<Vec<Check>>(checks).expect("checks");
    request
}

/// The same with a format and options for every source.
pub fn with_format(
    mut request: BuildRequest,
    format: Option<FileFormatName>,
    options: SourceOptions,
) -> BuildRequest {
    for source in &mut request.sources {
        source.format = format;
        source.options = options.clone();
    }
    request
}

/// Writes a batch as Parquet into memory.
pub fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("closed");
    bytes
}

/// Writes a batch as an Arrow IPC file into memory.
pub fn arrow_file(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer =
        arrow::ipc::writer::FileWriter::try_new(&mut bytes, &batch.schema()).expect("a writer");
    writer.write(batch).expect("written");
    writer.finish().expect("closed");
    drop(writer);
    bytes
}

/// Two columns, `n` rows: 0, 1, 2 … and their names.
pub fn numbers(n: i64) -> RecordBatch {
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..n).map(|value| format!("row {value}")),
    ));
    RecordBatch::try_from_iter([("a", values), ("b", names)]).expect("a batch")
}
