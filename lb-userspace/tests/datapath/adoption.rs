//! A daemon after a daemon: pins that fit are adopted with all their flows, others are refused.

use std::{path::Path, sync::Arc};

use lb_common::{guard::Range, limits::MAX_RANGES, map_names};
use lb_userspace::dataplane::{
    Dataplane as _, DataplaneError,
    image::{MapOp, RangesImage},
    kernel::{Kernel, Options, remove_pins},
};

use crate::harness::{
    namespaces,
    packet::Packet,
    pins::Pins,
    plan::{CLIENT, CLIENT6, GATEWAY1, SERVICE, VIP, VIP6},
    site::{Site, Verdict, from_client, options},
};

/// Returns what a packet becomes under a second daemon's program.
fn forward(kernel: &mut Kernel, packet: &Packet) -> Packet {
    let (_, out) = kernel.test_run(&packet.encode()).expect("a run");
    Packet::decode(&out)
}

fn refusal(options: Options) -> String {
    match Kernel::open(options) {
        Ok(_) => panic!("the pins were adopted"),
        Err(DataplaneError { what, .. }) => what,
    }
}

#[test]
fn flows_clients_and_counters_survive_the_daemon() {
    Site::with(|site| {
        let packets = [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)];
        let before = packets.each_ref().map(|packet| site.forward(packet));
        let (image, counters) = (site.kernel.image().expect("an image"), site.counters());
        assert!(!site.kernel.adopted());

        let mut next = Kernel::open(site.options.clone()).expect("the same data path");

        assert!(next.adopted());
        assert_eq!(next.image().expect("an image"), image);
        let adopted = next.counters().expect("counters");
        assert_eq!(adopted.services, counters.services);
        assert_eq!(adopted.backends, counters.backends);
        assert_eq!(next.flows(10, &|_| true).len(), 2);
        for (packet, before) in packets.iter().zip(&before) {
            assert_eq!(forward(&mut next, packet), *before);
            assert_eq!(site.answer(before).destination, packet.source);
        }
    });
}

#[test]
fn lists_of_clients_are_read_back_from_the_half_that_services_name() {
    Site::with(|site| {
        let range = |first: u8, blocked: u32| Range {
            start: [first; 16],
            blocked,
            _reserved: 0,
        };
        let unused: Arc<[Range]> = (0..9).map(|first| range(first, 0)).collect();
        let named: Arc<[Range]> = [range(0, 0), range(7, 1), range(9, 0)].into();
        for (half, entries) in [(0, unused), (1, named.clone())] {
            site.apply(MapOp::Ranges { half, entries });
        }
        let before = site.kernel.image().expect("an image");
        assert_eq!(before.ranges, RangesImage::default(), "nobody names any");

        site.service(SERVICE, |service| {
            service.ranges_first = MAX_RANGES;
            service.ranges_count = 3;
        });
        let next = Kernel::open(site.options.clone()).expect("the same data path");

        let ranges = next.image().expect("an image").ranges;
        assert_eq!((ranges.half, ranges.entries), (1, named));
        let last: Arc<[Range]> = vec![range(1, 1); MAX_RANGES as usize].into();
        site.apply(MapOp::Ranges {
            half: 1,
            entries: last.clone(),
        });
        site.service(SERVICE, |service| service.ranges_count = MAX_RANGES);
        let ranges = next.image().expect("an image").ranges;
        assert!(ranges.entries == last, "the map holds a whole half");
    });
}

#[test]
fn the_program_is_replaced_on_the_link_that_is_there() {
    Site::sized(
        |options| options.interfaces = vec!["lo".to_owned()],
        |site| {
            let link = site.pins.link("link_1_generic");
            let program = site.pins.program();
            assert_eq!(link["prog_id"], program["id"]);

            let next = Kernel::open(site.options.clone()).expect("the same data path");

            let (link_after, program_after) =
                (site.pins.link("link_1_generic"), site.pins.program());
            assert_eq!(link_after["id"], link["id"], "it was never detached");
            assert_ne!(program_after["id"], program["id"]);
            assert_eq!(link_after["prog_id"], program_after["id"]);
            let [attachment] = &next.attachments()[..] else {
                panic!("there is one interface");
            };
            assert_eq!((&*attachment.interface, attachment.index), ("lo", 1));
            assert!(!attachment.native);
        },
    );
}

#[test]
fn an_interface_that_is_not_named_any_more_is_detached() {
    Site::sized(
        |options| options.interfaces = vec!["lo".to_owned()],
        |site| {
            let link = site.options.pin_directory.join("link_1_generic");
            assert!(link.exists());
            let fewer = Options {
                interfaces: Vec::new(),
                ..site.options.clone()
            };

            let next = Kernel::open(fewer).expect("the same data path");

            assert!(!link.exists());
            assert_eq!(next.attachments(), []);
        },
    );
}

