//! Whom the proxy trusts behind it, and TLS on both of its sides.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lb_tests::lab::{
    Configuration, Daemon, HealthPage, Lab,
    authority::Authority,
    configuration::{HEALTH as PLAIN_HEALTH, HEALTH_PORT, backend_with},
    eventually::eventually,
    nginx::Certificate,
    origin::Origin,
    process::{Outcome, Process},
    raw::Raw,
    site::{campus_v4, vip},
    stream::End,
    web_site::{HEALTH, INSIDE, POOL, PORTAL, SERVICE, WebSite, url},
};

const BOUND: Duration = Duration::from_secs(10);
/// A CA file is looked at every 5 seconds.
const SEEN: Duration = Duration::from_secs(12);

/// Certificates as servers have them, made by openssl: many that the web PKI refuses.
struct OddCertificates {
    directory: PathBuf,
}

impl OddCertificates {
    fn new(lab: &Lab) -> Self {
        let directory = lab.directory().join("odd");
        fs::create_dir(&directory).expect("the site's directory takes another");
        let odd = Self { directory };
        odd.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
             -subj /CN=trust-ca -keyout ca.key -out ca.pem",
        );
        odd
    }

    fn openssl(&self, line: &str) {
        let mut command = Command::new("openssl");
        command
            .args(line.split_whitespace())
            .current_dir(&self.directory);
        Outcome::of(command).ok();
    }

    fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Makes a certificate called `file` that the authority has signed, with these extensions.
    fn signed(&self, file: &str, days: i32, extensions: &str) -> Certificate {
        self.openssl(&format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -subj /CN=inside.lab.example -keyout {file}.key -out {file}.csr"
        ));
        let extended = match extensions {
            "" => String::new(),
            text => {
                fs::write(self.directory.join(format!("{file}.ext")), text).expect("written");
                format!("-extfile {file}.ext")
            }
        };
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
             {extended} -out {file}.pem"
        ));
        self.certificate(file)
    }

    fn self_signed(&self, file: &str) -> Certificate {
        self.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=gateway \
             -keyout {file}.key -out {file}.pem"
        ));
        self.certificate(file)
    }

    fn certificate(&self, file: &str) -> Certificate {
        Certificate {
            certificate: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
        }
    }

    fn pin(certificate: &Certificate) -> String {
        let mut command = Command::new("sh");
        command.arg("-c").arg(
            "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der | sha256sum",
        );
        command.arg(&certificate.certificate);
        let sum = Outcome::of(command).ok();
        format!("sha256:{}", sum.split(' ').next().unwrap_or_default())
    }
}

