//! vipd, HAProxy and nginx, set up for the same work.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use lb_tests::lab::{
    Configuration, Host, Lab,
    eventually::{eventually, holds_within},
    nginx::Certificate,
    process::{Outcome, Process},
    site::vip,
    web_site::{HEALTH, INSIDE, PORTAL, WebSite},
};

/// Which service of a proxy; each proxy has its ports from a base of its own on.
pub(crate) const HTTPS: u16 = 0;
pub(crate) const RSA: u16 = 1;
pub(crate) const TCP: u16 = 2;
pub(crate) const REDIRECT: u16 = 3;

/// Port of the servers.
const SERVER: u16 = 8443;
const START: Duration = Duration::from_secs(10);

/// One of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Vipd,
    Haproxy,
    Nginx,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Vipd, Self::Haproxy, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vipd => "vipd",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Returns the port of one of its services.
    pub(crate) fn port(self, service: u16) -> u16 {
        let base = match self {
            Self::Vipd => 4430,
            Self::Haproxy => 4440,
            Self::Nginx => 4450,
        };
        base + service
    }
}

/// The proxies' processes.
pub(crate) struct Peers {
    vipd: u32,
    haproxy: Process,
    nginx: Process,
}

impl Peers {
    /// Starts the other two.
    pub(crate) fn start(
        lab: &Lab,
        site: &WebSite,
        servers: &Servers,
        workers: u16,
        vipd: u32,
    ) -> Self {
        let directory = lab.directory().join("peers");
        fs::create_dir(&directory).expect("the site's directory takes another");
        let files = Files::new(site, servers, workers, &directory);
        let haproxy = directory.join("haproxy.cfg");
        fs::write(&haproxy, files.haproxy(lab)).expect("a configuration");
        let nginx = directory.join("nginx.conf");
        fs::write(&nginx, files.nginx(lab)).expect("a configuration");
        let host = lab.balancer();
        let mut command = host.command("haproxy");
        command.arg("-db").arg("-f").arg(&haproxy);
        let haproxy = Process::start("haproxy", command, &directory.join("haproxy.log"));
        let mut command = host.command("nginx");
        command
            .arg("-c")
            .arg(&nginx)
            .arg("-p")
            .arg(&directory)
            .args(["-e", "stderr"]);
        let nginx = Process::start("nginx", command, &directory.join("nginx.log"));
        for peer in Peer::ALL {
            for service in [HTTPS, RSA, TCP, REDIRECT] {
                let address = vip(peer.port(service));
                let open = holds_within(START, || is_open(lab.client(1), address));
                let (haproxy, nginx) = (haproxy.log(), nginx.log());
                assert!(open, "{address} does not open: {haproxy}\n{nginx}");
            }
        }
        Self {
            vipd,
            haproxy,
            nginx,
        }
    }

    /// Returns the processes of a proxy.
    pub(crate) fn processes(&self, peer: Peer) -> Vec<u32> {
        match peer {
            Peer::Vipd => vec![self.vipd],
            Peer::Haproxy => vec![self.haproxy.id()],
            Peer::Nginx => {
                let id = self.nginx.id();
                let children = format!("/proc/{id}/task/{id}/children");
                let children = fs::read_to_string(children).unwrap_or_default();
                let children = children.split_whitespace();
                children
                    .filter_map(|child| child.parse().ok())
                    .chain([id])
                    .collect()
            }
        }
    }
}

impl Drop for Peers {
    /// nginx's workers would outlive their master if that were killed.
    fn drop(&mut self) {
        self.nginx.signal(libc::SIGTERM);
        self.nginx.wait(START);
    }
}

