//! The audit: a site as packets and daemon leave it is in order, and each contradiction that is
//! planted in the real maps is named.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lb_common::{
    addr::bytes,
    endpoint::{Endpoint, EndpointKey},
    record::{Claim, Record, State},
};
use lb_userspace::{
    admin::{api, audit},
    control::audit::Belief,
    dataplane::{
        Dataplane as _,
        image::{Image, MapOp},
        kernel::{Kernel, Options},
    },
};

use crate::harness::{
    packet::Packet,
    pins,
    plan::{CLIENT, CLIENT6, GATEWAY1, GATEWAY2, GROUP, POOL, SERVICE, SNAT, VIP, VIP_OTHER, VIP6},
    site::{Site, from_client, ip},
};

/// Enough for a second look: nothing comes right by itself here.
const PATIENCE: Duration = Duration::from_millis(50);

/// Audits the site against what the daemon would have written.
fn audited(site: &Site, wrote: &Image, flows: u32) -> api::Audit {
    let auditor = site.kernel.auditor().expect("an auditor");
    let wrote = Arc::new(wrote.clone());
    let interfaces = site.kernel.attachments();
    let mut belief = || {
        let backends = wrote.backends.iter();
        Ok(Belief {
            backends: backends
                .map(|(number, of)| (*number, Some(of.address)))
                .collect(),
            held: site.kernel.image().expect("an image"),
            wrote: Arc::clone(&wrote),
            interfaces: interfaces
                .iter()
                .map(|held| (held.interface.clone(), held.index))
                .collect(),
            flows,
        })
    };
    audit::look(&auditor, &mut belief, PATIENCE).expect("readable maps")
}

/// Returns each fault that is found, with its place, and what is said of it.
fn found(site: &Site, wrote: &Image, flows: u32) -> BTreeMap<(String, String), String> {
    let audit = audited(site, wrote, flows);
    assert_eq!(audit.consistent, audit.findings.is_empty());
    let findings = audit.findings.into_iter();
    findings
        .map(|of| {
            assert!(!of.meaning.is_empty());
            (
                (of.fault, of.place),
                format!("{} {}", of.subject, of.detail),
            )
        })
        .collect()
}

/// A site with an answered flow of each family, of [`CLIENT`] and [`CLIENT6`] on [`GATEWAY1`] and
/// its IPv6 twin; `plant` damages it, and exactly these faults must be found.
fn planted(plant: impl FnOnce(&mut Site) + Send, faults: &[(&str, &str, &str)]) {
    Site::with(|site| {
        site.only(GATEWAY1);
        for packet in packets() {
            site.serve(&packet);
        }
        let wrote = site.kernel.image().expect("an image");
        assert_eq!(found(site, &wrote, 2), BTreeMap::new(), "before the damage");

        plant(site);

        let live = site.pins.in_state(State::Live).len() as u32;
        let found = found(site, &wrote, live);
        let named: Vec<_> = found
            .keys()
            .map(|(f, p)| (f.as_str(), p.as_str()))
            .collect();
        let mut expected: Vec<_> = faults.iter().map(|(f, p, _)| (*f, *p)).collect();
        expected.sort_unstable();
        assert_eq!(named, expected, "{found:#?}");
        for (said, (fault, place, part)) in faults
            .iter()
            .map(|of| (&found[&(of.0.to_owned(), of.1.to_owned())], of))
        {
            assert!(said.contains(part), "{fault} in {place}: {said}");
        }
    });
}

fn packets() -> [Packet; 2] {
    [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)]
}

fn v4() -> Packet {
    from_client(CLIENT, VIP)
}

/// Changes the claim of the IPv4 flow's record.
fn change_claim(site: &mut Site, change: impl FnOnce(Claim) -> Claim) {
    let index = site.pins.flow(&v4()).expect("a flow").record;
    let record = site.pins.record(index);
    let claim = change(Claim::unpack(record.claim)).pack();
    site.pins.set_record(index, Record { claim, ..record });
}