/// Starts an nginx on the first gateway with a certificate on each port from 4430 on.
fn nginx(lab: &Lab, certificates: &[&Certificate]) -> Process {
    let directory = lab.directory().join("nginx-odd");
    fs::create_dir(&directory).expect("the site's directory takes another");
    let place = directory.display();
    let mut text = format!(
        "daemon off; master_process off; pid {place}/pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p;\n\
         fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n"
    );
    for (port, certificate) in (4430..).zip(certificates) {
        writeln!(
            text,
            "server {{ listen {port} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
             location / {{ return 200 \"served\\n\"; }} }}",
            certificate.certificate.display(),
            certificate.key.display()
        )
        .expect("a string takes text");
    }
    fs::write(directory.join("nginx.conf"), text + "}\n").expect("written");
    let mut command = lab.gateway(1).command("nginx");
    command
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        .arg("-p")
        .arg(&directory)
        .arg("-e")
        .arg("stderr");
    Process::start("nginx", command, &directory.join("log"))
}

/// One server and one way to judge it.
struct Case {
    what: &'static str,
    /// Which of the certificates it has.
    server: usize,
    backend_tls: String,
    /// What the log says why it is refused; empty: it is served.
    refused: &'static str,
}

#[test]
fn odd_certificates_are_taken_by_their_key_and_refused_by_an_authority_with_clear_words() {
    let lab = Lab::one_arm().gateways(1).build();
    let odd = OddCertificates::new(&lab);
    let names = "subjectAltName=DNS:inside.lab.example\n";
    let servers = [
        odd.self_signed("self"),
        odd.signed("v1", 30, ""),
        odd.signed("cn", 30, "basicConstraints=CA:FALSE\n"),
        odd.signed(
            "ca-true",
            30,
            &format!("basicConstraints=critical,CA:TRUE\n{names}"),
        ),
        odd.signed("expired", -1, names),
        odd.signed("good", 30, names),
    ];
    let _nginx = nginx(&lab, &servers.iter().collect::<Vec<_>>());
    let _page = HealthPage::start(lab.gateway(1), HEALTH_PORT);
    let ca = odd.ca();
    let by_ca = |name: &str| {
        format!(
            "{{ verify = \"ca\", ca = \"{}\", server_name = \"{name}\" }}",
            ca.display()
        )
    };
    let by_pin = |server: usize| {
        let pin = OddCertificates::pin(&servers[server]);
        format!("{{ verify = \"pin\", pins = [\"{pin}\"] }}")
    };
    let mut cases = Vec::new();
    for (server, (what, refused)) in [
        // As openssl makes them unless told otherwise.
        ("self-signed", "(CA:TRUE)"),
        ("version 1", "it is an X.509 version 1 certificate"),
        ("common name only", "it carries no subject alternative name"),
        (
            "an authority's",
            "it is an authority's certificate (CA:TRUE) and not a server's",
        ),
        ("expired", "renew it on the server"),
    ]
    .into_iter()
    .enumerate()
    {
        cases.push(Case {
            what,
            server,
            backend_tls: by_pin(server),
            refused: "",
        });
        cases.push(Case {
            what,
            server,
            backend_tls: by_ca(INSIDE),
            refused,
        });
        let backend_tls = "{ verify = \"none\" }".to_owned();
        cases.push(Case {
            what,
            server,
            backend_tls,
            refused: "",
        });
    }
    let what = "a good one";
    cases.push(Case {
        what,
        server: 5,
        backend_tls: by_ca(INSIDE),
        refused: "",
    });
    cases.push(Case {
        what: "of another name",
        server: 5,
        backend_tls: by_ca("other.example"),
        refused: "it is for inside.lab.example, not for other.example",
    });
    cases.push(Case {
        what: "of another key",
        server: 5,
        backend_tls: by_pin(0),
        refused: "which is not pinned",
    });
    let authority = Authority::new(lab.directory(), "web-ca");
    cases.push(Case {
        what: "of another authority",
        server: 5,
        backend_tls: format!(
            "{{ verify = \"ca\", ca = \"{}\", server_name = \"{INSIDE}\" }}",
            authority.file().display()
        ),
        refused: "vouches for it",
    });
    let shown = authority.certificate(&[PORTAL]);
    let mut configuration = Configuration::new();
    for (number, case) in cases.iter().enumerate() {
        let backend = backend_with(lab.gateway(1), &format!("port = {}", 4430 + case.server));
        configuration = configuration
            .pool(&format!("pool{number}"), &[backend], PLAIN_HEALTH)
            .text(&format!(
                "[[service]]\nname = \"case{number}\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
                 forwarding = \"http\"\npool = \"pool{number}\"\nbackend_tls = {}\n\
                 tls = {{ certificates = [{{ certificate = \"{}\", key = \"{}\" }}] }}\n",
                vip(443).ip(),
                5000 + number,
                case.backend_tls,
                shown.certificate.display(),
                shown.key.display(),
            ));
    }
    let daemon = Daemon::start(&lab, &configuration);

    for (number, case) in cases.iter().enumerate() {
        let server = vip(u16::try_from(5000 + number).expect("a port"));
        let answer = Raw::tcp(lab.client(1), server)
            .and_then(|client| client.tls(&authority.client(&["http/1.1"]), PORTAL))
            .and_then(|mut client| client.get(PORTAL, "/", ""))
            .expect("an answer");
        let label = format!("no connection to pool{number}/gateway1");
        let log = daemon.log();
        let said: Vec<&str> = log.lines().filter(|line| line.contains(&label)).collect();
        let (what, trust) = (case.what, &case.backend_tls);
        if case.refused.is_empty() {
            assert_eq!(
                (answer.status, &*answer.text()),
                (200, "served\n"),
                "{what} {trust} {said:?}"
            );
        } else {
            assert_eq!(answer.status, 502, "{what} {trust}");
            assert!(answer.text().contains("backend_tls"), "{}", answer.text());
            assert!(
                said.iter()
                    .any(|line| line.contains(case.refused) && line.contains(" WARN ")),
                "{what} {trust} {said:?}"
            );
        }
    }
}

#[test]
fn another_ca_file_is_in_force_once_it_has_changed() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let other = Authority::new(lab.directory(), "other-ca");
    let file = lab.directory().join("trusted.pem");
    let trust = |from: &Path| {
        let beside = file.with_extension("new");
        fs::copy(from, &beside).expect("copied");
        fs::rename(&beside, &file).expect("renamed");
    };
    trust(&other.file());
    let more = format!(
        "backend_tls = {{ verify = \"ca\", ca = \"{}\", server_name = \"{INSIDE}\" }}",
        file.display()
    );
    let daemon = Daemon::start(&lab, &site.configuration_with(&lab, &more));
    let mut kept = site.raw(lab.client(1));
    let mut status = || kept.get(PORTAL, "/", "").expect("an answer").status;
    assert_eq!(status(), 502);

    trust(&site.authority.file());
    eventually(SEEN, "the right authority is trusted", || status() == 200);
    fs::write(&file, "no certificate").expect("written");
    eventually(SEEN, "the log says what stays", || {
        daemon
            .log()
            .contains("the last usable CA certificates stay in force")
    });
    assert_eq!(status(), 200);
    trust(&other.file());
    eventually(SEEN, "the wrong authority is trusted again", || {
        status() == 502
    });
}

#[test]
fn each_backend_can_have_a_name_of_its_own() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let site = WebSite::start(&lab);
    drop(site.origins);
    let authority = &site.authority;
    let names = ["one.lab.example", "two.lab.example"];
    let _origins: Vec<Origin> = lab
        .gateways()
        .iter()
        .zip(names)
        .map(|(host, name)| {
            Origin::on(host, 443)
                .tls(&authority.certificate(&[name]))
                .start()
        })
        .collect();
    let backends: Vec<String> = lab
        .gateways()
        .iter()
        .zip(names)
        .map(|(host, name)| backend_with(host, &format!("server_name = \"{name}\"")))
        .collect();
    let trust = format!(
        "backend_tls = {{ verify = \"ca\", ca = \"{}\", server_name = \"neither.example\" }}",
        authority.file().display()
    );
    let tls = format!(
        "tls = {{ certificates = [{{ certificate = \"{}\", key = \"{}\" }}] }}",
        site.certificate.certificate.display(),
        site.certificate.key.display()
    );
    let configuration = Configuration::new()
        .pool(POOL, &backends, HEALTH)
        .text(&format!(
            "[[service]]\nname = \"{SERVICE}\"\nvip = \"{}\"\nport = 443\nprotocol = \"tcp\"\n\
         forwarding = \"http\"\npool = \"{POOL}\"\n{tls}\n{trust}\n",
            vip(443).ip()
        ));
    let _daemon = Daemon::start(&lab, &configuration);

    let mut met = Vec::new();
    for number in 1..=16 {
        let answer = Raw::tcp_from(lab.campus(), campus_v4(number), vip(443))
            .and_then(|client| client.tls(&authority.client(&["http/1.1"]), PORTAL))
            .and_then(|mut client| client.get(PORTAL, "/", ""))
            .expect("an answer");
        assert_eq!(answer.status, 200);
        let name = answer.json()["server_name"].as_str().map(str::to_owned);
        met.push(name.expect("a name"));
    }
    for name in names {
        assert!(met.iter().any(|met| met == name), "{met:?}");
    }
}

