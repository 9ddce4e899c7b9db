use lb_common::{addr::bytes, backend::VlanTags, endpoint::Endpoint, guard::Range};

use super::*;
use crate::control::testing::{ETH0, carried_out, ip, new_maps, ras, running};
use crate::dataplane::image::RangesImage;

const INDEX: u32 = 1005;

/// A site with two backends in slots 0 and 1 of 1000 ports each, from 20000 on.
fn belief() -> Belief {
    let state = running(ras());
    let image = carried_out(&state, &new_maps(&state.config));
    let backends = image.backends.iter();
    Belief {
        backends: backends
            .map(|(number, of)| (*number, Some(of.address)))
            .collect(),
        held: image.clone(),
        wrote: Arc::new(image),
        interfaces: vec![("eth0".to_owned(), ETH0)],
        flows: 1,
    }
}

fn tuple() -> Tuple {
    Tuple {
        client: bytes(ip("10.9.9.9")),
        client_port: 51_000,
        vip: bytes(ip("10.0.0.100")),
        vip_port: 443,
        protocol: 17,
    }
}

/// The record of a flow to gw2, whose number is 1, and its forward entry.
fn halves() -> (Record, Flow) {
    let tuple = tuple();
    let claim = Claim {
        generation: 7,
        backend: 1,
        protocol: 17,
        state: State::Live,
    };
    let record = Record {
        claim: claim.pack(),
        client: tuple.client,
        vip: tuple.vip,
        client_port: tuple.client_port,
        vip_port: tuple.vip_port,
        last_seen: 0,
        client_mac: [0; 6],
        vlan: VlanTags::NONE,
        service: 0,
        interface: 0,
        replied: 1,
        _reserved: 0,
    };
    let flow = Flow {
        record: INDEX,
        generation: 7,
        backend: 1,
        snat_port: 20_005,
        backend_port: 443,
        snat_address: 0,
        service: 0,
    };
    (record, flow)
}

fn in_state(record: Record, state: State) -> Record {
    Record {
        claim: Claim::unpack(record.claim).with_state(state).pack(),
        ..record
    }
}

fn faults(found: &[Finding]) -> Vec<Fault> {
    found.iter().map(|finding| finding.fault).collect()
}

fn of_record(belief: &Belief, found: &Record, entry: Option<&Flow>) -> Vec<Fault> {
    faults(&record(belief, &belief.slots(), INDEX, found, entry))
}

fn of_entry(found: &Flow, named: Option<&Record>) -> Vec<Finding> {
    let belief = belief();
    entry(&belief, &belief.slots(), &tuple(), found, named)
}

#[test]
fn maps_as_the_daemon_wrote_them_are_in_order() {
    let belief = belief();

    assert_eq!(maps(&belief.wrote, &belief.held), []);
    let (record, flow) = halves();
    assert_eq!(of_record(&belief, &record, Some(&flow)), []);
    assert_eq!(of_entry(&flow, Some(&record)), []);
}

#[test]
fn ranges_in_use_are_compared() {
    let Belief { wrote, .. } = belief();
    let range = |blocked| Range {
        start: [0; 16],
        blocked,
        _reserved: 0,
    };
    let with = |half, entries: &[Range]| Image {
        ranges: RangesImage {
            half,
            entries: entries.into(),
        },
        ..Image::clone(&wrote)
    };
    let wanted = with(1, &[range(0), range(1)]);

    assert_eq!(maps(&wanted, &wanted), []);
    assert_eq!(
        faults(&maps(&wanted, &with(1, &[range(1), range(1)]))),
        [Fault::Different]
    );
    // Which half services name is said of the services.
    assert_eq!(maps(&wanted, &with(0, &[range(1)])), []);
}

