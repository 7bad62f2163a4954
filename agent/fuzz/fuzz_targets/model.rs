//! Loads any bytes as a model and runs one image through it: the agent may refuse them, may answer with an error, and may
//! do nothing else. What an engine panics at comes back as an error, so it is no finding; an abort or a lack of memory is.
#![no_main]

use std::sync::OnceLock;

use agent::runner::engines::Engines;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: {
    // The fuzzer takes every panic for a finding, a caught one too.
    std::panic::set_hook(Box::new(|_| {}));
}, |bytes: &[u8]| {
    static ENGINES: OnceLock<Engines> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| Engines::rten(1));
    let Ok(engine) = engines.load(bytes.to_vec(), engines.usual()) else { return };
    // An image of what it asks for, unless that is more than any test would send.
    if engine.numel() <= 1 << 20 {
        let _ = engine.run(&vec![0.5; engine.numel()]);
    }
});