#[test]
fn sessions_with_backends_are_taken_up_again_each_with_its_own() {
    let lab = Lab::one_arm().gateways(2).campus().build();
    let site = WebSite::start(&lab);
    // One worker: sessions are shared by workers, connections are not.
    let configuration = site.configuration(&lab).node("workers = 1");
    let _daemon = Daemon::start(&lab, &configuration);
    let settings = site.client(&["http/1.1"]);
    for _ in 0..4 {
        for number in 1..=12 {
            let answer = Raw::tcp_from(lab.campus(), campus_v4(number), vip(443))
                .and_then(|client| client.tls(&settings, PORTAL))
                .and_then(|mut client| client.get(PORTAL, "/x", ""))
                .expect("an answer");
            assert_eq!(answer.status, 200);
        }
        for origin in &site.origins {
            origin.end_connections(End::Close);
        }
    }

    for origin in &site.origins {
        let mut connections: Vec<(u64, bool)> = origin
            .records()
            .iter()
            .filter(|record| record.path() == "/x")
            .map(|record| {
                let tls = record.tls.as_ref().expect("TLS");
                (record.connection, tls.resumed)
            })
            .collect();
        connections.dedup();
        assert!(connections.len() >= 4, "{} {connections:?}", origin.name());
        let resumed = connections.iter().filter(|(_, resumed)| *resumed).count();
        assert!(
            resumed + 1 >= connections.len(),
            "{} {connections:?}",
            origin.name()
        );
    }
}

