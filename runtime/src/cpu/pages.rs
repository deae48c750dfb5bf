//! Huge pages for large buffers. Reading a weight is what a step of few tokens costs, and the processor's prefetcher stops at the end
//! of each page; results of large products come with one page fault per page. Where the system gives huge pages to those that ask
//! (Linux's `madvise` policy), this asks.

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Whether a buffer of `len` values is worth asking for.
pub(super) fn worthwhile<S>(len: usize) -> bool {
    len.saturating_mul(size_of::<S>()) >= 2 * HUGE_PAGE
}

/// Asks that the room behind a vector's values be made of huge pages. Has to come before the first write: pages that are
/// there already stay small. Nothing depends on the answer.
pub(super) fn ask<S>(values: &mut Vec<S>) {
    let room = values.spare_capacity_mut();
    if !worthwhile::<S>(room.len()) {
        return;
    }
    let bytes = size_of_val(room);
    let start: *mut u8 = room.as_mut_ptr().cast();
    // Only whole huge pages that lie in the room
    let skipped = start.align_offset(HUGE_PAGE);
    if skipped < bytes {
        let whole = (bytes - skipped) / HUGE_PAGE * HUGE_PAGE;
        advise(start.wrapping_add(skipped), whole);
    }
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn advise(start: *mut u8, bytes: usize) {
    use std::ffi::{c_int, c_void};
    /// Of Linux's `mman.h`.
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }
    if bytes > 0 {
        // SAFETY: this advice changes no content and no access right, only which page sizes the kernel may use; a range that it can't
        // use is refused with an error code, which is as good as an answer here. The declaration is the C library's, which std links.
        unsafe { madvise(start.cast(), bytes, MADV_HUGEPAGE) };
    }
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
fn advise(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_are_left_alone() {
        assert!(!worthwhile::<f32>(1000));
        assert!(worthwhile::<f32>(1 << 20));
        assert!(!worthwhile::<f64>(0));
    }

    #[test]
    fn values_survive_in_buffers_of_all_sizes() {
        for len in [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 17] {
            let mut values: Vec<u32> = Vec::with_capacity(len);
            ask(&mut values);
            values.extend(0..len as u32);
            // Room that remains behind values may be asked for too
            values.reserve(2 << 20);
            ask(&mut values);
            assert!(
                values
                    .iter()
                    .enumerate()
                    .all(|(i, &value)| i as u32 == value)
            );
        }
    }

    /// The kernel marks a mapping that was advised with `hg`.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn the_kernel_hears_of_large_buffers() {
        let supported =
            std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists();
        let mut values: Vec<u64> = Vec::with_capacity(4 << 20);
        ask(&mut values);
        values.resize(4 << 20, 1);
        let middle = values[2 << 20..].as_ptr() as usize;
        let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
            return;
        };
        let mut inside = false;
        for line in maps.lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-')
                && let (Ok(from), Ok(to)) = (
                    usize::from_str_radix(from, 16),
                    usize::from_str_radix(to, 16),
                )
            {
                inside = (from..to).contains(&middle);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                assert!(
                    !supported || flags.split(' ').any(|flag| flag == "hg"),
                    "{flags}"
                );
                return;
            }
        }
    }
}
