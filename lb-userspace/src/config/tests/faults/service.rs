//! Services.

use super::check;

#[test]
fn services() {
    check(&[
        (
            r#"vip = "10.0.0.1"
"#,
            "",
            &["service[0].vip (line 9): is missing; write the address that clients connect to"],
        ),
        (
            r#"vip = "10.0.0.1""#,
            r#"vip = "10.0.0.256""#,
            &[
                r#"service[0].vip (line 11): "10.0.0.256" is not an IP address; write one such as "10.0.0.1" or "2001:db8::1""#,
            ],
        ),
        (
            r#"vip = "10.0.0.1""#,
            r#"vip = "127.0.0.1""#,
            &[
                r#"service[0].vip (line 11): "127.0.0.1" is a loopback address; write one that other hosts can reach"#,
            ],
        ),
        (
            r#"vip = "10.0.0.1""#,
            r#"vip = "10.0.0.11""#,
            &[
                r#"service[0].vip (line 11): "10.0.0.11" is also the address of backend "10.0.0.11"; use an address of its own for the VIP"#,
            ],
        ),
        (
            "port = 53\n",
            "",
            &[
                "service[0].port (line 9): is missing; write the port that clients connect to, such as port = 443",
            ],
        ),
        (
            r#"protocol = "udp"
"#,
            "",
            &[r#"service[0].protocol (line 9): is missing; write "tcp" or "udp""#],
        ),
        (
            r#"forwarding = "snat"
"#,
            "",
            &[
                r#"service[0].forwarding (line 9): is missing; choose "snat", "tcp", "http", "redirect" or "monitor""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "wbe""#,
            &[r#"service[0].pool (line 15): no pool is called "wbe"; did you mean "web"?"#],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "other""#,
            &[
                r#"service[0].pool (line 15): no pool is called "other"; add a [[pool]] with name = "other""#,
            ],
        ),
        (
            r#"pool = "web""#,
            "",
            &["service[0].pool (line 9): is missing; name the pool whose backends serve this"],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
persistence = { timeout = "6x" }"#,
            &[
                r#"service[0].persistence.timeout (line 16): "6x" is not a duration; write a whole number and ms, s, m, h or d, such as "30s""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
persistence = { timeout = 6 }"#,
            &[
                r#"service[0].persistence.timeout (line 16): 6 is not a duration; write the unit, such as "6s""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
persistence = { key = "cookie" }"#,
            &[
                r#"service[0].persistence.key (line 16): "cookie" works with forwarding = "http" only; write "source-ip""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
persistence = { cookie = { name = "x" }, ipv4_prefix = 33, ipv6_prefix = 0 }"#,
            &[
                "service[0].persistence.ipv4_prefix (line 16): 33 is out of range; choose 1 to 32",
                "service[0].persistence.ipv6_prefix (line 16): 0 is out of range; choose 1 to 128",
                r#"service[0].persistence.cookie (line 16): has no meaning without key = "cookie"; remove it"#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
hsts = "1d""#,
            &[
                r#"service[0].hsts (line 16): has no meaning with forwarding = "snat"; remove it or use forwarding = "http""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
tls = { certificates = [] }"#,
            &[
                r#"service[0].tls.certificates (line 16): is missing or empty; list at least one { certificate = "/FILE.pem", key = "/FILE.key" }"#,
                r#"service[0].tls (line 16): has no meaning with forwarding = "snat"; remove it or use forwarding = "http""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
transparent = true"#,
            &[
                r#"service[0].transparent (line 16): has no meaning with forwarding = "snat"; remove it or use forwarding = "tcp" or "http""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
proxy_protocol = { send = "v2" }"#,
            &[
                r#"service[0].proxy_protocol (line 16): has no meaning with forwarding = "snat"; remove it or use forwarding = "tcp" or "http""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
routes = [{ host = "a.uni.edu", pool = "web" }]"#,
            &[
                r#"service[0].routes (line 16): has no meaning with forwarding = "snat"; remove it or use forwarding = "tcp" or "http""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
allow = ["10.0.0.0/8", "10.1.2.3/16", "campus"]
block = ["10.9.0.0/16", "10.0.0.0/8", "10.9.0.0/16", "::ffff:10.1.0.0/112"]"#,
            &[
                r#"service[0].allow[1] (line 16): "10.1.2.3/16" has bits set after the first 16; write "10.1.0.0/16""#,
                r#"service[0].allow[2] (line 16): "campus" is not a prefix; write one such as "10.0.0.0/8" or "2001:db8::/32""#,
                r#"service[0].block[1] (line 17): "10.0.0.0/8" is also service[0].allow[0]; remove one of them"#,
                r#"service[0].block[2] (line 17): "10.9.0.0/16" is also service[0].block[0]; remove one of them"#,
                r#"service[0].block[3] (line 17): "::ffff:10.1.0.0/112" is an IPv4 prefix in IPv6 notation; write "10.1.0.0/16""#,
            ],
        ),
        (
            r#"forwarding = "snat""#,
            r#"forwarding = "monitor"
block = "10.9.0.0/16""#,
            &[
                r#"service[0].block (line 15): "10.9.0.0/16" is not a list; put it in brackets"#,
                r#"service[0].block (line 15): has no meaning with forwarding = "monitor"; remove it or use forwarding = "snat", "tcp", "http" or "redirect""#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
limits = { connections = 5 }"#,
            &[
                r#"service[0].limits.connections (line 16): has no meaning with forwarding = "snat"; remove it or use max_connections of the backends"#,
            ],
        ),
        (
            r#"pool = "web""#,
            r#"pool = "web"
limits = { new_flows = 5 }"#,
            &[
                "service[0].limits.new_flows (line 16): unknown key; remove it; known here: body_size, connections, header_size, headers, new_flows_per_second, new_flows_per_source, per_source, streams",
            ],
        ),
        (
            r#""snat""#,
            r#""tcp""#,
            &[
                r#"service[0].protocol (line 13): "udp" cannot be forwarded by "tcp"; write protocol = "tcp", or forwarding = "snat""#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
"#,
            &[
                r#"service[0].tls (line 9): is missing; give tls = { certificates = [{ certificate = "/FILE.pem", key = "/FILE.key" }] }"#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ key = "/c.key" }, { certificate = "/c.pfx", key = "/c.key", password_file = "/c" }] }"#,
            &[
                "service[0].tls.certificates[0].certificate (line 15): is missing; name the file with the certificate chain (PEM), or a PFX",
                "service[0].tls.certificates[1].password_file (line 15): has no meaning beside key, since it opens a PFX, which holds its key; remove one of them",
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "c.pem" }], min_version = "1.1" }"#,
            &[
                r#"service[0].tls.certificates[0].certificate (line 15): "c.pem" is not an absolute path; begin it with "/""#,
                r#"service[0].tls.min_version (line 15): "1.1" is not known here; choose "1.2" or "1.3""#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
trusted_proxies = ["10.0.0.1/8", "10.0.0.0/33", "x"]"#,
            &[
                r#"service[0].trusted_proxies[0] (line 16): "10.0.0.1/8" has bits set after the first 8; write "10.0.0.0/8""#,
                r#"service[0].trusted_proxies[1] (line 16): "10.0.0.0/33" has a length beyond 32; choose 0 to 32"#,
                r#"service[0].trusted_proxies[2] (line 16): "x" is not a prefix; write one such as "10.0.0.0/8" or "2001:db8::/32""#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
limits = { header_size = "72KB", body_size = -1 }"#,
            &[
                r#"service[0].limits.header_size (line 16): "72KB" is not a size; write a whole number and B, KiB, MiB or GiB, such as "72KiB""#,
                r#"service[0].limits.body_size (line 16): -1 is not a size; write a whole number and B, KiB, MiB or GiB, such as "72KiB""#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
limits = { header_size = "2MiB" }"#,
            &[
                r#"service[0].limits.header_size (line 16): "2MiB" is out of range; choose "1KiB" to "1MiB""#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
timeouts = { handshake = "1ms", tunel = "1h" }"#,
            &[
                r#"service[0].timeouts.handshake (line 16): "1ms" is out of range; choose "100ms" to "1d""#,
                r#"service[0].timeouts.tunel (line 16): unknown key; did you mean "tunnel"?"#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
errors = { "500" = "/x", "502" = "x" }"#,
            &[
                r#"service[0].errors.502 (line 16): "x" is not an absolute path; begin it with "/""#,
                "service[0].errors.500 (line 16): unknown key; remove it; known here: 502, 503, 504",
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
routes = [{ host = "a b", pool = "web" }, { host = "a.uni.edu", pool = "wen" }]"#,
            &[
                r#"service[0].routes[0].host (line 16): "a b" is not a host name; write one such as "portal.uni.edu" or "*.uni.edu""#,
                r#"service[0].routes (line 16): no pool is called "wen"; did you mean "web"?"#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
backend_tls = { verify = "pin" }"#,
            &[
                r#"service[0].backend_tls.pins (line 16): is missing, and backend "10.0.0.11" has no pin; list pins = ["sha256:..."], or give every backend its pin"#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
transparent = true
source_addresses = ["10.0.0.9"]"#,
            &[
                "service[0].source_addresses (line 17): has no meaning with transparent = true, which uses the client's own; remove one",
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
proxy_protocol = { send = "v2", accept_from = ["10.0.0.0/8"] }"#,
            &[
                r#"service[0].proxy_protocol (line 16): send works with forwarding = "tcp" only, as requests of many clients share a connection; remove it: backends find the client in X-Forwarded-For"#,
            ],
        ),
        (
            r#"port = 53
protocol = "udp"
forwarding = "snat""#,
            r#"port = 443
protocol = "tcp"
forwarding = "http"
tls = { certificates = [{ certificate = "/c.pem", key = "/c.key" }] }
hsts = "9999d""#,
            &[r#"service[0].hsts (line 16): "9999d" is out of range; choose "0s" to "730d""#],
        ),
        (
            r#"forwarding = "snat"
pool = "web""#,
            r#"forwarding = "redirect"
redirect = { status = 302 }"#,
            &[
                r#"service[0].protocol (line 13): "udp" cannot be forwarded by "redirect"; write protocol = "tcp", or forwarding = "snat""#,
                "service[0].redirect.status (line 15): 302 does not redirect for good; write 301, or 308 to keep the method",
            ],
        ),
        (
            r#""snat""#,
            r#""redirect""#,
            &[
                r#"service[0].protocol (line 13): "udp" cannot be forwarded by "redirect"; write protocol = "tcp", or forwarding = "snat""#,
                r#"service[0].pool (line 15): has no meaning with forwarding = "redirect"; remove it or use forwarding = "snat", "tcp", "http" or "monitor""#,
            ],
        ),
    ]);
}
