//! Which service a VIP, port and protocol stand for.

use lb_common::service::{Service, ServiceKey};

use crate::{
    epoch::Stamp,
    ip::Ip,
    maps::{SERVICE_CACHE, SERVICES},
    parse::UDP,
    pipeline::Exit,
};

/// Returns the service on `vip`:`port`. A packet for no service is the host's.
#[inline(always)]
pub(crate) fn find(vip: Ip, port: u16) -> Result<&'static Service, Exit> {
    // SAFETY: services change by replacement of the whole value, seldom; one that is removed
    // while a packet reads it may serve that packet.
    unsafe { SERVICES.get(&ServiceKey::new(vip.bytes(), port, UDP)) }.ok_or(Exit::Pass)
}

/// Entries of `service_cache`.
pub(crate) const SERVICE_COPIES: u32 = 64;

/// Value of `service_cache`: a service as this processor has last found it.
#[repr(C)]
pub(crate) struct Copied {
    vip: Ip,
    stamp: u64,
    port: u32,
    service: Service,
}

/// Like [`find`], by this processor's own copy where that holds: a third of the time, which counts
/// for packets that are refused.
#[inline(always)]
pub(crate) fn find_copied(stamp: Stamp, vip: Ip, port: u16) -> Result<&'static Service, Exit> {
    let place =
        ((vip.low >> 32) as u32 ^ (vip.low >> 56) as u32 ^ u32::from(port)) & (SERVICE_COPIES - 1);
    let Some(copied) = SERVICE_CACHE.get_ptr_mut(place) else {
        return find(vip, port);
    };
    // SAFETY: the slot belongs to this processor, and XDP programs do not interrupt each other.
    let copied = unsafe { &mut *copied };
    if copied.stamp != stamp.word() || copied.vip != vip || copied.port != u32::from(port) {
        copied.service = *find(vip, port)?;
        copied.vip = vip;
        copied.port = u32::from(port);
        copied.stamp = stamp.word();
    }
    Ok(&copied.service)
}

/// Returns whether `address` is the VIP of some service.
#[inline(always)]
pub(crate) fn is_vip(address: Ip) -> bool {
    SERVICES
        .get_ptr(&ServiceKey::marker(address.bytes()))
        .is_some()
}
