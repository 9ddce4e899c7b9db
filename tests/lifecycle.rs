//! Start, stop, detach: what is there when, and what is left.

use std::time::Duration;

use lb_tests::lab::{
    Configuration, Daemon, Gateways, Lab,
    daemon::{pins, vipd},
    eventually::{eventually, holds_within},
    site::{VIP, vip},
    traces::Traces,
};

const BOUND: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn detach_leaves_nothing() {
    let lab = Lab::two_arm().build();
    let _gateways = Gateways::start(&lab);
    let before = Traces::of(lab.balancer());
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    lab.client(1).udp(vip(443)).ask("hello");
    assert_ne!(Traces::of(lab.balancer()), before);

    daemon.cli(&["detach"]).ok();

    assert!(daemon.wait().success(), "{}", daemon.log());
    await_state(&lab, &before);
    assert_eq!(lab.client(1).udp(vip(443)).backend_within(SILENCE), None);
}

#[test]
fn detach_needs_no_daemon() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let before = Traces::of(lab.balancer());
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    daemon.kill9();
    lab.client(1).udp(vip(443)).ask("hello");

    daemon.cli(&["detach"]).ok();

    await_state(&lab, &before);
    // Once more: there is nothing left to do, and that is no failure.
    daemon.cli(&["detach"]).ok();
}

#[test]
fn sigterm_leaves_the_data_path_at_work() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let mut daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let running = Traces::of(lab.balancer());
    let client = lab.client(1).udp(vip(443));
    let source = client.ask("hello").source;

    daemon.terminate();
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());

    assert_eq!(Traces::of(lab.balancer()), running);
    assert_eq!(client.ask("again").source, source);
}

#[test]
fn sigterm_takes_the_data_path_down_where_the_configuration_says_so() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let before = Traces::of(lab.balancer());
    let configuration = Configuration::ras(&lab).node("forget_on_stop = true");
    let mut daemon = Daemon::start(&lab, &configuration);
    lab.client(1).udp(vip(443)).ask("hello");

    daemon.terminate();

    await_state(&lab, &before);
}

#[test]
fn a_second_daemon_says_so_and_leaves_the_first_alone() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    let file = daemon.configuration_file().display().to_string();

    let second = vipd(lab.balancer(), &["run", "--config", &file]);

    assert_eq!(second.code, Some(1), "{}", second.text());
    assert!(
        second.text().contains("already") || second.text().contains("another"),
        "{}",
        second.text()
    );
    assert_eq!(daemon.status().pid(), u64::from(daemon.pid()));
    lab.client(1).udp(vip(443)).ask("hello");
}

#[test]
fn of_two_daemons_started_at_once_one_runs() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let configuration = Configuration::ras(&lab);
    let mut daemons = [
        Daemon::launch(&lab, &configuration),
        Daemon::launch(&lab, &configuration),
    ];

    eventually(BOUND, "one has given up", || {
        let running = daemons.iter_mut().map(Daemon::is_running);
        running.filter(|running| *running).count() == 1
    });

    let [first, second] = &mut daemons;
    let (winner, loser) = if first.is_running() {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(loser.wait().code(), Some(1), "{}", loser.log());
    winner.await_ready();
    assert_eq!(winner.status().pid(), u64::from(winner.pid()));
    lab.client(1).udp(vip(443)).ask("hello");
}

#[test]
fn two_machines_have_daemons_that_do_not_know_each_other() {
    let (first, second) = (Lab::one_arm().build(), Lab::one_arm().build());
    let (_first_gateways, _second_gateways) = (Gateways::start(&first), Gateways::start(&second));
    let first_daemon = Daemon::start(&first, &Configuration::ras(&first));
    let _second_daemon = Daemon::start(&second, &Configuration::ras(&second));

    first_daemon.cli(&["detach"]).ok();

    second.client(1).udp(vip(443)).ask("hello");
    assert!(pins(first.balancer()).is_empty());
    assert!(!pins(second.balancer()).is_empty());
}

#[test]
fn an_address_that_was_there_before_is_there_after() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    lab.balancer()
        .net()
        .ip(&[&format!("address add {VIP}/24 dev eth0")]);
    let before = Traces::of(lab.balancer());
    let daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    lab.client(1).udp(vip(443)).ask("hello");

    daemon.cli(&["detach"]).ok();

    await_state(&lab, &before);
}

#[test]
fn a_vip_is_announced_when_it_is_taken() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    // A host that learns from announcements, as switches and routers do.
    lab.client(1)
        .net()
        .sysctl("net/ipv4/conf/all/arp_accept", "1");

    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));

    eventually(
        BOUND,
        "the client knows the VIP without having asked",
        || {
            let neighbours = lab.client(1).run(&format!("ip neigh show {VIP}")).ok();
            let mac = lab
                .balancer()
                .mac("eth0")
                .map(|byte| format!("{byte:02x}"))
                .join(":");
            neighbours.contains(&mac)
        },
    );
}

#[test]
fn a_vip_that_somebody_removed_is_put_back() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let _daemon = Daemon::start(&lab, &Configuration::ras(&lab));
    assert!(Traces::of(lab.balancer()).has_address(VIP.into()));

    lab.balancer()
        .net()
        .ip(&[&format!("address del {VIP}/32 dev eth0")]);

    eventually(BOUND, "the VIP is back", || {
        Traces::of(lab.balancer()).has_address(VIP.into())
    });
}

#[test]
fn an_interface_that_was_made_anew_is_attached_again() {
    let lab = Lab::one_arm().build();
    let _gateways = Gateways::start(&lab);
    let make = || {
        lab.balancer().net().ip(&[
            "link add mac0 link eth0 type macvlan mode bridge",
            "link set mac0 up",
            "address add 10.20.90.2/24 dev mac0",
        ]);
    };
    // Each of the two devices answers for its own addresses only.
    lab.balancer()
        .net()
        .sysctl("net/ipv4/conf/all/arp_ignore", "1");
    lab.balancer().net().ip(&["address flush dev eth0"]);
    make();
    let configuration = Configuration::ras(&lab).node("interfaces = [\"mac0\"]");
    let daemon = Daemon::start(&lab, &configuration);
    lab.client(1).udp(vip(443)).ask("hello");

    lab.balancer().net().ip(&["link del mac0"]);
    eventually(BOUND, "the loss is noticed", || {
        daemon.status().interface("mac0").0 == "detached"
    });
    make();

    // The client asks who has the VIP once it hears nothing from the old address.
    lab.client(1).net().ip(&["neigh flush all"]);
    eventually(Duration::from_secs(20), "the service is back", || {
        lab.client(1)
            .udp(vip(443))
            .backend_within(SILENCE)
            .is_some()
    });
    assert_eq!(daemon.status().interface("mac0").0, "generic");
}

/// Waits until the machine is as it was: the kernel lets go of a link a moment after its last user.
#[track_caller]
fn await_state(lab: &Lab, before: &Traces) {
    let restored = holds_within(BOUND, || Traces::of(lab.balancer()) == *before);
    assert!(
        restored,
        "{:#?}\nis left, where there was\n{before:#?}",
        Traces::of(lab.balancer())
    );
}