#[test]
fn a_site_with_traffic_is_in_order_and_counted() {
    Site::sized(
        |options| options.interfaces = vec!["lo".to_owned()],
        |site| {
            for host in 1..=20 {
                site.serve(&from_client(&format!("192.0.2.{host}:1"), VIP));
                site.forward(&from_client(&format!("192.0.2.{host}:2"), VIP_OTHER));
            }
            site.serve(&from_client(CLIENT6, VIP6));
            let wrote = site.kernel.image().expect("an image");

            let audit = audited(site, &wrote, 41);

            assert_eq!(audit.findings, []);
            assert!(audit.consistent && audit.complete && !audit.more);
            assert_eq!((audit.flows, audit.clients), (41, 21));
            assert_eq!((audit.services, audit.backends), (3, 4));
        },
    );
}

#[test]
fn flows_that_end_move_and_begin_again_leave_everything_in_order() {
    Site::with(|site| {
        for packet in packets() {
            site.forward(&packet);
        }
        site.backend(GATEWAY1, |backend| backend.health = 0);
        site.forward(&v4());
        let wrote = site.kernel.image().expect("an image");
        assert_eq!(found(site, &wrote, 2), BTreeMap::new(), "moved");
        site.end_flows();
        assert_eq!(found(site, &wrote, 0), BTreeMap::new(), "ended");
        site.forward(&v4());
        assert_eq!(found(site, &wrote, 1), BTreeMap::new(), "begun again");
    });
}

#[test]
fn a_backend_that_somebody_changed_is_named_with_the_field() {
    planted(
        |site| site.backend(GATEWAY2, |backend| backend.health = 0),
        &[(
            "different",
            "backends",
            "entry 12 is not what the daemon wrote: health is 0 and should be 1",
        )],
    );
}

#[test]
fn a_service_that_somebody_removed_is_named() {
    let key = lb_common::service::ServiceKey::new(ip(VIP_OTHER), 444, 17);
    planted(
        |site| site.apply(MapOp::RemoveService(key)),
        &[("missing", "services", "10.20.90.105:444 is missing")],
    );
}

#[test]
fn a_pool_and_a_table_that_somebody_changed_are_named() {
    planted(
        |site| site.shares(&[(GATEWAY1, 100)]),
        &[("different", "pools", "member_count is 1 and should be 2")],
    );
    planted(
        |site| {
            // The half in use, which no plan ever writes.
            let half = site.kernel.image().expect("an image").pools[&POOL]
                .pool
                .half;
            let table = vec![u32::from(GATEWAY2.number); 16_381].into();
            site.apply(MapOp::Table {
                pool: POOL,
                half,
                table,
            });
        },
        &[(
            "different",
            "maglev",
            "the table of pool 1 differs in 16381",
        )],
    );
}

#[test]
fn changed_ranges_are_named() {
    Site::with(|site| {
        let address = bytes("192.0.2.0".parse().expect("an address"));
        site.ranges(SERVICE, 0, &[([0; 16], false), (address, true)]);
        let wrote = site.kernel.image().expect("an image");

        site.pins.set_range(1, address, false);

        let found = found(site, &wrote, 0);
        let said = &found[&("different".to_owned(), "ranges".to_owned())];
        assert!(said.contains("half 0 differs in 1 of 2 entries"), "{said}");
    });
}

#[test]
fn changed_settings_are_named_with_the_field() {
    planted(
        |site| site.settings(|settings| settings.flow_timeout_s = 1),
        &[(
            "different",
            "settings",
            "flow_timeout_s is 1 and should be 20",
        )],
    );
}

#[test]
fn two_endpoints_that_share_a_slot_are_named() {
    planted(
        |site| site.endpoint(GATEWAY2, 444, 0),
        &[
            ("slot_different", "slots", "entry 0 names the endpoint from"),
            ("slot_shared", "endpoints", "has slot 0, as the endpoint"),
            ("unexpected", "endpoints", "to 10.11.20.107:444"),
        ],
    );
}

