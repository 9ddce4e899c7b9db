//! Keys and kinds of values, whatever the table.

use super::check;

#[test]
fn keys_and_kinds_of_values() {
    check(&[
        (
            "port = 53",
            "prot = 53",
            &[
                "service[0].port (line 9): is missing; write the port that clients connect to, such as port = 443",
                r#"service[0].prot (line 12): unknown key; did you mean "port"?"#,
            ],
        ),
        (
            "port = 53",
            "port = 70000",
            &["service[0].port (line 12): 70000 is out of range; choose 1 to 65535"],
        ),
        (
            "port = 53",
            r#"port = "53""#,
            &[
                r#"service[0].port (line 12): "53" is not a whole number; write one from 1 to 65535, without quotes"#,
            ],
        ),
        (
            "port = 53",
            "port = 99999999999999999999",
            &[
                "service[0].port (line 12): 99999999999999999999 is not a whole number; write one from 1 to 65535, without quotes",
            ],
        ),
        (
            r#""snat""#,
            r#""snatt""#,
            &[
                r#"service[0].forwarding (line 14): "snatt" is not known here; did you mean "snat"?"#,
            ],
        ),
        (
            r#""snat""#,
            r#""nat""#,
            &[r#"service[0].forwarding (line 14): "nat" is not known here; did you mean "snat"?"#],
        ),
        (
            r#""udp""#,
            "17",
            &["service[0].protocol (line 13): 17 is not text; put it in quotes"],
        ),
        (
            "[[pool]]",
            "[pool]",
            &["pool (line 5): stands here once, but there may be several; write [[pool]]"],
        ),
        (
            "[[pool]]",
            "[[pools]]",
            &[
                r#"pools (line 5): unknown key; did you mean "pool"?"#,
                r#"service[0].pool (line 15): no pool is called "web"; add a [[pool]] with name = "web""#,
            ],
        ),
        (
            "[node]",
            "[[node]]",
            &["node (line 2): is a list, but there is only one; write one table"],
        ),
        (
            "[node]",
            "pool = 3\n[node]",
            &["line 6, column 3: duplicate key; the file must be TOML"],
        ),
        (
            "[node]",
            r#"log = { level = "trce", colour = true }
[node]"#,
            &[
                r#"log.level (line 2): "trce" is not known here; did you mean "trace"?"#,
                "log.colour (line 2): unknown key; remove it; known here: access, format, level",
            ],
        ),
        (
            r#"interfaces = ["eth0"]"#,
            r#"interfaces = ["eth0""#,
            &[
                "line 5, column 1: missing comma between array elements, expected `,`; the file must be TOML",
            ],
        ),
        (
            "interfaces",
            r#""inter faces""#,
            &[
                r#"node.interfaces (line 2): is missing; name the interface that clients' packets arrive on, such as interfaces = ["eth0"]"#,
                r#"node."inter faces" (line 3): unknown key; did you mean "interfaces"?"#,
            ],
        ),
    ]);
}
