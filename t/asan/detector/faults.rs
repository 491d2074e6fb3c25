//! A fault in Rust, compiled as the module under test is.

/// Reads the byte behind the `length` bytes at `start`.
#[unsafe(no_mangle)]
pub extern "C" fn detector_overrun_in_rust(start: *const u8, length: usize) -> u8 {
    // SAFETY: none, this is the fault: one byte more than the caller has allocated.
    unsafe { start.add(length).read_volatile() }
}
