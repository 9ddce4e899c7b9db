//! Which shared types the daemon may copy to and from the kernel byte by byte.

use aya::Pod;

use crate::{
    affinity::{Affinity, AffinityKey},
    backend::Backend,
    endpoint::{Endpoint, EndpointKey},
    flow::{Flow, FlowKey, FlowKey6},
    fragment::{Fragment, FragmentKey},
    guard::Range,
    measure::Generator,
    pool::Pool,
    record::Record,
    service::{Service, ServiceKey},
    settings::Settings,
    stats::Counters,
};

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` with named padding only (the layout is asserted beside the
            // type), and every bit pattern of its integers is valid.
            unsafe impl Pod for $type {}
        )+
    };
}

pod!(
    Affinity,
    AffinityKey,
    Backend,
    Counters,
    Endpoint,
    EndpointKey,
    Flow,
    FlowKey,
    FlowKey6,
    Fragment,
    FragmentKey,
    Generator,
    Pool,
    Range,
    Record,
    Service,
    ServiceKey,
    Settings,
);
