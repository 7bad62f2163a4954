//! Reads any text as a deployment's manifest: it is refused in words, or read.
#![no_main]

use coordinator::manifest::DeploymentManifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = DeploymentManifest::read(text) {
        assert!(!error.to_string().is_empty());
    }
});
