//! The one thing the engine asks of the operating system: large pages for its pools.

/// Asks for large pages in the memory that a vector has reserved and not yet used. A page that is touched for the first time
/// costs about a microsecond, and with small pages one order in twenty would pay it; large ones also spare most of the
/// address translation of look-ups that go all over a pool. It is advice: where it cannot be followed nothing is lost.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "madvise has no safe face")]
pub fn advise_large_pages<T>(reserved: &Vec<T>) {
    const PAGE: usize = 4_096;
    let start = (reserved.as_ptr() as usize).next_multiple_of(PAGE);
    let end = reserved.as_ptr() as usize + reserved.capacity() * size_of::<T>();
    if start < end {
        // SAFETY: the range lies in one allocation that we own, and this advice never changes what memory holds.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Elsewhere pages have the size that they have.
#[cfg(not(target_os = "linux"))]
pub fn advise_large_pages<T>(_reserved: &Vec<T>) {}
