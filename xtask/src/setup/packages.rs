//! Programs and libraries that come from the distribution.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{debian, done, ok};
use crate::process;

/// A program and the Debian package that has it.
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// What a build needs, and what looks inside the result.
pub(super) const BUILD: &[Program] = &[program("cc", "gcc"), program("bpftool", "bpftool")];

/// What builds libFuzzer.
pub(super) const FUZZ: &[Program] = &[program("c++", "g++")];

/// What the demonstration and the tests start.
pub(super) const LAB: &[Program] = &[
    program("curl", "curl"),
    program("ethtool", "ethtool"),
    program("gnutls-cli", "gnutls-bin"),
    program("gnutls-serv", "gnutls-bin"),
    program("ip", "iproute2"),
    program("nft", "nftables"),
    program("nginx", "nginx-light"),
    program("nsenter", "util-linux"),
    program("openssl", "openssl"),
    program("sysctl", "procps"),
    program("tcpdump", "tcpdump"),
];

/// What the tests alone start: a browser, a site with Kerberos, many streams of HTTP/2.
pub(super) const TESTS: &[Program] = &[
    program("apache2", "apache2-bin"),
    program(GSSAPI_MODULE, "libapache2-mod-auth-gssapi"),
    program("certutil", "libnss3-tools"),
    program("chromium", "chromium"),
    program("h2load", "nghttp2-client"),
    program("kadmin.local", "krb5-admin-server"),
    program("kinit", "krb5-user"),
    program("krb5kdc", "krb5-kdc"),
];

/// Proxies that vipd is measured beside.
pub(super) const PEERS: &[Program] = &[
    program("h2load", "nghttp2-client"),
    program("haproxy", "haproxy"),
    program(STREAM_MODULE, "libnginx-mod-stream"),
];

/// nginx's module for TCP: no program, but a file that shows whether the package is there.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Apache's module for Kerberos: no program, but a file that shows whether the package is there.
const GSSAPI_MODULE: &str = "/usr/lib/apache2/modules/mod_auth_gssapi.so";

/// The LLVM of the BPF linker. The compiler's LLVM may be older, never newer.
pub(super) const LLVM_MAJOR: u32 = 22;

/// The library that bpf-linker is linked with.
const LLVM_LIBRARY: &str = "libLLVM.so.22.1";

/// Its Debian package. Nothing of LLVM but this library is needed.
const LLVM_PACKAGE: &str = "libllvm22";

/// Makes sure that all of `programs` can be found.
pub(super) fn install(programs: &[Program]) -> Result<()> {
    let names = |programs: &[&Program]| {
        let names: Vec<_> = programs.iter().map(|program| program.name).collect();
        names.join(", ")
    };
    let missing = || -> Vec<&Program> {
        programs
            .iter()
            .filter(|program| process::find(program.name).is_none())
            .collect()
    };

    let before = missing();
    if before.is_empty() {
        ok(&names(&programs.iter().collect::<Vec<_>>()));
        return Ok(());
    }
    let mut packages: Vec<_> = before.iter().map(|program| program.package).collect();
    packages.dedup();
    debian::install(&packages)?;
    let after = missing();
    if !after.is_empty() {
        bail!(
            "still missing after the packages {} were installed: {}",
            packages.join(", "),
            names(&after)
        );
    }
    done(&format!("installed {}", packages.join(", ")));
    Ok(())
}

/// Makes sure that the shared LLVM library is there, and tells where.
pub(super) fn llvm() -> Result<PathBuf> {
    if let Some(library) = find_llvm() {
        ok(&format!("LLVM {LLVM_MAJOR} ({})", library.display()));
        return Ok(library);
    }
    debian::install(&[LLVM_PACKAGE])?;
    let library = find_llvm()
        .with_context(|| format!("{LLVM_PACKAGE} is installed but has no {LLVM_LIBRARY}"))?;
    done(&format!("installed {LLVM_PACKAGE}"));
    Ok(library)
}

/// Asks the dynamic linker's cache, then looks where distributions put LLVM.
fn find_llvm() -> Option<PathBuf> {
    let ldconfig = process::find("ldconfig").unwrap_or_else(|| "ldconfig".into());
    // Without the cache the usual places remain.
    let cache = process::output(Command::new(ldconfig).arg("-p")).unwrap_or_default();
    let usual = [
        format!("/usr/lib/{ARCH}-linux-gnu"),
        "/usr/lib/llvm-22/lib".to_owned(),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
    ];
    in_cache(&cache)
        .into_iter()
        .chain(
            usual
                .iter()
                .map(|folder| Path::new(folder).join(LLVM_LIBRARY)),
        )
        .find(|library| library.exists())
}

/// The library's path in the output of `ldconfig -p`: `name (kind) => path`.
fn in_cache(cache: &str) -> Option<PathBuf> {
    cache
        .lines()
        .filter(|line| line.trim_start().starts_with(LLVM_LIBRARY))
        .find_map(|line| line.split_once("=> "))
        .map(|(_, path)| PathBuf::from(path.trim()))
}

#[cfg(test)]
mod tests {
    use super::in_cache;
    use std::path::PathBuf;

    #[test]
    fn the_library_is_read_from_the_linker_cache() {
        let cache = "3 libs found in cache\n\
            \tlibLLVM.so.19.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libLLVM.so.19.1\n\
            \tlibLLVM.so.22.1 (libc6,x86-64) => /opt/llvm/libLLVM.so.22.1\n";
        assert_eq!(
            in_cache(cache),
            Some(PathBuf::from("/opt/llvm/libLLVM.so.22.1"))
        );
        assert_eq!(in_cache("0 libs found in cache\n"), None);
    }
}
