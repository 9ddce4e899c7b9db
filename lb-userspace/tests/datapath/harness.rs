//! What the tests stand on: a site in namespaces of its own, packets made and read without the
//! code under test, and the maps as anybody with root sees them.

pub(crate) mod extension;
pub(crate) mod fragment;
pub(crate) mod icmp;
pub(crate) mod ip;
pub(crate) mod namespaces;
pub(crate) mod packet;
pub(crate) mod pins;
pub(crate) mod plan;
pub(crate) mod site;
