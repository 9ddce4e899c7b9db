//! Health checks.

use super::check;

#[test]
fn health_checks() {
    check(&[
        (
            r#"name = "web""#,
            r#"name = "web"
health = {}"#,
            &[
                r#"pool[0].health.type (line 7): is missing; choose "connect", "tls", "http", "https", "ping" or "udp""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = "tcp""#,
            &[
                r#"pool[0].health (line 7): "tcp" is not a table; write key = value in braces or under one header"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "htps" }"#,
            &[r#"pool[0].health.type (line 7): "htps" is not known here; did you mean "https"?"#],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "http", interval = "1s", timeout = "2s" }"#,
            &[
                r#"pool[0].health.timeout (line 7): "2s" is longer than interval = "1s"; lower the timeout or raise the interval"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "connect", interval = "49ms", rise = 0 }"#,
            &[
                r#"pool[0].health.interval (line 7): "49ms" is out of range; choose "50ms" to "1d""#,
                "pool[0].health.rise (line 7): 0 is out of range; choose 1 to 1000",
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "connect", path = "/", verify = "none", ca = "/x" }"#,
            &[
                r#"pool[0].health.path (line 7): has no meaning with type = "connect"; remove it or use type = "http" or "https""#,
                r#"pool[0].health.verify (line 7): has no meaning with type = "connect"; remove it or use type = "tls" or "https""#,
                r#"pool[0].health.ca (line 7): has no meaning with type = "connect"; remove it or use type = "tls" or "https""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "ping", port = 7 }"#,
            &[
                r#"pool[0].health.port (line 7): has no meaning with type = "ping"; remove it or use type = "connect", "tls", "http", "https" or "udp""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "http", path = "health check", method = "get", expect_status = [99, "2xx", "abc"] }"#,
            &[
                r#"pool[0].health.path (line 7): "health check" is not a path; begin it with "/", and write spaces and other letters as %XX (RFC 3986 section 2.1)"#,
                r#"pool[0].health.method (line 7): "get" is not a method for a probe; write "GET", "HEAD" or another in capitals"#,
                r#"pool[0].health.expect_status[0] (line 7): 99 is not a status; write one from 200 to 599, or a class such as "2xx""#,
                r#"pool[0].health.expect_status[2] (line 7): "abc" is not a status; write one from 200 to 599, or a class such as "2xx""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "http", expect_status = [] }"#,
            &[
                "pool[0].health.expect_status (line 7): is empty; list at least one status, such as [200]",
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "http", method = "HEAD", expect_body = "ok" }"#,
            &[
                r#"pool[0].health.expect_body (line 7): never matches with method = "HEAD", whose answers have no body; use "GET""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "udp" }"#,
            &[
                r#"pool[0].health.send (line 7): is missing; write the datagram that the server answers, as text or as "hex:...""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "udp", send = "hex:0g" }"#,
            &[
                r#"pool[0].health.send (line 7): "hex:0g" is not hexadecimal; write pairs of digits after "hex:""#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "https", verify = "ca" }"#,
            &[
                r#"pool[0].health.ca (line 7): is missing; name the file with the certificates (PEM) that verify = "ca" trusts"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "https", ca = "/ca.pem" }"#,
            &[
                r#"pool[0].health.ca (line 7): is not used with verify = "system"; write verify = "ca" or remove it"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "https", verify = "pin" }"#,
            &[
                r#"pool[0].health.pins (line 7): is missing, and backend "10.0.0.11" has no pin; list pins = ["sha256:..."], or give every backend its pin"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"
health = { type = "https", verify = "ca", ca = "ca.pem" }"#,
            &[r#"pool[0].health.ca (line 7): "ca.pem" is not an absolute path; begin it with "/""#],
        ),
    ]);
}
