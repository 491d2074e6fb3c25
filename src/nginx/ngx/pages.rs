//! Which pages of a guest's memory have been written to, as the kernel tells.

use std::os::fd::AsRawFd;

use crate::runtime::reset::{Ranges, add, read_page_map, with_page_map};

/// `struct pm_scan_arg` (Linux 6.7 and later, `linux/fs.h`).
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`: pages one behind the other.
#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

// Kinds of pages: those of a file, such as of the initial memory that nobody has written to; in memory;
// swapped out; and those that are zero, and have been read only.
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;

/// Regions that are asked for at a time.
const REGIONS: usize = 64;

/// Finds written pages: by one call where the kernel has it, else by reading the whole page map.
pub(crate) fn find_written(memory: &[u8], written: &mut Ranges) -> bool {
    scan(memory, written) || {
        written.clear();
        read_page_map(memory, written)
    }
}

fn scan(memory: &[u8], written: &mut Ranges) -> bool {
    let base = memory.as_ptr().addr() as u64;
    let end = base + memory.len() as u64;
    let scanned = with_page_map(|map| {
        let mut regions = [Region { start: 0, end: 0, categories: 0 }; REGIONS];
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            flags: 0,
            start: base,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: REGIONS as u64,
            max_pages: 0,
            category_inverted: FILE | ZERO,
            category_mask: FILE | ZERO,
            category_anyof_mask: PRESENT | SWAPPED,
            return_mask: PRESENT,
        };
        while scan.start < end {
            // SAFETY: the structure is the kernel's, of the size that it says, and points at an array that
            // is as long as it says and ours alone.
            let found = unsafe { libc::ioctl(map.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            // Negative where the kernel does not know the call. Where it stopped for lack of room, it goes on.
            let found = usize::try_from(found).ok().filter(|&found| found <= REGIONS)?;
            if scan.walk_end <= scan.start {
                return None;
            }
            for region in &regions[..found] {
                let at = |address: u64| (address.clamp(base, end) - base) as usize;
                add(written, at(region.start)..at(region.end));
            }
            scan.start = scan.walk_end;
        }
        Some(())
    });
    scanned.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::FromRawFd;
    use std::ptr;

    const PAGE: usize = 4096;
    const PAGES: usize = 40;

    /// Private memory of so many pages, the first of which are those of a file, as the engine has it.
    fn memory(of_file: usize) -> &'static mut [u8] {
        let len = PAGES * PAGE;
        // SAFETY: new mappings at an address that the kernel chooses, and one on a part of the first; they
        // stay for as long as the test runs. The file is complete.
        unsafe {
            let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(ptr::null_mut(), len, access, anonymous, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            let fd = libc::memfd_create(c"image".as_ptr(), 0);
            let mut file = File::from_raw_fd(fd);
            file.write_all(&vec![7; of_file * PAGE]).expect("written");
            if of_file > 0 {
                let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
                assert_eq!(libc::mmap(at, of_file * PAGE, access, fixed, fd, 0), at);
            }
            std::slice::from_raw_parts_mut(at.cast(), len)
        }
    }

    fn pages(written: &Ranges) -> Vec<usize> {
        written.iter().flat_map(|range| range.start / PAGE..range.end.div_ceil(PAGE)).collect()
    }

    #[test]
    fn written_pages_are_found_and_read_ones_of_a_file_are_not() {
        let memory = memory(20);
        let read: u32 = memory[..10 * PAGE].iter().map(|&byte| u32::from(byte)).sum();
        assert_eq!(read, 7 * 10 * PAGE as u32);
        let expected = [1, 2, 5, 19, 20, 30, 39];
        for at in expected {
            memory[at * PAGE + 100] = 1;
        }
        let mut written = Ranges::new();
        assert!(read_page_map(memory, &mut written));
        assert_eq!(pages(&written), expected);
        // Where the kernel has it.
        written.clear();
        if scan(memory, &mut written) {
            assert_eq!(pages(&written), expected);
        }
        written.clear();
        assert!(find_written(&memory[PAGE..35 * PAGE], &mut written));
        assert_eq!(pages(&written), [0, 1, 4, 18, 19, 29]);
    }

    #[test]
    fn more_regions_than_are_asked_for_at_a_time_are_found() {
        let memory = memory(0);
        let expected: Vec<_> = (0..PAGES).step_by(2).collect();
        for at in &expected {
            memory[at * PAGE] = 1;
        }
        for _ in 0..2 {
            let mut written = Ranges::new();
            assert!(find_written(memory, &mut written));
            assert_eq!(pages(&written), expected);
        }
    }
}
