//! Lists of ports, the kernel's and the daemon's own.

use super::reserved_ports::{
    parse_record,
    port_set::{PortSet, parse_port_range},
    record,
};

/// What is read as ports is written in a form that reads as the same ports.
pub(crate) fn ports(text: &str) {
    if let Ok(set) = text.parse::<PortSet>() {
        assert_eq!(set.to_string().parse(), Ok(set.clone()));
        assert_eq!(set.len().min(1), u32::from(!set.is_empty()));
        assert!(set.len() <= 65_536, "{set}");
        assert!(set.difference(&set).is_empty(), "{set}");
    }
    if let Some(range) = parse_port_range(text) {
        assert!(!range.is_empty(), "{text:?}");
    }
    if let Some((boot, added)) = parse_record(text) {
        let written = record(boot, &added);
        assert_eq!(parse_record(&written), Some((boot, added)));
    }
}
