//! Requests from many addresses, as clients of a campus send them.

use std::{net::SocketAddr, sync::Arc};

use lb_tests::lab::{Lab, raw::Raw, site::campus_v4, web_site::PORTAL};
use rustls::ClientConfig;

/// Connections that stay, each from an address of its own.
pub(crate) struct Crowd(Vec<Raw>);

impl Crowd {
    /// Connects so many clients.
    pub(crate) fn connect(
        lab: &Lab,
        settings: &Arc<ClientConfig>,
        server: SocketAddr,
        clients: u16,
    ) -> Self {
        let connected = (1..=clients).map(|number| {
            let source = campus_v4(number);
            let client = Raw::tcp_from(lab.campus(), source, server).expect("a connection");
            client.tls(settings, PORTAL).expect("a handshake")
        });
        Self(connected.collect())
    }

    /// Lets each ask so many times for `path`; all of them ask before the first reads its answer.
    pub(crate) fn ask(&mut self, path: &str, times: u32) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {PORTAL}\r\n\r\n");
        for _ in 0..times {
            for client in &mut self.0 {
                client.send(&request).expect("a connection that stays");
            }
            for client in &mut self.0 {
                let answer = client.answer("GET").expect("an answer");
                assert_eq!(answer.status, 200);
            }
        }
    }
}