#[test]
fn every_map_of_the_daemon_is_compared_entry_by_entry() {
    let Belief { wrote, .. } = belief();
    type Damage = fn(&mut Image);
    let table: [(&str, Damage, Fault); 10] = [
        (
            "settings: entry 0 is not what the daemon wrote: flow_timeout_s is 1 and should be 300",
            |image| image.settings.flow_timeout_s = 1,
            Fault::Different,
        ),
        (
            "services: 10.0.0.100:443 is missing",
            |image| image.services.retain(|key, _| key.protocol == 0),
            Fault::Missing,
        ),
        (
            "services: the marker of 10.0.0.100 is missing",
            |image| image.services.retain(|key, _| key.protocol != 0),
            Fault::Missing,
        ),
        (
            "pools: entry 0 is not what the daemon wrote: eligible is 1 and should be 2",
            |image| image.pools.get_mut(&0).expect("a pool").pool.eligible = 1,
            Fault::Different,
        ),
        (
            "maglev: the table of pool 0 differs in 1 of 16381 slots from what the daemon wrote",
            |image| {
                let pool = image.pools.get_mut(&0).expect("a pool");
                let mut table = pool.table.to_vec();
                table[5] ^= 1;
                pool.table = table.into();
            },
            Fault::Different,
        ),
        (
            "backends: entry 1 is not what the daemon wrote: health is 0 and should be 1",
            |image| image.backends.get_mut(&1).expect("a backend").health = 0,
            Fault::Different,
        ),
        (
            "backends: entry 1 is missing",
            |image| {
                image.backends.remove(&1);
            },
            Fault::Missing,
        ),
        (
            "backends: entry 9 is nothing that the daemon wrote",
            |image| {
                let copy = image.backends[&1];
                image.backends.insert(9, copy);
            },
            Fault::Unexpected,
        ),
        (
            "endpoints: the endpoint from 10.0.0.1 to 10.0.1.2:443 is not what the daemon wrote: \
             slot is 7 and should be 1",
            |image| {
                for of in image.endpoints.values_mut().filter(|of| of.slot == 1) {
                    of.slot = 7;
                }
            },
            Fault::Different,
        ),
        (
            "endpoints: the endpoint from 10.0.0.1 to 10.0.1.2:444 is nothing that the daemon wrote",
            |image| {
                let key = image.endpoints.keys().last().copied().expect("an endpoint");
                let other = EndpointKey::new(key.snat, key.backend, 444, 17);
                image.endpoints.insert(other, Endpoint { slot: 9 });
            },
            Fault::Unexpected,
        ),
    ];

    for (said, damage, fault) in table {
        let mut held = (*wrote).clone();
        damage(&mut held);

        let found = maps(&wrote, &held);

        assert_eq!(faults(&found), [fault], "{said}");
        assert_eq!(found[0].to_string(), said);
    }
}

#[test]
fn two_endpoints_with_one_slot_are_found() {
    let Belief { mut held, .. } = belief();
    for of in held.endpoints.values_mut() {
        of.slot = 0;
    }

    let found = maps(&held.clone(), &held);

    assert_eq!(faults(&found), [Fault::SlotShared]);
}

#[test]
fn a_slot_names_its_endpoint() {
    let belief = belief();
    let slots = belief.slots();

    assert_eq!(slot(1, &slots[&1], Some(&slots[&1])), None);
    let found = slot(1, &slots[&1], Some(&slots[&0])).expect("another one");
    assert_eq!(found.fault, Fault::SlotDifferent);
    assert!(slot(1, &slots[&1], None).is_some());
}

#[test]
fn a_record_belongs_to_an_entry_a_backend_and_an_endpoint() {
    let belief = belief();
    let (record, flow) = halves();
    let claim = Claim::unpack(record.claim);
    let of_backend = |backend| Record {
        claim: Claim { backend, ..claim }.pack(),
        ..record
    };
    let other = Flow {
        generation: 8,
        ..flow
    };

    let free = in_state(record, State::Free);
    assert_eq!(of_record(&belief, &free, None), []);
    assert_eq!(
        of_record(&belief, &in_state(record, State::Claimed), None),
        [Fault::ClaimStuck]
    );
    assert_eq!(
        of_record(&belief, &record, None),
        [Fault::EntryMissing],
        "live without an entry"
    );
    let closing = in_state(record, State::Closing);
    assert_eq!(of_record(&belief, &closing, None), [], "it is on its way");
    assert_eq!(
        of_record(&belief, &record, Some(&other)),
        [Fault::EntryOther]
    );
    assert_eq!(
        of_record(&belief, &of_backend(9), Some(&flow)),
        [Fault::BackendUnknown]
    );
    assert_eq!(
        of_record(&belief, &of_backend(0), Some(&flow)),
        [Fault::EndpointOther]
    );
    let slots = BTreeMap::new();
    let found = super::record(&belief, &slots, INDEX, &record, Some(&flow));
    assert_eq!(faults(&found), [Fault::EndpointMissing]);
    assert_eq!(
        found[0].to_string(),
        "records: record 1005 (10.9.9.9:51000 to 10.0.0.100:443) is in slot 1, which no endpoint \
         has"
    );
}

