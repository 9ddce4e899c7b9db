use std::{net::IpAddr, time::Duration};

use super::*;
use crate::{
    admin::status::tests::snapshot,
    control::testing::ip,
    dataplane::{
        Attachment, CounterSnapshot, DataplaneError,
        image::{Image, MapOp},
    },
};

/// A data path with these flows and one remembered client, and nothing else.
pub(crate) struct Held {
    pub(crate) flows: Vec<FlowView>,
    pub(crate) remembered: Option<(u16, u32)>,
}

impl Dataplane for Held {
    fn image(&self) -> Result<Image, DataplaneError> {
        Ok(Image::default())
    }

    fn apply(&mut self, _operations: &[MapOp]) -> Result<(), DataplaneError> {
        Ok(())
    }

    fn counters(&self) -> Result<CounterSnapshot, DataplaneError> {
        Ok(CounterSnapshot::default())
    }

    fn affinity(&self, _client: IpAddr, _group: u32) -> Result<Option<(u16, u32)>, DataplaneError> {
        Ok(self.remembered)
    }

    fn flows(&self, limit: usize, filter: &dyn Fn(&FlowView) -> bool) -> Vec<FlowView> {
        let flows = self.flows.iter().filter(|view| filter(view));
        flows.take(limit).cloned().collect()
    }

    fn attachments(&self) -> Vec<Attachment> {
        Vec::new()
    }

    fn reattach(&mut self, interface: &str) -> Result<Attachment, DataplaneError> {
        Err(DataplaneError {
            what: format!("no {interface} here"),
            source: None,
        })
    }
}

pub(crate) fn view(client: &str, service: u8, backend: u16) -> FlowView {
    FlowView {
        client: (ip(client), 51_000),
        vip: (ip("10.0.0.100"), 443),
        snat: (ip("10.0.0.1"), 20_000),
        endpoint: (ip("10.0.1.1"), 443),
        service,
        backend,
        idle: Duration::from_millis(2900),
        replied: true,
    }
}

fn list(query: api::FlowsQuery) -> Result<api::Flows, FlowsError> {
    let held = Held {
        flows: vec![
            view("10.9.9.9", 0, 0),
            view("10.9.9.8", 0, 1),
            view("10.9.9.9", 7, 9),
        ],
        remembered: None,
    };
    flows(&held, &snapshot(), &query)
}

fn clients(query: api::FlowsQuery) -> Vec<String> {
    let flows = list(query).expect("known names").flows;
    flows.iter().map(|flow| flow.client.to_string()).collect()
}

#[test]
fn flows_have_names_in_place_of_numbers() {
    let flows = list(api::FlowsQuery::default()).expect("no names").flows;

    assert_eq!(flows[0].service.as_deref(), Some("ras-udp"));
    assert_eq!(flows[0].pool.as_deref(), Some("ras"));
    assert_eq!(flows[0].backend.as_deref(), Some("gw1"));
    assert_eq!(flows[0].idle_s, 2);
    assert_eq!((&flows[2].service, &flows[2].backend), (&None, &None));
}

#[test]
fn each_condition_narrows() {
    let client = Some(ip("10.9.9.9"));
    assert_eq!(
        clients(api::FlowsQuery {
            client,
            ..api::FlowsQuery::default()
        }),
        ["10.9.9.9:51000", "10.9.9.9:51000"]
    );
    assert_eq!(
        clients(api::FlowsQuery {
            client,
            service: Some("ras-udp".to_owned()),
            ..api::FlowsQuery::default()
        }),
        ["10.9.9.9:51000"]
    );
    assert_eq!(
        clients(api::FlowsQuery {
            backend: Some("gw2".to_owned()),
            ..api::FlowsQuery::default()
        }),
        ["10.9.9.8:51000"]
    );
    assert_eq!(
        clients(api::FlowsQuery {
            client: Some(ip("::ffff:10.9.9.8")),
            ..api::FlowsQuery::default()
        }),
        ["10.9.9.8:51000"]
    );
}

#[test]
fn a_list_that_was_cut_says_so() {
    let cut = |limit| {
        let query = api::FlowsQuery {
            limit: Some(limit),
            ..api::FlowsQuery::default()
        };
        let flows = list(query).expect("no names");
        (flows.flows.len(), flows.more)
    };

    assert_eq!(cut(2), (2, true));
    assert_eq!(cut(3), (3, false));
    assert_eq!(cut(0), (0, true));
    assert_eq!(cut(usize::MAX), (3, false));
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let query = api::FlowsQuery {
        service: Some("x".to_owned()),
        ..api::FlowsQuery::default()
    };
    assert_eq!(
        list(query).expect_err("unknown").to_string(),
        "no service is called \"x\"; there are ras-udp"
    );
    let query = api::FlowsQuery {
        backend: Some("x".to_owned()),
        ..api::FlowsQuery::default()
    };
    assert_eq!(
        list(query).expect_err("unknown").to_string(),
        "no backend is called \"x\"; there are ras/gw1, ras/gw2"
    );
}
