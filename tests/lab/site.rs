//! A site: clients, the balancer and gateways, wired as a customer would.
//!
//! ```text
//! one-arm                                  two-arm
//!
//!  client1..M   gateway1..N                 client1..M            gateway1..N
//!       \        /                               \                  /
//!        switch ---- inner router                switch          switch -- inner router
//!       /      \          \                      /     \        /               \
//!  router   balancer   far gateway          router     balancer            far gateway
//!     |                                        |
//!  campus                                   campus
//! ```
//!
//! The client side is 10.20.90.0/24 and fd00:20:90::/64, the backend side of a two-arm site
//! 10.11.20.0/24 and fd00:11:20::/64. The campus owns every address of 10.30.0.0/16 and
//! fd00:30::/64 behind the router, so one namespace is as many clients as a test wants. Gateways have
//! no default route: what they answer reaches a client only if the balancer has put its own address
//! in front.

mod wiring;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use tempfile::TempDir;

use super::{host::Host, xdp_pass::XdpPass};
use wiring::{
    Arms, BALANCER, Switches, balancer, campus, client, far_gateway, gateway, inner_router,
    port_name, router,
};

/// The VIP of the examples, IPv4.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 20, 90, 105);
/// The VIP of the examples, IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0x90, 0, 0, 0, 0, 0x105);

/// What a site shall have; see [`Lab::one_arm`] and [`Lab::two_arm`].
#[derive(Clone, Copy, Debug)]
pub struct LabBuilder {
    arms: Arms,
    gateways: u8,
    clients: u8,
    campus: bool,
    far_gateway: bool,
}

impl LabBuilder {
    /// Asks for `count` gateways on the backends' link; 1 to 40, two unless said otherwise.
    #[must_use]
    pub fn gateways(self, count: u8) -> Self {
        assert!(
            (1..=40).contains(&count),
            "a site has 1 to 40 gateways, not {count}"
        );
        Self {
            gateways: count,
            ..self
        }
    }

    /// Asks for `count` clients on the VIP's link; 1 to 40, one unless said otherwise.
    #[must_use]
    pub fn clients(self, count: u8) -> Self {
        assert!(
            (1..=40).contains(&count),
            "a site has 1 to 40 clients, not {count}"
        );
        Self {
            clients: count,
            ..self
        }
    }

    /// Asks for clients behind a router: see [`Lab::campus`].
    #[must_use]
    pub fn campus(self) -> Self {
        Self {
            campus: true,
            ..self
        }
    }

    /// Asks for a gateway behind a router: see [`Lab::far_gateway`].
    #[must_use]
    pub fn far_gateway(self) -> Self {
        Self {
            far_gateway: true,
            ..self
        }
    }

    /// Builds the site.
    ///
    /// # Panics
    ///
    /// If anything cannot be made; the message says what.
    #[must_use]
    pub fn build(self) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new()
            .prefix(&format!("vipd-lab-{}-{number}-", process::id()))
            .tempdir()
            .expect("a temporary directory can be made");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("the directory is ours");

        let switches = Switches::new(self.arms);
        let router = router(&switches);
        let campus = self.campus.then(|| campus(&router));
        let inner_router = self.far_gateway.then(|| inner_router(&switches));
        let far_gateway = inner_router.as_ref().map(far_gateway);
        let (balancer, pass_programs) = balancer(&switches, inner_router.as_ref());
        let lab = Lab {
            clients: (1..=self.clients)
                .map(|number| client(&switches, number))
                .collect(),
            gateways: (1..=self.gateways)
                .map(|number| gateway(&switches, number))
                .collect(),
            arms: self.arms,
            balancer,
            router,
            campus,
            inner_router,
            far_gateway,
            switches,
            checksum_errors_expected: AtomicBool::new(false),
            _pass_programs: pass_programs,
            directory,
        };
        lab.write_doors();
        lab
    }
}

/// A site, up and reachable; gone when dropped.
///
/// # Panics
///
/// On drop, if any machine of it refused a packet for its checksum.
#[derive(Debug)]
pub struct Lab {
    arms: Arms,
    clients: Vec<Host>,
    gateways: Vec<Host>,
    balancer: Host,
    router: Host,
    campus: Option<Host>,
    inner_router: Option<Host>,
    far_gateway: Option<Host>,
    switches: Switches,
    checksum_errors_expected: AtomicBool,
    _pass_programs: Vec<XdpPass>,
    directory: TempDir,
}

impl Lab {
    /// Describes a site where the balancer has one interface, `eth0`.
    #[must_use]
    pub fn one_arm() -> LabBuilder {
        LabBuilder {
            arms: Arms::One,
            gateways: 2,
            clients: 1,
            campus: false,
            far_gateway: false,
        }
    }

    /// Describes a site where the balancer has `eth0` towards clients and `eth1` towards backends.
    #[must_use]
    pub fn two_arm() -> LabBuilder {
        LabBuilder {
            arms: Arms::Two,
            ..Self::one_arm()
        }
    }

    /// Returns the machine that `vipd` runs on; it has a bpffs and an empty `/run` of its own.
    #[must_use]
    pub fn balancer(&self) -> &Host {
        &self.balancer
    }

