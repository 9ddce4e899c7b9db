//! Which service a VIP, port and protocol stand for.

use lb_common::service::{Service, ServiceKey};

use crate::{ip::Ip, maps::SERVICES, parse::UDP, pipeline::Exit};

/// Returns the service on `vip`:`port`. A packet for no service is the host's.
#[inline(always)]
pub(crate) fn find(vip: Ip, port: u16) -> Result<&'static Service, Exit> {
    // SAFETY: services change by replacement of the whole value, seldom; one that is removed
    // while a packet reads it may serve that packet.
    unsafe { SERVICES.get(&ServiceKey::new(vip.bytes(), port, UDP)) }.ok_or(Exit::Pass)
}

/// Returns whether `address` is the VIP of some service.
#[inline(always)]
pub(crate) fn is_vip(address: Ip) -> bool {
    SERVICES
        .get_ptr(&ServiceKey::marker(address.bytes()))
        .is_some()
}
