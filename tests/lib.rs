//! The laboratory of the black-box tests and of the demonstration: sites of network namespaces
//! with clients, gateways and a balancer in them, traffic, and a handle on a running `vipd`.
//!
//! Start with [`lab::site`]: a [`lab::Lab`] is one site. Everything here needs root, and panics with
//! a sentence that says what failed: a laboratory that cannot be built is a test that failed.
//!
//! Nothing outlives the process that made it: namespaces have no name on the machine and are held
//! by descriptors, children are told to die with the thread that started them, and files live in one
//! temporary directory for each site.

pub mod lab;
