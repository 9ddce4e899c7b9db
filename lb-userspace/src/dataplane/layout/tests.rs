//! Layouts read from made-up type information, and from maps made of it in the kernel.

mod comparing;
mod forge;
mod pins;
mod reading;