#[test]
fn an_endpoint_that_somebody_removed_is_named() {
    let key = EndpointKey::new(ip(SNAT), ip(GATEWAY2.address), 443, 17);
    // What becomes of the slot is the endpoint's removal's.
    Site::with(|site| {
        let wrote = site.kernel.image().expect("an image");

        site.apply(MapOp::RemoveEndpoint(key));

        let found = found(site, &wrote, 0);
        let said = &found[&("missing".to_owned(), "endpoints".to_owned())];
        assert!(said.contains("to 10.11.20.107:443 is missing"), "{said}");
    });
}

#[test]
fn a_record_without_its_entry_is_named() {
    planted(
        |site| site.pins.remove_flow(&v4()),
        &[(
            "entry_missing",
            "records",
            "(192.0.2.10:20010 to 10.20.90.105:443) is live, and flows has no entry for it",
        )],
    );
}

#[test]
fn a_record_whose_client_uses_another_one_is_named() {
    planted(
        |site| {
            let mut flow = site.pins.flow(&v4()).expect("a flow");
            let record = site.pins.record(flow.record);
            flow.record += 1;
            flow.snat_port += 1;
            site.pins.set_record(flow.record, record);
            site.pins.set_flow(&v4(), flow);
        },
        &[("entry_other", "records", "its client's packets use record")],
    );
}

#[test]
fn an_entry_whose_record_has_ended_is_named() {
    planted(
        |site| change_claim(site, |claim| claim.with_state(State::Free)),
        &[("record_ended", "flows", "which is free")],
    );
    planted(
        |site| {
            change_claim(site, |claim| Claim {
                generation: claim.generation + 1,
                ..claim
            });
        },
        &[
            ("entry_other", "records", "is live"),
            ("record_ended", "flows", "in its generation"),
        ],
    );
}

#[test]
fn an_entry_that_names_another_clients_record_is_named() {
    planted(
        |site| {
            let flow = site.pins.flow(&v4()).expect("a flow");
            site.pins.set_flow(&v4().port(7), flow);
        },
        &[("record_other", "flows", "which belongs to 192.0.2.10:20010")],
    );
}

#[test]
fn halves_that_contradict_each_other_are_named_with_the_field() {
    planted(
        |site| {
            let mut flow = site.pins.flow(&v4()).expect("a flow");
            flow.backend_port = 444;
            site.pins.set_flow(&v4(), flow);
        },
        &[(
            "entry_different",
            "flows",
            "backend_port is 444 and should be 443",
        )],
    );
}

#[test]
fn a_claim_that_is_never_published_is_named() {
    planted(
        |site| change_claim(site, |claim| claim.with_state(State::Claimed)),
        &[
            ("claim_stuck", "records", "is still being filled"),
            ("record_ended", "flows", "names record"),
        ],
    );
}

#[test]
fn a_record_of_another_backend_or_of_none_is_named() {
    planted(
        |site| {
            change_claim(site, |claim| Claim {
                backend: GATEWAY2.number,
                ..claim
            });
        },
        &[
            ("endpoint_other", "records", "replies are expected from"),
            ("entry_different", "flows", "backend is 11 and should be 12"),
        ],
    );
    planted(
        |site| {
            change_claim(site, |claim| Claim {
                backend: 999,
                ..claim
            });
        },
        &[
            ("backend_unknown", "records", "backend 999"),
            (
                "entry_different",
                "flows",
                "backend is 11 and should be 999",
            ),
        ],
    );
}

#[test]
fn a_record_in_a_slot_without_an_endpoint_is_named() {
    planted(
        |site| {
            let index = site.pins.flow(&v4()).expect("a flow").record;
            let record = site.pins.record(index);
            // The last slot, which no endpoint of the site has.
            let far = 7 * 64 + index % 64;
            site.pins.set_record(far, record);
        },
        &[
            ("endpoint_missing", "records", "is in slot 7"),
            ("entry_other", "records", "its client's packets use record"),
        ],
    );
}

