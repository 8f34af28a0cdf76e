//! Names the LightGBM library that `native.rs` embeds.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=LIGHTGBM_LIBRARY");
    let library = std::env::var("LIGHTGBM_LIBRARY").unwrap_or_default();
    if !Path::new(&library).is_file() {
        println!(
            "cargo::error=LightGBM's library is not at `{library}`: run `make setup`, which takes it \
             from the Python package `lightgbm`, or name another one in LIGHTGBM_LIBRARY"
        );
        return;
    }
    println!("cargo::rerun-if-changed={library}");
    println!("cargo::rustc-env=LIGHTGBM_LIBRARY={library}");
}
