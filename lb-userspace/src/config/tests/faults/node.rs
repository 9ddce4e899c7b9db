//! `[node]`, `[[vip]]`, `[log]`, `[admin]` and `[state]`.

use super::check;

#[test]
fn the_node_and_its_tables() {
    check(&[
        (
            r#"interfaces = ["eth0"]"#,
            "",
            &[
                r#"node.interfaces (line 2): is missing; name the interface that clients' packets arrive on, such as interfaces = ["eth0"]"#,
            ],
        ),
        (
            r#"["eth0"]"#,
            "[]",
            &[
                r#"node.interfaces (line 3): is empty; name the interface that clients' packets arrive on, such as interfaces = ["eth0"]"#,
            ],
        ),
        (
            r#"["eth0"]"#,
            r#""eth0""#,
            &[r#"node.interfaces (line 3): "eth0" is not a list; put it in brackets"#],
        ),
        (
            r#"["eth0"]"#,
            r#"["eth0", "eth0", "a b"]"#,
            &[
                r#"node.interfaces[2] (line 3): "a b" is not the name of an interface (1 to 15 bytes); `ip link` lists them"#,
                r#"node.interfaces (line 3): "eth0" stands here twice; remove one"#,
            ],
        ),
        (
            r#"["eth0"]"#,
            r#"["a","b","c","d","e","f","g","h","i"]"#,
            &["node.interfaces (line 3): has 9 names; keep at most 8"],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
xdp_mode = "driver""#,
            &[
                r#"node.xdp_mode (line 4): "driver" is not known here; choose "auto", "native" or "generic""#,
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_ports = "20000"
max_flows = 1023"#,
            &["node.max_flows (line 5): 1023 is out of range; choose 1024 to 16777216"],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_ports = "32767-20000""#,
            &[r#"node.snat_ports (line 4): "32767-20000" runs backwards; write "20000-32767""#],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_ports = "0-9""#,
            &[
                r#"node.snat_ports (line 4): "0-9" is not a range of ports; write one such as "20000-32767""#,
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_addresses = ["10.0.0.5", "10.0.0.5"]"#,
            &[r#"node.snat_addresses (line 4): "10.0.0.5" stands here twice; remove one"#],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
snat_addresses = ["127.0.0.1", "224.0.0.1", "::ffff:10.0.0.5", "fe80::1"]"#,
            &[
                r#"node.snat_addresses[0] (line 4): "127.0.0.1" is a loopback address; write one that other hosts can reach"#,
                r#"node.snat_addresses[1] (line 4): "224.0.0.1" is not the address of one host; write a unicast address"#,
                r#"node.snat_addresses[2] (line 4): "::ffff:10.0.0.5" is an IPv4 address in IPv6 notation; write "10.0.0.5""#,
                r#"node.snat_addresses[3] (line 4): "fe80::1" is a link-local address, which is not unique on this node; write a global or unique local one"#,
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flow_timeout = "25h""#,
            &[r#"node.flow_timeout (line 4): "25h" is out of range; choose "1s" to "1d""#],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
flow_timeout = "10s"
flow_timeout_unreplied = "30s""#,
            &[
                r#"node.flow_timeout_unreplied (line 5): "30s" is longer than flow_timeout = "10s"; lower it or raise flow_timeout"#,
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
workers = "many""#,
            &[
                r#"node.workers (line 4): "many" is not a number of workers; write "auto" or 1 to 1024"#,
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0"]
forget_on_stop = "yes""#,
            &[
                r#"node.forget_on_stop (line 4): "yes" is neither true nor false; write one of them, without quotes"#,
            ],
        ),
        (
            "[node]",
            r#"[admin]
socket = "vipd.sock"
mode = "0888"
[node]"#,
            &[
                r#"admin.socket (line 3): "vipd.sock" is not an absolute path; begin it with "/""#,
                r#"admin.mode (line 4): "0888" is not a file mode; write four octal digits in quotes, such as "0660""#,
            ],
        ),
        (
            "[node]",
            r#"[log]
access = "syslog"
[node]"#,
            &[
                r#"log.access (line 3): "syslog" is no place for the access log; write "off", "stdout" or an absolute path"#,
            ],
        ),
        (
            "[node]",
            r#"[state]
directory = "var"
[node]"#,
            &[r#"state.directory (line 3): "var" is not an absolute path; begin it with "/""#],
        ),
        (
            "[node]",
            r#"[[vip]]
address = "10.0.0.1"
interface = "eth1"
[[vip]]
address = "10.0.0.1"
[node]"#,
            &[
                r#"vip[0].interface (line 4): "eth1" is not in node.interfaces; did you mean "eth0"?"#,
                r#"vip[1].address (line 6): "10.0.0.1" is also that of vip[0]; remove one"#,
            ],
        ),
    ]);
}
