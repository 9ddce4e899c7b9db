//! What is right by itself and wrong together.

use super::{
    super::{super::parse, SMALL, faults},
    check,
};

#[test]
fn what_is_wrong_between_the_tables() {
    check(&[
        (
            r#"pool = "web""#,
            r#"pool = "web"
[[service]]
name = "dns"
vip = "10.0.0.1"
port = 53
protocol = "udp"
forwarding = "snat"
pool = "web""#,
            &[
                r#"service[1].name (line 17): "dns" is also the name of service[0]; choose another"#,
                r#"service[1].port (line 19): udp port 53 of 10.0.0.1 also belongs to service "dns"; give "dns" another port or VIP"#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
[[service]]
name = "more"
vip = "10.0.0.1"
port = 54
protocol = "udp"
forwarding = "snat"
pool = "other"
persistence = { group = "web" }
[[pool]]
name = "other"
backends = ["10.0.0.12"]"#,
            &[
                r#"service[1].persistence.group (line 23): group "web" is that of service "dns", which has another pool; give this service another group"#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
[[service]]
name = "more"
vip = "10.0.0.1"
port = 54
protocol = "udp"
forwarding = "snat"
pool = "web"
persistence = { ipv4_prefix = 24 }"#,
            &[
                r#"service[1].persistence (line 23): ipv4_prefix = 24, ipv6_prefix = 128 differ from service "dns" of the same group; write 32 and 128 or another group"#,
            ],
        ),
        (
            r#"vip = "10.0.0.1""#,
            r#"vip = "2001:db8::1""#,
            &[
                r#"service[0].vip (line 11): "2001:db8::1" is IPv6, but backend "10.0.0.11" is IPv4; "snat" keeps the family, so use a pool of IPv6 backends"#,
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
max_flows = 2048"#,
            &[
                "node.max_flows (line 4): 2048 is too small: 12768 SNAT ports for each SNAT address, backend and backend's port (1) need 12768; write max_flows = 12768, or a smaller snat_ports",
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_ports = "1-65535"
snat_addresses = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]"#,
            &[
                "node.max_flows (line 2): 262144 is too small: 65535 SNAT ports for each SNAT address, backend and backend's port (5) need 327675; write max_flows = 327675, or a smaller snat_ports",
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_ports = "50-60"
snat_addresses = ["10.0.0.1"]"#,
            &[
                r#"service[0].port (line 14): 53 lies in node.snat_ports = "50-60", and "10.0.0.1" is an SNAT address too; move the range or remove the address from node.snat_addresses"#,
            ],
        ),
    ]);
}

#[test]
fn what_does_not_fit_the_maps_is_refused_with_the_number_that_does() {
    assert_eq!(faults(parse(&many(63, |n| pool_block(n, 1)))), [""; 0]);
    assert_eq!(
        faults(parse(&many(64, |n| pool_block(n, 1)))),
        ["pool[64] (line 206): is one of 65 pools; keep at most 64"]
    );
    assert_eq!(
        faults(parse(&many(16, |n| pool_block(n, 64)))),
        [
            "pool[16].backends (line 64): brings the backends of all pools to 1025; keep at most 1024"
        ]
    );
    assert_eq!(
        faults(parse(&many(1, |n| pool_block(n, 65)))),
        ["pool[1].backends (line 19): has 65 backends; a pool has at most 64"]
    );
    assert_eq!(faults(parse(&many(255, |n| snat_block(n, "web")))), [""; 0]);
    assert_eq!(
        faults(parse(&many(256, |n| snat_block(n, "web")))),
        [
            "service[256] (line 2057): is one of 257 services with forwarding = \"snat\"; keep at most 256"
        ]
    );
    let block = |first: u32| -> String {
        let networks = (0..32_768_u32).map(|place| std::net::Ipv4Addr::from(first + (place << 9)));
        let prefixes = networks.map(|network| format!("\"{network}/24\""));
        format!("block = [{}]", prefixes.collect::<Vec<_>>().join(", "))
    };
    let listed = |n: usize, block: &str| snat_block(n, "web") + block + "\n";
    let (one, other) = (block(0), block(1 << 24));
    assert_eq!(
        faults(parse(&many(8, |n| listed(n, &one)))),
        [""; 0],
        "the same list is held once"
    );
    assert_eq!(
        faults(parse(&many(2, |n| listed(
            n,
            if n == 1 { &one } else { &other }
        )))),
        [
            "service[2].block (line 34): the lists of clients of all services make 131074 ranges of addresses; keep at most 131072"
        ]
    );
}

#[test]
fn snat_ports_beyond_every_capacity_are_to_be_narrowed() {
    let text = many(14, |n| pool_block(n, 64) + &snat_block(n, &format!("p{n}")));

    assert_eq!(
        faults(parse(&text.replace(
            "interfaces",
            "snat_ports = \"10000-32767\"\ninterfaces"
        ))),
        [
            "node.max_flows (line 3): 16777216 is too small: 22768 SNAT ports for each SNAT address, backend and backend's port (897) need 20422896; narrow snat_ports to at most 18703 ports and write max_flows = 16776591"
        ]
    );
    let addresses = "snat_addresses = [\"10.0.2.1\", \"10.0.2.2\", \"10.0.2.3\", \"10.0.2.4\", \"10.0.2.5\"]\ninterfaces";
    assert_eq!(
        faults(parse(&text.replace("interfaces", addresses))),
        [
            "node.snat_addresses (line 4): make 4485 endpoints, one for each SNAT address, backend and backend's port; keep at most 4096 by using fewer addresses"
        ]
    );
}

/// Returns a small file with `count` more blocks, each made from its number.
fn many(count: usize, block: impl Fn(usize) -> String) -> String {
    (0..count).fold(
        SMALL.replace("interfaces", "max_flows = 16777216\ninterfaces"),
        |text, number| text + &block(number),
    )
}

fn pool_block(number: usize, backends: usize) -> String {
    let backends: Vec<String> = (0..backends)
        .map(|host| format!("\"10.1.{number}.{}\"", host + 1))
        .collect();
    format!(
        "[[pool]]\nname = \"p{number}\"\nbackends = [{}]\n",
        backends.join(", ")
    )
}

fn snat_block(number: usize, pool: &str) -> String {
    format!(
        "[[service]]\nname = \"s{number}\"\nvip = \"10.0.1.1\"\nport = {}\nprotocol = \"udp\"\nforwarding = \"snat\"\nbackend_port = 53\npool = \"{pool}\"\n",
        number + 1
    )
}
