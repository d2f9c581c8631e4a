//! The binary: see `pusher-bridge --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    give_large_memory_back();
    pusher_bridge::cli::main()
}

/// From so many bytes on glibc maps memory, and unmaps it when it is freed (mallopt(3), `M_MMAP_THRESHOLD`). This is
/// what it begins with; set, it stays so. Left alone it grows to the largest block that was ever freed, and below
/// it freed memory is kept: forty clients with messages of 8 MiB, again and again, left 350 MiB resident with
/// nobody connected. Now 184 MiB is the peak (`tests/hostile`, `buffers_kept`).
const MAPPED_FROM_BYTES: i32 = 128 * 1024;

/// The crate's only `unsafe`: nothing else sets this from within.
#[allow(unsafe_code)]
fn give_large_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a number, before there is another thread. Should it fail, the default stays.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
}