#[test]
fn a_client_that_belongs_to_nobody_is_named() {
    planted(
        |site| {
            let mut held = site.pins.affinity("192.0.2.10", GROUP).expect("a client");
            held.backend = 999;
            site.pins.set_affinity("192.0.2.10", GROUP, held);
        },
        &[(
            "client_of_nobody",
            "affinity",
            "192.0.2.10 in group 7 names backend 999",
        )],
    );
}

#[test]
fn a_number_of_flows_that_is_not_told_is_named() {
    Site::with(|site| {
        site.forward(&v4());
        let wrote = site.kernel.image().expect("an image");

        let found = found(site, &wrote, 7);

        let said = &found[&("flows_miscounted".to_owned(), "status".to_owned())];
        assert_eq!(said, "flows are told as 7, and 1 are live");
    });
}

#[test]
fn a_detached_interface_and_another_program_are_named() {
    Site::sized(
        |options| options.interfaces = vec!["lo".to_owned()],
        |site| {
            let wrote = site.kernel.image().expect("an image");
            let directory = site.options.pin_directory.clone();
            assert_eq!(found(site, &wrote, 0), BTreeMap::new());

            // The program of another data path, under this one's name.
            let other = directory.with_file_name("other");
            let options = Options {
                pin_directory: other.clone(),
                interfaces: Vec::new(),
                ..site.options.clone()
            };
            let _other = Kernel::open(options).expect("another data path");
            std::fs::rename(other.join("program"), directory.join("program")).expect("a pin");
            let fault = |fault: &str| (fault.to_owned(), "link".to_owned());
            let said = &found(site, &wrote, 0)[&fault("program_other")];
            assert!(said.starts_with("lo runs program "), "{said}");

            pins::detach_link(&directory.join("link_1_generic"));
            let said = &found(site, &wrote, 0)[&fault("program_detached")];
            assert_eq!(said, "lo has a pinned link that is attached to nothing");

            std::fs::remove_file(directory.join("link_1_generic")).expect("a pin");
            let said = &found(site, &wrote, 0)[&fault("program_detached")];
            assert_eq!(said, "lo has index 1, for which no link is pinned");
        },
    );
}

#[test]
fn what_comes_right_while_it_is_looked_at_is_no_finding() {
    Site::with(|site| {
        site.service(SERVICE, |service| service.affinity_timeout_s = 1);
        let (before, wrote) = {
            let before = site.kernel.image().expect("an image");
            site.service(SERVICE, |service| service.affinity_timeout_s = 40);
            (before, Arc::new(site.kernel.image().expect("an image")))
        };
        let auditor = site.kernel.auditor().expect("an auditor");
        let mut looks = 0;
        let mut belief = || {
            looks += 1;
            Ok(Belief {
                backends: BTreeMap::new(),
                held: if looks < 4 {
                    before.clone()
                } else {
                    (*wrote).clone()
                },
                wrote: Arc::clone(&wrote),
                interfaces: Vec::new(),
                flows: 0,
            })
        };

        let audit = audit::look(&auditor, &mut belief, Duration::from_secs(60));

        assert_eq!(audit.expect("readable maps").findings, []);
        assert_eq!(looks, 4, "it ends as soon as nothing looks wrong");
    });
}

/// An entry of `endpoints` that the site's own helper cannot make.
#[test]
fn an_endpoint_with_another_slot_is_named_with_both() {
    let key = EndpointKey::new(ip(SNAT), ip(GATEWAY2.address), 443, 17);
    planted(
        |site| site.apply(MapOp::Endpoint(key, Endpoint { slot: 6 })),
        &[("different", "endpoints", "slot is 6 and should be 1")],
    );
}
