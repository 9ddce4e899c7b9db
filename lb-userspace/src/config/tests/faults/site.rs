//! Presets.

use super::check;

#[test]
fn sites() {
    check(&[
        (
            "[node]",
            r#"[[site]]
preset = "ras"
[node]"#,
            &[
                r#"site[0].backends (line 2): is missing; list the servers, such as backends = ["10.0.0.11", "10.0.0.12"]"#,
                r#"site[0].preset (line 3): "ras" is not known here; choose "parallels-ras", "appsanywhere", "cloudpaging-admin", "cloudpaging-portal" or "cloudpaging-paging""#,
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "paralels-ras"
[node]"#,
            &[
                r#"site[0].backends (line 2): is missing; list the servers, such as backends = ["10.0.0.11", "10.0.0.12"]"#,
                r#"site[0].preset (line 3): "paralels-ras" is not known here; did you mean "parallels-ras"?"#,
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
backends = ["10.0.0.21"]
[node]"#,
            &["site[0].vip (line 2): is missing; write the address that clients connect to"],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
vip = "10.0.0.2"
backends = [{ address = "10.0.0.21", port = 444 }]
key = "/k"
mod = "bridge"
[node]"#,
            &[
                "site[0].backends[0].port (line 5): is fixed by the preset; remove it, or write out the preset with `vipd config expand`",
                r#"site[0].key (line 6): has no meaning here; TLS passes through to the gateways: remove it, or write mode = "bridge""#,
                r#"site[0].mod (line 7): unknown key; did you mean "mode"?"#,
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "appsanywhere"
vip = "10.0.0.2"
backends = ["10.0.0.21"]
udp = true
certificate = "/c"
[node]"#,
            &[
                r#"site[0].fqdn (line 2): is missing; write the name that users open, such as "portal.uni.edu""#,
                "site[0].udp (line 6): has no meaning here; only parallels-ras has it: remove it",
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "appsanywhere"
vip = "10.0.0.2"
fqdn = "a.uni.edu"
backends = ["10.0.0.21"]
[node]"#,
            &[
                "site[0].certificate (line 2): is missing; name the file with the certificate chain (PEM), or a PFX",
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "appsanywhere"
vip = "10.0.0.2"
fqdn = "a.uni.edu"
backends = ["10.0.0.21"]
certificate = "/c.pfx"
key = "/c.key"
password_file = "/c"
[node]"#,
            &[
                "site[0].password_file (line 2): has no meaning beside key, since it opens a PFX, which holds its key; remove one of them",
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "cloudpaging-paging"
vip = "10.0.0.2"
backends = ["10.0.0.21"]
verify = "none"
mode = "bridge"
[node]"#,
            &[
                "site[0].vip (line 4): has no meaning here; cloudpaging-paging is only watched, since its clients choose a server themselves: remove it",
                "site[0].verify (line 6): has no meaning here; the paging service speaks plain HTTP: remove it",
                "site[0].mode (line 7): has no meaning here; only parallels-ras has it: remove it",
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
name = "a"
vip = "10.0.0.2"
backends = ["10.0.0.21"]
[[site]]
preset = "parallels-ras"
name = "a"
vip = "10.0.0.3"
backends = ["10.0.0.22"]
[node]"#,
            &[r#"site[1].name (line 9): "a" is also the name of site[0]; choose another"#],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
vip = "10.0.0.2"
backends = ["10.0.0.21"]
[[site]]
preset = "parallels-ras"
vip = "10.0.0.2"
backends = ["10.0.0.22"]
[node]"#,
            &[
                r#"site[1] > service "parallels-ras-2-https".port (line 6): tcp port 443 of 10.0.0.2 also belongs to service "parallels-ras-https"; give "parallels-ras-2-https" another port or VIP"#,
                r#"site[1] > service "parallels-ras-2-http".port (line 6): tcp port 80 of 10.0.0.2 also belongs to service "parallels-ras-http"; give "parallels-ras-2-http" another port or VIP"#,
                r#"site[1] > service "parallels-ras-2-udp".port (line 6): udp port 443 of 10.0.0.2 also belongs to service "parallels-ras-udp"; give "parallels-ras-2-udp" another port or VIP"#,
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
name = "web"
vip = "10.0.0.2"
backends = ["10.0.0.21"]
[node]"#,
            &[
                r#"site[0] > pool "web".name (line 2): "web" is also the name of pool[0]; choose another"#,
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
vip = "10.0.0.2"
backends = ["2001:db8::5"]
[node]"#,
            &[
                r#"site[0] > service "parallels-ras-udp".vip (line 2): "10.0.0.2" is IPv4, but backend "2001:db8::5" is IPv6; "snat" keeps the family, so use a pool of IPv4 backends"#,
            ],
        ),
        (
            "[node]",
            r#"[[site]]
preset = "parallels-ras"
vip = "10.0.0.2"
backends = ["10.0.0.21"]
verify = "pin"
[node]"#,
            &[
                r#"site[0] > pool "parallels-ras".health.pins (line 2): is missing, and backend "10.0.0.21" has no pin; list pins = ["sha256:..."], or give every backend its pin"#,
            ],
        ),
        (
            "[node]",
            r#"[site]
preset = "parallels-ras"
[node]"#,
            &[
                "site (line 2): stands here once, but there may be several; write [[site]]",
                r#"site[0].backends (line 2): is missing; list the servers, such as backends = ["10.0.0.11", "10.0.0.12"]"#,
                "site[0].vip (line 2): is missing; write the address that clients connect to",
            ],
        ),
    ]);
}
