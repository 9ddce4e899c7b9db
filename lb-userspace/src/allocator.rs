//! The memory of the process: mimalloc. A request makes and frees dozens of small things, mostly on
//! one thread.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_collect, mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};

/// The alignment of whatever mimalloc gives: its blocks are of whole words. The functions that are
/// told an alignment take nearly twice as long, since they take more than they need and look for a
/// good place in it wherever the size is large and no power of two.
const WORD: usize = align_of::<usize>();

/// The allocator of the process.
#[derive(Debug)]
pub struct Allocator;

#[expect(unsafe_code, reason = "allocators have no safe interface")]
// SAFETY: mimalloc gives memory of the size and the alignment that it is asked for, or null, and
// unwinds nowhere; each pointer goes back to the allocator that it came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size will do, and the alignment is a power of two.
        let memory = unsafe {
            match layout.align() {
                ..=WORD => mi_malloc(layout.size()),
                align => mi_malloc_aligned(layout.size(), align),
            }
        };
        memory.cast()
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        let memory = unsafe {
            match layout.align() {
                ..=WORD => mi_zalloc(layout.size()),
                align => mi_zalloc_aligned(layout.size(), align),
            }
        };
        memory.cast()
    }

    unsafe fn dealloc(&self, memory: *mut u8, _: Layout) {
        // SAFETY: the caller promises that it came from here.
        unsafe { mi_free(memory.cast()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the memory came from here; and as for `alloc`.
        let memory = unsafe {
            match layout.align() {
                ..=WORD => mi_realloc(memory.cast(), size),
                align => mi_realloc_aligned(memory.cast(), size, align),
            }
        };
        memory.cast()
    }
}

/// Lets the allocator give back to the kernel what this thread has freed and not used again for a
/// while. By itself it does so only while it is asked for more, which after a rush may be never.
#[expect(unsafe_code, reason = "the allocator has no safe interface for this")]
pub(crate) fn give_back() {
    // SAFETY: it looks through what belongs to this thread, and frees nothing that is in use.
    unsafe { mi_collect(false) }
}