#[test]
fn pins_of_other_sizes_are_refused_with_a_way_out() {
    Site::with(|site| {
        let packet = from_client(CLIENT, VIP);
        let before = site.forward(&packet);
        let program = site.pins.program();

        let said = refusal(Options {
            max_flows: 1024,
            max_affinity: 99,
            ..site.options.clone()
        });

        for part in [
            "flows: capacity is 512, expected 1024",
            "flows6: capacity is 512, expected 1024",
            "records: capacity is 512, expected 1024",
            "affinity: capacity is 4096, expected 99",
            "vipd detach",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
        assert_eq!(site.forward(&packet), before, "nothing was touched");
        assert_eq!(site.pins.program()["id"], program["id"]);
    });
}

#[test]
fn another_snat_range_is_refused_with_a_way_out() {
    Site::with(|site| {
        for (first, count, wanted) in [(30_000, 64, "30000-30063"), (20_000, 32, "20000-20031")] {
            let said = refusal(Options {
                snat_port_first: first,
                snat_port_count: count,
                ..site.options.clone()
            });

            for part in [wanted, "20000-20063", "node.snat_ports", "vipd detach"] {
                assert!(said.contains(part), "{part:?} is not in {said:?}");
            }
        }
        assert!(matches!(
            site.send(&from_client(CLIENT, VIP)),
            Verdict::Sent(_)
        ));
    });
}

#[test]
fn a_pin_of_another_kind_is_refused() {
    Site::with(|site| {
        let [flows, flows6] =
            [map_names::FLOWS, map_names::FLOWS6].map(|name| site.options.pin_directory.join(name));
        let aside = site.options.pin_directory.join("aside");
        std::fs::rename(&flows, &aside).expect("a pin to move");
        std::fs::rename(&flows6, &flows).expect("a pin to move");
        std::fs::rename(&aside, &flows6).expect("a pin to move");

        let said = refusal(site.options.clone());

        for part in ["flows: key size is 40, expected 16", "vipd detach"] {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    });
}

#[test]
fn a_directory_that_is_no_bpf_file_system_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");

    let said = refusal(options(directory.path()));

    assert!(said.contains("mount -t bpf bpf"), "{said}");
    let made = std::fs::read_dir(directory.path())
        .expect("a directory")
        .count();
    assert_eq!(made, 0, "nothing was made in it");
}

#[test]
fn detaching_leaves_nothing() {
    namespaces::private(|bpffs| {
        let options = Options {
            interfaces: vec!["lo".to_owned()],
            ..options(bpffs)
        };
        let directory = options.pin_directory.clone();
        let before = names(bpffs);
        drop(Kernel::open(options).expect("the data path"));
        assert!(names(&directory).contains(&"link_1_generic".to_owned()));

        assert!(remove_pins(&directory).expect("pins to remove"));

        assert!(!directory.exists());
        assert_eq!(names(bpffs), before);
        assert!(!remove_pins(&directory).expect("nothing to remove"));
    });
}

#[test]
fn everything_is_pinned_under_its_name() {
    Site::with(|site| {
        let mut expected: Vec<_> = map_names::ALL.map(str::to_owned).to_vec();
        expected.push("program".to_owned());
        expected.sort();

        assert_eq!(names(&site.options.pin_directory), expected);
        assert!(expected.iter().all(|name| name.len() <= 15));
    });
}

#[test]
fn bpftool_shows_the_fields_of_every_map_by_name() {
    Site::with(|site| {
        site.only(GATEWAY1);
        for packet in [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)] {
            let forwarded = site.forward(&packet);
            site.answer(&forwarded);
        }

        let flow = first(&site.pins, map_names::FLOWS);
        assert_eq!(flow["key"]["client"], serde_json::json!([192, 0, 2, 10]));
        assert_eq!(flow["key"]["client_port"], 20_010);
        assert_eq!(flow["key"]["vip"], serde_json::json!([10, 20, 90, 105]));
        assert_eq!(flow["key"]["vip_port"], 443);
        assert_eq!(flow["value"]["backend"], GATEWAY1.number);
        assert_eq!(flow["value"]["snat_port"], 20_010);
        assert_eq!(
            first(&site.pins, map_names::FLOWS6)["key"]["client_port"],
            20_010
        );
        for (map, field) in [
            (map_names::SETTINGS, "snat_port_first"),
            (map_names::SERVICES, "backend_port"),
            (map_names::POOLS, "member_count"),
            (map_names::BACKENDS, "reachable"),
            (map_names::ENDPOINTS, "slot"),
            (map_names::RECORDS, "client_port"),
            (map_names::AFFINITY, "last_seen"),
        ] {
            let value = &first(&site.pins, map)["value"][field];
            assert!(value.is_number(), "{map} shows no {field}: {value}");
        }
        let stats = first(&site.pins, map_names::STATS);
        let counters = &stats["values"][0]["value"]["packets_in"];
        assert!(counters.is_number(), "stats shows no packets_in: {stats}");
    });
}

/// Returns the first entry of a map as `bpftool` formats it by its type information.
fn first(pins: &Pins, map: &str) -> serde_json::Value {
    let dump = pins.dump(map);
    let entry = &dump[0];
    let formatted = &entry["formatted"];
    if formatted.is_null() {
        entry.clone()
    } else {
        formatted.clone()
    }
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
