//! How long a flow that nobody has answered may hold its place while places run out. Pure.

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    /// There is room.
    None,
    /// At least 80% are in use.
    High,
    /// At least 90% are in use.
    Severe,
}

impl Pressure {
    /// Returns the pressure in a table of `size` places of which `used` are in use.
    pub(super) fn of(used: u32, size: u32) -> Self {
        let (used, size) = (u64::from(used), u64::from(size));
        if size == 0 || used * 10 < size * 8 {
            Self::None
        } else if used * 10 < size * 9 {
            Self::High
        } else {
            Self::Severe
        }
    }

    /// Returns the seconds after which something that was never answered gives its place up, where
    /// that is `timeout_s` without pressure. Whoever is there answers within a second or two; under
    /// a flood most of what waits longer is nobody's.
    pub(super) fn unreplied_timeout_s(self, timeout_s: u32) -> u32 {
        match self {
            Self::None => timeout_s,
            Self::High => timeout_s.min(5),
            Self::Severe => timeout_s.min(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_at_80_and_grows_at_90_percent() {
        for (used, size, expected) in [
            (0, 0, Pressure::None),
            (0, 100, Pressure::None),
            (79, 100, Pressure::None),
            (80, 100, Pressure::High),
            (89, 100, Pressure::High),
            (90, 100, Pressure::Severe),
            (100, 100, Pressure::Severe),
            (u32::MAX, u32::MAX, Pressure::Severe),
        ] {
            assert_eq!(Pressure::of(used, size), expected, "{used} of {size}");
        }
    }

    #[test]
    fn pressure_only_ever_shortens_a_timeout() {
        for timeout_s in [1, 2, 3, 5, 30] {
            let under = |pressure: Pressure| pressure.unreplied_timeout_s(timeout_s);
            assert_eq!(under(Pressure::None), timeout_s);
            assert!(under(Pressure::High) <= timeout_s);
            assert!(under(Pressure::Severe) <= under(Pressure::High));
        }
    }
}