#[test]
fn clients_take_their_sessions_up_again_whichever_worker_they_meet() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let configuration = site.configuration(&lab).node("workers = 4");
    let _daemon = Daemon::start(&lab, &configuration);
    let settings = site.client(&["http/1.1"]);
    let resumed: Vec<bool> = (0..24)
        .map(|_| {
            let mut client = Raw::tcp(lab.client(1), vip(443))
                .and_then(|client| client.tls(&settings, PORTAL))
                .expect("a connection");
            assert_eq!(client.get(PORTAL, "/", "").expect("an answer").status, 200);
            client.agreed().expect("TLS").resumed
        })
        .collect();
    assert!(!resumed[0]);
    assert!(resumed[1..].iter().all(|resumed| *resumed), "{resumed:?}");

    let text = s_client(&lab, &site, "-tls1_2 -reconnect");
    assert_eq!(text.matches("Reused, TLSv1.2").count(), 5, "{text}");
}

#[test]
fn clients_of_one_version_and_of_either_protocol_are_served() {
    let lab = Lab::one_arm().gateways(1).build();
    let site = WebSite::start(&lab);
    let daemon = Daemon::start(&lab, &site.configuration(&lab));
    for (options, version, protocol) in [
        ("-tls1_2 -alpn h2,http/1.1", "TLSv1.2", "h2"),
        ("-tls1_3 -alpn h2,http/1.1", "TLSv1.3", "h2"),
        ("-tls1_3 -alpn http/1.1", "TLSv1.3", "http/1.1"),
        ("-tls1_2 -alpn http/1.1,h2", "TLSv1.2", "h2"),
    ] {
        let text = s_client(&lab, &site, options);
        assert!(
            text.contains(&format!("New, {version}")),
            "{options} {text}"
        );
        assert!(
            text.contains(&format!("ALPN protocol: {protocol}\n")),
            "{options} {text}"
        );
        assert!(
            text.contains("Verify return code: 0 (ok)"),
            "{options} {text}"
        );
    }
    let text = s_client(&lab, &site, "-tls1_1 -cipher ALL:@SECLEVEL=0");
    assert!(text.contains("New, (NONE)"), "{text}");
    for (options, version) in [
        (&["--tls-max", "1.2"][..], "1.1"),
        (&["--tls-max", "1.2", "--http2"], "2"),
        (&["--tlsv1.3", "--http2"], "2"),
        (&["--tlsv1.3", "--no-alpn"], "1.1"),
    ] {
        let curl = site.curl(&lab, lab.client(1)).options(options);
        let curl = match version {
            "1.1" => curl.http1(),
            _ => curl,
        };
        let answer = curl.get(&url("/")).one();
        assert_eq!(
            (answer.status, &*answer.http_version),
            (200, version),
            "{options:?}"
        );
    }

    let newest = site.configuration_with(
        &lab,
        &format!("tls = {}", site.tls("min_version = \"1.3\"")),
    );
    daemon.reload(&newest);
    eventually(BOUND, "TLS 1.2 is refused", || {
        s_client(&lab, &site, "-tls1_2").contains("New, (NONE)")
    });
    assert!(s_client(&lab, &site, "-tls1_3").contains("New, TLSv1.3"));
}

/// Connects with openssl on the client, says nothing, and returns what it prints.
fn s_client(lab: &Lab, site: &WebSite, options: &str) -> String {
    let mut command = lab.client(1).command("openssl");
    command
        .arg("s_client")
        .args(["-connect", &vip(443).to_string(), "-servername", PORTAL])
        .arg("-CAfile")
        .arg(site.authority.file())
        .args(options.split_whitespace());
    Outcome::of(command).text()
}
