//! The flow table: full, it refuses new flows and harms none; what a crash left in it heals.

use lb_common::{flow::Flow, record::State, verdict::DropReason};

use crate::harness::{
    packet::Packet,
    plan::{CLIENT, CLIENT6, GATEWAY1, GATEWAY1_V6, Gateway, SERVICE, SERVICE6, VIP, VIP6},
    site::{Site, Verdict, from_client},
};

/// Room for flows in each family, and for records of them all.
const MAX_FLOWS: u32 = 256;

/// Makes the packet of the client with this number.
type Client = fn(u32) -> Packet;

fn families() -> [(Client, Gateway, u16); 2] {
    [
        (
            |host| from_client(&format!("198.51.100.{host}:40000"), VIP),
            GATEWAY1,
            SERVICE,
        ),
        (
            |host| from_client(&format!("[2001:db8:2::{host:x}]:40000"), VIP6),
            GATEWAY1_V6,
            SERVICE6,
        ),
    ]
}

#[test]
fn a_full_table_refuses_new_flows_and_harms_none() {
    Site::sized(
        |options| options.max_flows = MAX_FLOWS,
        |site| {
            for (client, gateway, service) in families() {
                site.only(gateway);
                let active: Vec<_> = (0..8).map(client).collect();
                let before: Vec<_> = active.iter().map(|packet| site.forward(packet)).collect();
                // The rest of the room is taken by entries that name records of others, such as a
                // crash might leave: an entry needs a record, so flows alone cannot fill it.
                for port in 1000..1000 + MAX_FLOWS - 8 {
                    let stranger = client(0).port(port as u16);
                    site.pins.set_flow(&stranger, Flow::NONE);
                }
                let live = site.pins.in_state(State::Live);

                let refused = site.send(&client(99));

                assert_eq!(refused, Verdict::Dropped(DropReason::FlowTableFull));
                assert_eq!(site.service_counters(service).dropped, 1);
                assert_eq!(
                    site.pins.in_state(State::Live),
                    live,
                    "its record is free again"
                );
                assert_eq!(site.pins.flow(&client(99)), None);
                for (packet, before) in active.iter().zip(&before) {
                    assert_eq!(site.forward(packet), *before, "a flow was harmed");
                    assert_eq!(site.answer(before).destination, packet.source);
                }
            }
        },
    );
}

#[test]
fn a_flow_moves_in_a_full_table() {
    Site::sized(
        |options| options.max_flows = MAX_FLOWS,
        |site| {
            for (client, gateway, _) in families() {
                site.only(gateway);
                let packet = client(1);
                let before = site.forward(&packet);
                for port in 1000..1000 + MAX_FLOWS - 1 {
                    site.pins
                        .set_flow(&packet.clone().port(port as u16), Flow::NONE);
                }

                site.backend(gateway, |backend| backend.health = 0);

                assert_ne!(site.forward(&packet).destination, before.destination);
            }
        },
    );
}

#[test]
fn an_entry_whose_record_is_free_begins_anew() {
    Site::with(|site| {
        site.settings(|settings| settings.quarantine_s = 0);
        for packet in [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)] {
            let before = site.forward(&packet);
            let entry = site.pins.flow(&packet).expect("a flow");
            site.end_flows();
            site.pins.set_flow(&packet, entry);

            let after = site.forward(&packet);

            assert_eq!(after, before, "the port is free, and the client's own");
            let anew = site.pins.flow(&packet).expect("a flow");
            assert_eq!(anew.record, entry.record);
            assert_eq!(anew.generation, entry.generation + 1);
            assert_eq!(site.answer(&after).destination, packet.source);
            site.end_flows();
        }
    });
}

#[test]
fn an_entry_that_names_no_record_begins_anew() {
    Site::with(|site| {
        for packet in [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)] {
            site.pins.set_flow(
                &packet,
                Flow {
                    record: u32::MAX,
                    ..Flow::NONE
                },
            );

            let forwarded = site.forward(&packet);

            assert_eq!(site.answer(&forwarded).destination, packet.source);
            let entry = site.pins.flow(&packet).expect("a flow");
            assert_eq!(site.pins.state(entry.record), State::Live);
        }
    });
}

#[test]
fn a_record_without_its_entry_holds_its_port_and_hurts_nobody() {
    Site::with(|site| {
        for packet in [from_client(CLIENT, VIP), from_client(CLIENT6, VIP6)] {
            let before = site.forward(&packet);
            site.pins.remove_flow(&packet);
            assert_eq!(
                site.forward(&packet),
                before,
                "its shortcut still leads there"
            );
            site.reload();

            let after = site.forward(&packet);

            assert_ne!(after.source, before.source, "the port is still held");
            assert_eq!(site.answer(&before).destination, packet.source);
            assert_eq!(site.answer(&after).destination, packet.source);
        }
    });
}
