//! `cargo xtask image`: the container image, without a container engine.
//!
//! ```text
//! Debian packages ─┐
//! uv (PyPI) ───────┼─► a tree in memory ─► two layers ─► an OCI archive
//! cumulo ──────────┘    (sorted, one time)   (the binary is a layer of its own)
//! ```
//!
//! The same inputs give the same bytes: names are sorted, every file has one
//! time and one owner, and compression has one setting. `deploy/Containerfile`
//! makes the same image with an engine.

mod check;
mod oci;
mod packages;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use tree::Tree;

/// The user that everything runs as.
pub const USER: u32 = 65532;
/// Where state is written, if anywhere.
pub const STATE: &str = "/var/lib/cumulo";
/// What the archive calls the image unless told otherwise.
const NAME: &str = "cumulo.dev/runtime";
const USAGE: &str = "usage: cargo xtask image [--name NAME] [--binary FILE] [--output FILE] [--check]\n\n  --name NAME     what the image is called [cumulo.dev/runtime]\n  --binary FILE   the cumulo to put in [the one that was built last]\n  --output FILE   the archive [.build/image/cumulo-VERSION-ARCHITECTURE.tar]\n  --check         make it twice, compare, unpack it, and run what pods run inside";

struct Arguments {
    name: String,
    binary: PathBuf,
    output: PathBuf,
    check: bool,
}

/// Runs the command.
pub fn run(arguments: &[String]) -> Result<()> {
    let arguments = parse(arguments)?;
    let cache = crate::root().join(".build/image");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let image = make(&arguments, &cache)?;
    write(&arguments.output, &image.archive)?;
    for (name, text) in &image.labels {
        println!("label         {name}={text}");
    }
    println!("architecture  linux/{}", image.architecture);
    for layer in &image.layers {
        println!("layer         {layer}");
    }
    println!("digest        {}", image.digest);
    println!(
        "archive       {} ({:.1} MiB)",
        arguments.output.display(),
        image.archive.len() as f64 / f64::from(1 << 20)
    );
    println!(
        "\npush it:      skopeo copy oci-archive:{} docker://{}:{}",
        arguments.output.display(),
        arguments.name,
        env!("CARGO_PKG_VERSION")
    );
    println!(
        "install it:   cumulo manifests --image {}@{} --set artifacts=s3://BUCKET/PREFIX | kubectl apply --server-side -f -",
        arguments.name, image.digest
    );
    if arguments.check {
        let again = make(&arguments, &cache)?;
        if again.digest != image.digest || again.archive != image.archive {
            bail!(
                "made twice, the image differs: {} and {}",
                image.digest,
                again.digest
            );
        }
        println!("\nok  made twice, the same bytes");
        check::run(&arguments.output, &image.digest)?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Arguments> {
    let mut parsed = Arguments {
        name: NAME.to_owned(),
        binary: crate::binary(),
        output: crate::root().join(format!(
            ".build/image/cumulo-{}-{}.tar",
            env!("CARGO_PKG_VERSION"),
            architecture()?
        )),
        check: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value\n\n{USAGE}"))
        };
        match word.as_str() {
            "--name" => parsed.name = value()?.clone(),
            "--binary" => parsed.binary = PathBuf::from(value()?),
            "--output" => parsed.output = PathBuf::from(value()?),
            "--check" => parsed.check = true,
            other => bail!("{other:?} is not understood\n\n{USAGE}"),
        }
    }
    Ok(parsed)
}

/// The architecture as images name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is made for {other}: amd64 and arm64 are known"),
    }
}

fn make(arguments: &Arguments, cache: &Path) -> Result<oci::Image> {
    let mut base = Tree::default();
    let installed = packages::unpack(&mut base, cache)?;
    configure(&mut base, &installed)?;
    let uv = find_uv()?;
    base.program("/usr/local/bin/uv", read(&uv)?)?;
    let mut own = Tree::default();
    let binary = read(&arguments.binary)
        .context("build it first: cargo build --release --locked --package cumulo")?;
    own.program("/usr/local/bin/cumulo", binary)?;
    let uv_version = first_line(&uv, "--version")?;
    let labels = vec![
        ("org.opencontainers.image.title", "cumulo".to_owned()),
        (
            "org.opencontainers.image.description",
            "From data to a served, self-retraining model through one Kubernetes API".to_owned(),
        ),
        (
            "org.opencontainers.image.version",
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
        ("org.opencontainers.image.licenses", "Apache-2.0".to_owned()),
        ("dev.cumulo.uv", uv_version),
        ("dev.cumulo.packages", installed.len().to_string()),
    ];
    oci::write(&arguments.name, architecture()?, labels, &[base, own])
}

/// What the packages' scripts would have done, as far as it is needed.
fn configure(tree: &mut Tree, installed: &[String]) -> Result<()> {
    // Certificate authorities in one file, as TLS libraries look for them.
    let authorities = tree.concatenate("usr/share/ca-certificates/", ".crt")?;
    tree.file("/etc/ssl/certs/ca-certificates.crt", authorities)?;
    tree.symlink(
        "/usr/lib/ssl/cert.pem",
        "/etc/ssl/certs/ca-certificates.crt",
    )?;
    tree.file(
        "/etc/passwd",
        format!("root:x:0:0:root:/root:/usr/sbin/nologin\ncumulo:x:{USER}:{USER}:cumulo:{STATE}:/usr/sbin/nologin\n"),
    )?;
    tree.file("/etc/group", format!("root:x:0:\ncumulo:x:{USER}:\n"))?;
    tree.file(
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    tree.symlink("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")?;
    tree.folder("/tmp", 0o1777, 0)?;
    tree.folder(STATE, 0o755, USER)?;
    // For whoever asks what is inside, such as a scanner.
    tree.file("/usr/share/cumulo/packages", installed.join("\n") + "\n")?;
    Ok(())
}

/// The uv that `make setup` took from the Python package index.
fn find_uv() -> Result<PathBuf> {
    let own = crate::root().join(".build/tools/bin/uv");
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&search).map(|folder| folder.join("uv")))
        .find(|path| path.is_file())
        .context("there is no uv: `make setup` installs it")
}

fn first_line(program: &Path, argument: &str) -> Result<String> {
    let output = std::process::Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension("tar.new");
    std::fs::write(&unfinished, content)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