#[test]
fn a_resting_backend_is_not_unknown_whether_its_address_is_known_or_not() {
    let mut belief = belief();
    let (record, flow) = halves();
    belief.backends.insert(1, None);

    assert_eq!(of_record(&belief, &record, Some(&flow)), []);
}

#[test]
fn an_entry_names_a_live_record_of_its_own_flow_and_repeats_it() {
    let (record, flow) = halves();
    let fault = |entry: &Flow, record: Option<&Record>| faults(&of_entry(entry, record));

    assert_eq!(fault(&flow, None), [Fault::RecordEnded]);
    for state in [State::Free, State::Claimed] {
        let ended = in_state(record, state);
        assert_eq!(fault(&flow, Some(&ended)), [Fault::RecordEnded]);
    }
    let closing = in_state(record, State::Closing);
    assert_eq!(fault(&flow, Some(&closing)), []);
    let former = Flow {
        generation: 6,
        ..flow
    };
    assert_eq!(fault(&former, Some(&record)), [Fault::RecordEnded]);
    let of_another = Record {
        client_port: 1,
        ..record
    };
    assert_eq!(fault(&flow, Some(&of_another)), [Fault::RecordOther]);
    for (field, entry) in [
        ("backend is 0 and should be 1", Flow { backend: 0, ..flow }),
        ("service is 3 and should be 0", Flow { service: 3, ..flow }),
        (
            "snat_port is 1 and should be 20005",
            Flow {
                snat_port: 1,
                ..flow
            },
        ),
        (
            "backend_port is 444 and should be 443",
            Flow {
                backend_port: 444,
                ..flow
            },
        ),
        (
            "snat_address is 200, which does not stand for 10.0.0.1",
            Flow {
                snat_address: 200,
                ..flow
            },
        ),
    ] {
        let found = of_entry(&entry, Some(&record));
        assert_eq!(faults(&found), [Fault::EntryDifferent], "{field}");
        assert!(found[0].detail.ends_with(field), "{}", found[0]);
    }
}

#[test]
fn a_client_belongs_to_a_backend_in_use() {
    let belief = belief();
    let key = AffinityKey {
        client: tuple().client,
        group: 7,
    };
    let held = |backend| Affinity {
        last_seen: 0,
        backend,
        _reserved: 0,
    };

    assert_eq!(client(&belief, &key, &held(1)), None);
    let found = client(&belief, &key, &held(9)).expect("nobody has that number");
    assert_eq!(
        found.to_string(),
        "affinity: the entry of 10.9.9.9 in group 7 names backend 9, which is not in use"
    );
}

#[test]
fn the_pinned_program_runs_at_the_interface() {
    let held = |program, interface| Some(Attached { program, interface });
    let fault = |held| attached("eth0", 2, 50, held).map(|finding| finding.fault);

    assert_eq!(fault(held(50, 2)), None);
    assert_eq!(fault(held(49, 2)), Some(Fault::ProgramOther));
    assert_eq!(fault(held(50, 0)), Some(Fault::ProgramDetached));
    assert_eq!(fault(None), Some(Fault::ProgramDetached));
}

#[test]
fn a_number_of_flows_that_was_true_a_moment_ago_is_no_difference() {
    type Looks = &'static [(u32, u32)];
    // what, (counted, told) at each look, wrong
    let table: [(&str, Looks, bool); 5] = [
        ("equal", &[(5, 5)], false),
        ("behind by a sweep", &[(9, 5), (12, 10)], false),
        ("ending", &[(9, 20), (9, 8)], false),
        ("stuck while flows come", &[(9, 5), (12, 5), (15, 5)], true),
        ("stuck while nothing happens", &[(9, 5), (9, 5)], true),
    ];

    for (what, looks, wrong) in table {
        let mut tally = Tally::default();
        for (counted, told) in looks {
            tally.add(*counted, *told);
        }
        assert_eq!(tally.judge().is_some(), wrong, "{what}");
    }
    assert_eq!(Tally::default().judge(), None, "nothing is known");
}

#[test]
fn a_fault_has_a_name_and_a_meaning_of_its_own() {
    let (record, _) = halves();
    let belief = belief();
    let slots = belief.slots();
    let found = super::record(&belief, &slots, INDEX, &record, None);

    assert_eq!(found[0].fault.label(), "entry_missing");
    let meaning = found[0].fault.meaning();
    assert!(meaning.starts_with("The client's packets may begin a new flow"));
    assert!(!meaning.contains("  "), "{meaning}");
}
