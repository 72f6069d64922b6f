//! The cluster's certificate authority, certificates, service-account keys and kubeconfigs.
//!
//! Made once and kept: CA, service-account key, client certificates. Made anew at each `up`: the API server's
//! certificate, since its names and addresses may have changed. All keys are ECDSA P-256; private keys are
//! readable by root alone.

use super::layout::Layout;
use base64::Engine;
use pintle_base::Wall;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const CA_YEARS: i32 = 10;
const LEAF_YEARS: i32 = 2;
const CA_NAME: &str = "pintle-ca";

/// Names and addresses that the API server's certificate covers.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    /// DNS names besides the fixed ones of the `kubernetes` service.
    pub dns: Vec<String>,
    /// Addresses besides loopback.
    pub ips: Vec<IpAddr>,
}

/// Makes what is missing. `nodes` each get a client certificate of their own.
pub fn ensure(
    layout: &Layout,
    names: &ServerNames,
    nodes: &[String],
    now: Wall,
) -> Result<(), String> {
    let dir = layout.pki();
    fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let ca = authority(&dir, now)?;
    if !dir.join("sa.key").exists() {
        let key = new_key()?;
        write(&dir.join("sa.pub"), &key.public_key_pem(), 0o644)?;
        write(&dir.join("sa.key"), &key.serialize_pem(), 0o600)?;
    }
    server_certificate(&dir, &ca, names, now)?;
    client_certificate(&dir, &ca, "admin", "kubernetes-admin", Some("system:masters"), now)?;
    for node in nodes {
        for (file, user, group) in [
            (format!("node-{node}"), format!("system:node:{node}"), Some("system:nodes")),
            (format!("proxy-{node}"), "system:kube-proxy".to_owned(), Some("system:node-proxier")),
            (format!("dns-{node}"), "system:coredns".to_owned(), None),
        ] {
            client_certificate(&dir, &ca, &file, &user, group, now)?;
        }
    }
    Ok(())
}

/// Writes the administrator's kubeconfig with everything inside.
pub fn write_kubeconfig(layout: &Layout, server: &str) -> Result<(), String> {
    let b64 = |name: &str| -> Result<String, String> {
        let path = layout.pki_file(name);
        let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
    };
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: pintle\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {crt}\n    \
         client-key-data: {key}\ncontexts:\n- name: pintle\n  context:\n    cluster: pintle\n    user: admin\n\
         current-context: pintle\n",
        ca = b64("ca.crt")?,
        crt = b64("admin.crt")?,
        key = b64("admin.key")?,
    );
    write(&layout.admin_kubeconfig(), &text, 0o600)
}

fn authority(dir: &Path, now: Wall) -> Result<Issuer<'static, KeyPair>, String> {
    let (crt, key_file) = (dir.join("ca.crt"), dir.join("ca.key"));
    let mut params = CertificateParams::default();
    params.distinguished_name = name(CA_NAME, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, now, CA_YEARS);
    let key = if key_file.exists() {
        let pem = fs::read_to_string(&key_file)
            .map_err(|e| format!("cannot read {}: {e}", key_file.display()))?;
        KeyPair::from_pem(&pem)
            .map_err(|e| format!("{} is not a private key: {e}", key_file.display()))?
    } else {
        new_key()?
    };
    if !crt.exists() || !key_file.exists() {
        let cert =
            params.self_signed(&key).map_err(|e| format!("cannot sign the CA certificate: {e}"))?;
        write(&key_file, &key.serialize_pem(), 0o600)?;
        write(&crt, &cert.pem(), 0o644)?;
    }
    Ok(Issuer::new(params, key))
}

fn server_certificate(
    dir: &Path,
    ca: &Issuer<'static, KeyPair>,
    names: &ServerNames,
    now: Wall,
) -> Result<(), String> {
    let mut dns: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    dns.extend(names.dns.iter().cloned());
    let mut params = CertificateParams::new(dns)
        .map_err(|e| format!("a host name does not fit a certificate: {e}"))?;
    let loopback = ["127.0.0.1", "::1"].iter().filter_map(|a| a.parse().ok());
    params
        .subject_alt_names
        .extend(loopback.chain(names.ips.iter().copied()).map(SanType::IpAddress));
    params.distinguished_name = name("kube-apiserver", None);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_validity(&mut params, now, LEAF_YEARS);
    sign(dir, ca, "apiserver", params)
}

fn client_certificate(
    dir: &Path,
    ca: &Issuer<'static, KeyPair>,
    file: &str,
    user: &str,
    group: Option<&str>,
    now: Wall,
) -> Result<(), String> {
    if dir.join(format!("{file}.crt")).exists() && dir.join(format!("{file}.key")).exists() {
        return Ok(());
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name(user, group);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    set_validity(&mut params, now, LEAF_YEARS);
    sign(dir, ca, file, params)
}

fn sign(
    dir: &Path,
    ca: &Issuer<'static, KeyPair>,
    file: &str,
    params: CertificateParams,
) -> Result<(), String> {
    let key = new_key()?;
    let cert = params
        .signed_by(&key, ca)
        .map_err(|e| format!("cannot sign the certificate {file}: {e}"))?;
    write(&dir.join(format!("{file}.key")), &key.serialize_pem(), 0o600)?;
    write(&dir.join(format!("{file}.crt")), &cert.pem(), 0o644)
}

fn new_key() -> Result<KeyPair, String> {
    KeyPair::generate().map_err(|e| format!("cannot make a key: {e}"))
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    if let Some(o) = organisation {
        dn.push(DnType::OrganizationName, o);
    }
    dn.push(DnType::CommonName, common);
    dn
}

// From the day before (clocks differ) for so many years.
fn set_validity(params: &mut CertificateParams, now: Wall, years: i32) {
    let yesterday = Wall::from_unix_s(now.unix_s() - 86_400).rfc3339();
    let part = |r: std::ops::Range<usize>| {
        yesterday.get(r).and_then(|s| s.parse::<i32>().ok()).unwrap_or(1)
    };
    let (year, month, day) = (part(0..4), part(5..7) as u8, part(8..10) as u8);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    // February 29 has no counterpart in most years.
    params.not_after = rcgen::date_time_ymd(year + years, month, day.min(28));
}

/// Writes a file as a whole: a crash leaves the old one or the new one.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let temporary = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut f =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        f.write_all(text.as_bytes())?;
        f.sync_data()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        format!("cannot write {}: {e}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn second_run_keeps_what_is_there() {
        let root = std::env::temp_dir().join(format!("pintle-pki-{}", std::process::id()));
        let layout = Layout::new(&root);
        let now = Wall::from_unix_s(1_795_424_482);
        let names = ServerNames {
            dns: vec!["edge-1".into()],
            ips: vec!["10.96.0.1".parse().expect("address")],
        };
        ensure(&layout, &names, &["edge-1".into()], now).expect("first");
        let read = |f: &str| fs::read(layout.pki_file(f)).expect("file");
        let kept =
            ["ca.crt", "ca.key", "sa.key", "admin.crt", "node-edge-1.crt"].map(|f| (f, read(f)));
        let server = read("apiserver.crt");
        ensure(&layout, &names, &["edge-1".into()], now).expect("second");
        for (file, before) in kept {
            assert_eq!(before, read(file), "{file} must survive");
        }
        assert_ne!(server, read("apiserver.crt"), "the server's certificate is made anew");
        let mode = fs::metadata(layout.pki_file("ca.key")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        write_kubeconfig(&layout, "https://127.0.0.1:6443").expect("kubeconfig");
        fs::remove_dir_all(&root).expect("clean up");
    }
}
