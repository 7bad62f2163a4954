//! Loads any bytes as a model and runs one image through it: the agent may refuse them, may answer with an error, and may
//! do nothing else. What an engine panics at comes back as an error, so it is no finding. Neither is a file that asks for more memory
//! than there is: the agent tries each in a process of its own first, which has a limit. Any other end of the process is one.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;

use agent::runner::engines::Engines;
use libfuzzer_sys::fuzz_target;

/// At once.
const LARGEST: usize = 512 << 20;
/// By which libFuzzer, with -fork and -ignore_ooms, tells that memory was short.
const OUT_OF_MEMORY: i32 = 71;

struct Bounded;

// SAFETY: the system's allocator does all of it; a request that is too large ends the process.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST {
            // Not std's: libFuzzer takes a target that exits in order for a finding.
            unsafe { libc::_exit(OUT_OF_MEMORY) }
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

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