    /// Returns the balancer's interfaces, clients' side first.
    #[must_use]
    pub fn balancer_interfaces(&self) -> &'static [&'static str] {
        match self.arms {
            Arms::One => &["eth0"],
            Arms::Two => &["eth0", "eth1"],
        }
    }

    /// Returns the balancer's address on the link to the backends, of the family of `like`.
    #[must_use]
    pub fn address_towards_backends(&self, like: IpAddr) -> IpAddr {
        let network = self.switches.backend_network();
        match like {
            IpAddr::V4(_) => network.v4(BALANCER).into(),
            IpAddr::V6(_) => network.v6(BALANCER).into(),
        }
    }

    /// Returns gateway `number`, counted from 1 as their names are.
    #[must_use]
    pub fn gateway(&self, number: usize) -> &Host {
        &self.gateways[number - 1]
    }

    /// Returns the gateways on the backends' link.
    #[must_use]
    pub fn gateways(&self) -> &[Host] {
        &self.gateways
    }

    /// Returns the gateway behind a router.
    ///
    /// # Panics
    ///
    /// If the site was built without one.
    #[must_use]
    pub fn far_gateway(&self) -> &Host {
        self.far_gateway
            .as_ref()
            .expect("the site was built with a far gateway")
    }

    /// Returns the router in front of the far gateway; `eth0` is on the backends' link.
    ///
    /// # Panics
    ///
    /// If the site was built without one.
    #[must_use]
    pub fn inner_router(&self) -> &Host {
        self.inner_router
            .as_ref()
            .expect("the site was built with a far gateway")
    }

    /// Returns client `number`, counted from 1 as their names are.
    #[must_use]
    pub fn client(&self, number: usize) -> &Host {
        &self.clients[number - 1]
    }

    /// Returns the clients on the VIP's link.
    #[must_use]
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// Returns the machine behind the router that owns all of [`campus_v4`] and [`campus_v6`].
    ///
    /// # Panics
    ///
    /// If the site was built without a campus.
    #[must_use]
    pub fn campus(&self) -> &Host {
        self.campus
            .as_ref()
            .expect("the site was built with a campus")
    }

    /// Returns the router on the clients' side; `eth0` is on the VIP's link.
    #[must_use]
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// Returns the directory that lives as long as the site.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns every machine of the site.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.balancer, &self.router]
            .into_iter()
            .chain(&self.campus)
            .chain(&self.inner_router)
            .chain(&self.far_gateway)
            .chain(&self.clients)
            .chain(&self.gateways)
    }

    /// Returns the program that runs its arguments on `host`, for people at a terminal:
    /// `/tmp/vipd-lab-.../balancer bpftool map dump pinned /sys/fs/bpf/vipd/flows`.
    #[must_use]
    pub fn door(&self, host: &Host) -> PathBuf {
        self.directory().join(host.name())
    }

    /// Says that packets with a wrong checksum are part of the test.
    pub fn expect_checksum_errors(&self) {
        self.checksum_errors_expected.store(true, Ordering::Relaxed);
    }

    /// Returns the machines that refused packets for their checksum, and how many.
    #[must_use]
    pub fn checksum_errors(&self) -> Vec<(String, u64)> {
        self.hosts()
            .map(|host| (host.name().to_owned(), host.net().checksum_errors()))
            .filter(|(_, errors)| *errors > 0)
            .collect()
    }

    /// Cuts or restores the cable of `host` at the switch.
    pub fn set_cable(&self, host: &Host, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        self.switches
            .net
            .ip(&[&format!("link set {} {state}", port_name(host.name(), 0))]);
    }

    fn write_doors(&self) {
        for host in self.hosts() {
            let mounts = host
                .mounts()
                .map(|mounts| format!(" --mount={}", mounts.path()))
                .unwrap_or_default();
            let script = format!(
                "#!/bin/sh\nexec nsenter --net={}{mounts} -- \"$@\"\n",
                host.net().path()
            );
            let path = self.door(host);
            fs::write(&path, script).expect("the site's directory takes files");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .expect("the script is ours");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A second panic would abort and hide the first.
        if thread::panicking() || self.checksum_errors_expected.load(Ordering::Relaxed) {
            return;
        }
        let errors = self.checksum_errors();
        assert!(
            errors.is_empty(),
            "packets arrived with wrong checksums: {errors:?}"
        );
    }
}

/// Returns the socket address of the IPv4 VIP's `port`.
#[must_use]
pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::from((VIP, port))
}

/// Returns the socket address of the IPv6 VIP's `port`.
#[must_use]
pub fn vip6(port: u16) -> SocketAddr {
    SocketAddr::from((VIP6, port))
}

/// Returns address `number` of the campus, in 10.30.0.0/16; any port.
///
/// # Panics
///
/// If `number` is 0 or does not fit the prefix.
#[must_use]
pub fn campus_v4(number: u16) -> SocketAddr {
    assert!(number > 0, "the campus is counted from 1");
    let [high, low] = number.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 30, high, low), 0))
}

/// Returns address `number` of the campus, in fd00:30::/64; any port.
///
/// # Panics
///
/// If `number` is 0.
#[must_use]
pub fn campus_v6(number: u16) -> SocketAddr {
    assert!(number > 0, "the campus is counted from 1");
    SocketAddr::from((Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, number), 0))
}
