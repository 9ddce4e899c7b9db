//! The compile-time guard of shared layouts.

/// Asserts the size and alignment of a type that kernel and daemon both read.
///
/// Equality of size with the sum of the fields is not checked here: types name their padding, and
/// `bpftool btf dump` shows them.
macro_rules! assert_layout {
    ($type:ty, size = $size:literal, align = $align:literal) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            assert!(core::mem::align_of::<$type>() == $align);
        };
    };
}

pub(crate) use assert_layout;