fn is_open(host: &Host, address: SocketAddr) -> bool {
    host.net()
        .enter(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

/// What stands behind the proxies: an nginx on each gateway.
pub(crate) struct Servers {
    _processes: Vec<Process>,
    /// A certificate with an RSA key for clients.
    rsa: Certificate,
}

impl Servers {
    pub(crate) fn start(lab: &Lab, site: &WebSite) -> Self {
        let certificate = site.authority.certificate(&[INSIDE, PORTAL]);
        let processes = lab.gateways().iter().map(|host| {
            let directory = lab.directory().join(format!("server-{}", host.name()));
            fs::create_dir(&directory).expect("the site's directory takes another");
            for (name, length) in [("1k", 1 << 10), ("100k", 100 << 10), ("10m", 10 << 20), ("healthcheck", 2)] {
                fs::write(directory.join(name), vec![b'x'; length]).expect("a page");
            }
            let configuration = directory.join("nginx.conf");
            let text = format!(
                "daemon off; master_process off; error_log stderr; pid {0}/pid; events {{ worker_connections 8192; }}\n\
                 http {{ access_log off; sendfile on; keepalive_requests 10000000; keepalive_timeout 600;\n\
                 client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d; scgi_temp_path {0}/e;\n\
                 server {{ listen {SERVER} ssl; ssl_certificate {1}; ssl_certificate_key {2}; ssl_session_cache shared:s:10m; root {0}; }} }}\n",
                directory.display(),
                certificate.certificate.display(),
                certificate.key.display()
            );
            fs::write(&configuration, text).expect("a configuration");
            let mut command = host.command("nginx");
            command.arg("-c").arg(&configuration).arg("-p").arg(&directory).args(["-e", "stderr"]);
            let process = Process::start("nginx", command, &directory.join("log"));
            let address = SocketAddr::new(host.v4().into(), SERVER);
            eventually(START, "a server is open", || is_open(lab.client(1), address));
            process
        });
        Self {
            _processes: processes.collect(),
            rsa: rsa(lab),
        }
    }
}

fn rsa(lab: &Lab) -> Certificate {
    let made = Certificate {
        certificate: lab.directory().join("rsa.pem"),
        key: lab.directory().join("rsa.key"),
    };
    let mut command = Command::new("openssl");
    command
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        ])
        .args([
            "-subj",
            &format!("/CN={PORTAL}"),
            "-addext",
            &format!("subjectAltName=DNS:{PORTAL}"),
        ])
        .arg("-keyout")
        .arg(&made.key)
        .arg("-out")
        .arg(&made.certificate);
    Outcome::of(command).ok();
    made
}

/// Returns vipd's configuration for the same work.
pub(crate) fn vipd(lab: &Lab, site: &WebSite, servers: &Servers, workers: u16) -> Configuration {
    let health = HEALTH.replace("300ms", "5s").replace(
        "type = \"https\"",
        &format!("type = \"https\", port = {SERVER}"),
    );
    let rsa = &servers.rsa;
    let keys = format!(
        "{{ certificates = [{{ certificate = \"{}\", key = \"{}\" }}] }}",
        rsa.certificate.display(),
        rsa.key.display()
    );
    let backend = format!("backend_port = {SERVER}\n");
    let port = |service| vip(Peer::Vipd.port(service));
    let access = lab.directory().join("access.log");
    Configuration::new()
        .node(&format!("workers = {workers}"))
        .log("level = \"info\"")
        .log(&format!("access = \"{}\"", access.display()))
        .pool("web", &site.backends(lab), &health)
        .text(&site.service("https", port(HTTPS), "web", &backend))
        .text(&site.service("rsa", port(RSA), "web", &format!("{backend}tls = {keys}\n")))
        .text(&format!(
            "[[service]]\nname = \"tcp\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\nforwarding = \"tcp\"\npool = \"web\"\n{backend}\n\
             [[service]]\nname = \"redirect\"\nvip = \"{}\"\nport = {}\nprotocol = \"tcp\"\nforwarding = \"redirect\"\n",
            vip(0).ip(), port(TCP).port(), vip(0).ip(), port(REDIRECT).port(),
        ))
}

/// What the other two read.
struct Files<'a> {
    site: &'a WebSite,
    servers: &'a Servers,
    workers: u16,
    directory: PathBuf,
}

impl<'a> Files<'a> {
    fn new(
        site: &'a WebSite,
        servers: &'a Servers,
        workers: u16,
        directory: &std::path::Path,
    ) -> Self {
        Self {
            site,
            servers,
            workers,
            directory: directory.to_owned(),
        }
    }

