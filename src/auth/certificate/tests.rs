//! Certificates that name somebody, nobody, or several.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

use super::*;

const FILE: &str = r#"
    [[identity]]
    uri = "spiffe://chat.example/dashboard"
    roles = ["reader"]
    tenants = ["a"]

    [[identity]]
    dns = "Ops.chat.example"
    roles = ["admin"]
    tenants = ["*"]

    [[identity]]
    dns = "twin.chat.example"
    roles = []
    tenants = []
"#;

fn params(uris: &[&str], dns: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let name = |text: &&str| (*text).try_into().unwrap();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI(name(uri))).collect();
    let dns = dns.iter().map(|dns| SanType::DnsName(name(dns)));
    params.subject_alt_names.extend(dns);
    params
}

fn found(params: &CertificateParams, now: SystemTime) -> Result<String, Refusal> {
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let certificates = Certificates::parse(FILE).unwrap();
    let identity = certificates.find(certificate.der(), now)?;
    Ok(identity.name().to_owned())
}

#[test]
fn a_name_for_machines_is_an_identity() {
    const DASHBOARD: &str = "spiffe://chat.example/dashboard";
    let found = |uris: &[&str], dns: &[&str]| found(&params(uris, dns), SystemTime::now());
    let dashboard = Ok(format!("mtls:{DASHBOARD}"));
    assert_eq!(found(&[DASHBOARD], &[]), dashboard);
    // The URI decides, whatever else is there.
    assert_eq!(found(&[DASHBOARD], &["ops.chat.example"]), dashboard);
    let ops = Ok("mtls:ops.chat.example".to_owned());
    assert_eq!(found(&[], &["other.example", "OPS.chat.example"]), ops);
    let unknown = Err(Refusal::UnknownCertificate);
    let other = "spiffe://chat.example/other";
    assert_eq!(found(&[other], &["ops.chat.example"]), unknown);
    assert_eq!(found(&["spiffe://chat.example/Dashboard"], &[]), unknown);
    // A name of one kind is none of the other.
    assert_eq!(found(&["ops.chat.example"], &[]), unknown);
    assert_eq!(found(&[], &["*.chat.example"]), unknown);
    for (uris, dns) in [
        (&[DASHBOARD, DASHBOARD][..], &[][..]),
        (&[DASHBOARD, other], &[]),
        (&[], &["ops.chat.example", "twin.chat.example"]),
    ] {
        let refused = found(uris, dns);
        let several = matches!(refused, Err(Refusal::NotAnIdentity(_)));
        assert!(several, "{uris:?} {dns:?}: {refused:?}");
    }
}

#[test]
fn neither_a_common_name_nor_an_authority_is_an_identity() {
    let mut named = params(&[], &[]);
    let name = "ops.chat.example";
    named.distinguished_name.push(DnType::CommonName, name);
    let refused = found(&named, SystemTime::now());
    assert!(matches!(refused, Err(Refusal::NotAnIdentity(_))));
    let mut authority = params(&[], &[name]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let refused = found(&authority, SystemTime::now());
    assert_eq!(refused, Err(Refusal::NotAnIdentity("it is an authority's")));
    let certificates = Certificates::parse(FILE).unwrap();
    for junk in [&b""[..], b"\x30\x03\x02\x01\x01", &[0xff; 100]] {
        let refused = certificates.find(junk, SystemTime::now());
        assert!(matches!(refused, Err(Refusal::NotAnIdentity(_))));
    }
}

#[test]
fn a_certificate_is_judged_at_each_call() {
    let mut short = params(&[], &["ops.chat.example"]);
    let day = |day| rcgen::date_time_ymd(2026, 1, day);
    (short.not_before, short.not_after) = (day(10), day(20));
    let on = |at: time::OffsetDateTime| found(&short, at.into());
    assert!(on(day(10)).is_ok() && on(day(20)).is_ok());
    assert_eq!(on(day(9)), Err(Refusal::CertificateExpired));
    let after = day(20) + Duration::from_secs(1);
    assert_eq!(on(after), Err(Refusal::CertificateExpired));
}

#[test]
fn a_file_that_cannot_be_meant_is_refused() {
    let rest = "roles = []\ntenants = []\n";
    let rows = [
        (format!("[[identity]]\n{rest}"), "uri or dns"),
        (
            format!("[[identity]]\nuri = \"u\"\ndns = \"d\"\n{rest}"),
            "not both",
        ),
        (
            format!("[[identity]]\ndns = \"d\"\n{rest}[[identity]]\ndns = \"D\"\n{rest}"),
            "identity 2",
        ),
        (format!("[[identity]]\ncn = \"d\"\n{rest}"), "cn"),
        ("[[identity]]\ndns = \"d\"\nroles = []".into(), "tenants"),
    ];
    for (text, said) in rows {
        let error = Certificates::parse(&text).unwrap_err();
        assert!(error.contains(said), "{said}: {error}");
    }
}
