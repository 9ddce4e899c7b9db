//! Pools and their backends.

use super::check;

#[test]
fn pools_and_backends() {
    check(&[
        (
            r#"name = "web"
"#,
            "",
            &[r#"pool[0].name (line 5): is missing; name the pool, such as name = "web""#],
        ),
        (
            r#"name = "web""#,
            r#"name = "w e b""#,
            &[
                r#"pool[0].name (line 6): "w e b" is not a name; use letters, digits, "-", "_" and "." only"#,
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            "[]",
            &[
                r#"pool[0].backends (line 7): is empty; list the servers, such as backends = ["10.0.0.11", "10.0.0.12"]"#,
            ],
        ),
        (
            r#"backends = ["10.0.0.11"]"#,
            "",
            &[
                r#"pool[0].backends (line 5): is missing; list the servers, such as backends = ["10.0.0.11", "10.0.0.12"]"#,
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            r#"["10.0.0.11", { adress = "10.0.0.12" }, "10.0.0.300"]"#,
            &[
                r#"pool[0].backends[1].address (line 7): is missing; write where the server is reached, such as "10.0.0.11""#,
                r#"pool[0].backends[1].adress (line 7): unknown key; did you mean "address"?"#,
                r#"pool[0].backends[2] (line 7): "10.0.0.300" is not an IP address; write one such as "10.0.0.1" or "2001:db8::1""#,
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            r#"["10.0.0.11", { name = "a", address = "10.0.0.11" }, { name = "a", address = "10.0.0.12" }]"#,
            &[
                r#"pool[0].backends[1] (line 7): address "10.0.0.11" is also that of pool[0].backends[0]; remove one or give it another port"#,
                r#"pool[0].backends[2] (line 7): name "a" is also that of pool[0].backends[1]; give it another name"#,
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            r#"[{ name = "a", address = "10.0.0.11" }, { name = "a", address = "10.0.0.12" }]"#,
            &[
                r#"pool[0].backends[1] (line 7): name "a" is also that of pool[0].backends[0]; give it another name"#,
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            r#"[{ address = "10.0.0.11", weight = 65536, state = "halted", port = 0 }]"#,
            &[
                "pool[0].backends[0].port (line 7): 0 is out of range; choose 1 to 65535",
                "pool[0].backends[0].weight (line 7): 65536 is out of range; choose 0 to 65535",
                r#"pool[0].backends[0].state (line 7): "halted" is not known here; choose "active", "drain" or "halt""#,
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            r#"[{ address = "10.0.0.11", max_connections = 10, resume_connections = 10 }]"#,
            &[
                "pool[0].backends[0].resume_connections (line 7): 10 is not below max_connections = 10; lower it or raise max_connections",
            ],
        ),
        (
            r#"["10.0.0.11"]"#,
            r#"[{ address = "10.0.0.11", server_name = "-x", pin = "sha1:00" }]"#,
            &[
                r#"pool[0].backends[0].server_name (line 7): "-x" is not a host name; write one such as "portal.uni.edu""#,
                r#"pool[0].backends[0].pin (line 7): "sha1:00" is not a pin; write "sha256:" and the SHA-256 of the public key, in 64 hexadecimal digits or base64"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
algorithm = "maglev""#,
            &[
                r#"pool[0].algorithm (line 7): "maglev" is not known here; choose "source-hash", "round-robin" or "least-connections""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
slow_start = "2d""#,
            &[r#"pool[0].slow_start (line 7): "2d" is out of range; choose "0s" to "1d""#],
        ),
        (
            "[[service]]",
            r#"[[pool]]
name = "web"
backends = ["10.0.0.12"]
[[service]]"#,
            &[r#"pool[1].name (line 10): "web" is also the name of pool[0]; choose another"#],
        ),
    ]);
}