    /// HAProxy wants certificate and key in one file.
    fn bundle(&self, name: &str, certificate: &Certificate) -> PathBuf {
        let path = self.directory.join(name);
        let mut text = fs::read_to_string(&certificate.certificate).expect("a certificate");
        text += &fs::read_to_string(&certificate.key).expect("a key");
        fs::write(&path, text).expect("a bundle");
        path
    }

    fn haproxy(&self, lab: &Lab) -> String {
        let ecdsa = self.bundle("ecdsa.pem", &self.site.certificate);
        let rsa = self.bundle("rsa.pem", &self.servers.rsa);
        let ca = self.site.authority.file();
        let servers = |tls: &str| -> String {
            lab.gateways()
                .iter()
                .map(|host| format!("  server {} {}:{SERVER} {tls}\n", host.name(), host.v4()))
                .collect()
        };
        let port = |service| Peer::Haproxy.port(service);
        let address = vip(0).ip();
        let tls = format!(
            "ssl verify required ca-file {} sni str({INSIDE}) verifyhost {INSIDE}",
            ca.display()
        );
        format!(
            "global\n  nbthread {}\n  maxconn 5000\n  tune.ssl.default-dh-param 2048\n  log stdout format raw local0\n\
             defaults\n  log global\n  option httplog\n  timeout connect 5s\n  timeout client 75s\n  timeout server 60s\n  option splice-auto\n\
             frontend https\n  mode http\n  bind {address}:{} ssl crt {} alpn h2,http/1.1\n  option forwardfor\n  default_backend web\n\
             frontend rsa\n  mode http\n  bind {address}:{} ssl crt {} alpn h2,http/1.1\n  option forwardfor\n  default_backend web\n\
             backend web\n  mode http\n  balance source\n  hash-type consistent\n  http-reuse always\n{}\
             listen tcp\n  mode tcp\n  option tcplog\n  bind {address}:{}\n  balance source\n  hash-type consistent\n{}\
             frontend redirect\n  mode http\n  bind {address}:{}\n  http-request redirect scheme https code 301\n",
            self.workers,
            port(HTTPS),
            ecdsa.display(),
            port(RSA),
            rsa.display(),
            servers(&tls),
            port(TCP),
            servers(""),
            port(REDIRECT),
        )
    }

    fn nginx(&self, lab: &Lab) -> String {
        let directory = self.directory.display();
        let servers: String = lab
            .gateways()
            .iter()
            .map(|host| format!("server {}:{SERVER}; ", host.v4()))
            .collect();
        let port = |service| Peer::Nginx.port(service);
        let address = vip(0).ip();
        let ca = self.site.authority.file();
        let server = |port: u16, certificate: &Certificate| {
            format!(
                "server {{ listen {address}:{port} ssl http2 reuseport; ssl_certificate {}; ssl_certificate_key {}; \
                 ssl_session_cache shared:c:10m; keepalive_requests 10000000; \
                 location / {{ proxy_pass https://web; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                 proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; proxy_buffers 16 16k; \
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate {}; proxy_ssl_name {INSIDE}; \
                 proxy_ssl_server_name on; proxy_ssl_session_reuse on; proxy_max_temp_file_size 0; }} }}\n",
                certificate.certificate.display(),
                certificate.key.display(),
                ca.display()
            )
        };
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             daemon off; worker_processes {}; error_log stderr; pid {directory}/pid; events {{ worker_connections 8192; }}\n\
             http {{ access_log {directory}/access.log combined buffer=64k flush=1s; client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; \
             fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;\n\
             upstream web {{ hash $remote_addr consistent; {servers} keepalive 256; keepalive_requests 10000000; }}\n{}{}\
             server {{ listen {address}:{} reuseport; keepalive_requests 10000000; return 301 https://$host$request_uri; }} }}\n\
             stream {{ log_format basic '$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received $session_time $upstream_addr'; \
             access_log {directory}/stream.log basic buffer=64k flush=1s; upstream tcp {{ hash $remote_addr consistent; {servers} }} server {{ listen {address}:{} reuseport; proxy_pass tcp; }} }}\n",
            self.workers,
            server(port(HTTPS), &self.site.certificate),
            server(port(RSA), &self.servers.rsa),
            port(REDIRECT),
            port(TCP),
        )
    }
}
