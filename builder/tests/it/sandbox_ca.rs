//! Extra certificate authorities: seen by the command by every usual way, and never in the layer.

#![expect(clippy::unwrap_used, reason = "a test may end where its set-up fails")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use builder::SandboxSpec;

use crate::sandbox::{Image, Outcome, run};

/// Stands for PEM blocks; nothing parses it.
const EXTRA: &str = "-----BEGIN CERTIFICATE-----\nRVhUUkE=\n-----END CERTIFICATE-----";
const OWN: &str = "-----BEGIN CERTIFICATE-----\nT1dO\n-----END CERTIFICATE-----\n";
const DEBIAN: &str = "etc/ssl/certs/ca-certificates.crt";

fn run_with_ca(image: &Image, script: &str) -> Outcome {
    image.renew();
    let outcome = run(&SandboxSpec { ca_certs: EXTRA.into(), ..image.script(script) });
    assert_clean(image, &outcome);
    outcome
}

/// Fails if anything that the step changed holds the extra authority.
fn assert_clean(image: &Image, outcome: &Outcome) {
    for name in image.changes() {
        let path = image.upper(&name);
        if path.symlink_metadata().unwrap().is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("RVhUUkE="), "{name} holds it: {outcome:?}");
        }
    }
}

#[test]
fn bundles_hold_both_and_the_layer_nothing() {
    #[rustfmt::skip]
    let places = [
        "etc/ssl/certs/ca-certificates.crt",
        "etc/pki/tls/certs/ca-bundle.crt",
        "etc/ssl/ca-bundle.pem",
        "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "etc/ssl/cert.pem",
    ];
    for place in places {
        let image = Image::busybox();
        image.add(place, OWN);
        let script = format!("cat /{place}; cat $SSL_CERT_FILE; cat $NODE_EXTRA_CA_CERTS");
        let both = format!("{EXTRA}\n{OWN}");
        assert_eq!(
            run_with_ca(&image, &script).stdout,
            format!("{both}{both}{EXTRA}\n"),
            "{place}"
        );
        assert_eq!(image.changes(), [""; 0], "{place}");
    }
}

#[test]
fn an_image_without_authorities_sees_the_extra_ones_and_this_machines() {
    let image = Image::busybox();
    let script = format!("cmp /{DEBIAN} $CURL_CA_BUNDLE; cat $CURL_CA_BUNDLE");
    let outcome = run_with_ca(&image, &script);
    let host = fs::read_to_string(format!("/{DEBIAN}")).unwrap_or_default();
    let want = format!("{EXTRA}\n{host}");
    assert_eq!(outcome.stdout.len(), want.len());
    assert_eq!(outcome.stdout, want);
    assert_eq!(image.changes(), [""; 0]);
}

#[test]
fn wget_and_apt_are_told_by_files() {
    let image = Image::busybox();
    let outcome =
        run_with_ca(&image, "cat $WGETRC $APT_CONFIG | grep -c /dev/rbuild/ca-certificates.crt");
    assert_eq!(outcome.text(), "2");
}

#[test]
fn linked_bundles_are_one() {
    let image = Image::busybox();
    image.add(DEBIAN, OWN);
    symlink("certs/ca-certificates.crt", image.lower("etc/ssl/cert.pem")).unwrap();
    let outcome = run_with_ca(&image, "cat /etc/ssl/cert.pem");
    assert_eq!(outcome.stdout, format!("{EXTRA}\n{OWN}"));
}

#[test]
fn variables_of_the_image_are_kept() {
    let image = Image::busybox();
    let mut spec = image.script("echo $SSL_CERT_FILE $PIP_CERT");
    spec.env.push(("SSL_CERT_FILE".to_owned(), "/own".to_owned()));
    spec.ca_certs = EXTRA.into();
    assert_eq!(run(&spec).text(), "/own /dev/rbuild/ca-certificates.crt");
}

/// What a step may do to a bundle: (name, script, what the layer then holds at its place).
#[test]
fn the_layer_gets_what_the_step_would_have_made_without_them() {
    #[rustfmt::skip]
    let cases = [
        // As update-ca-certificates and package managers do it: a new file, renamed over the old.
        ("upgrade",   "echo new > /etc/ssl/certs/x && mv -f /etc/ssl/certs/x /B", Some("new\n".to_owned())),
        ("rewrite",   "echo new > /B",                       Some("new\n".to_owned())),
        ("append",    "echo more >> /B",                     Some(format!("{OWN}more\n"))),
        ("mode",      "chmod 600 /B",                        Some(OWN.to_owned())),
        ("copy back", "cp /B /tmp.pem && cat /tmp.pem > /B && rm /tmp.pem", Some(OWN.to_owned())),
        ("twice",     "cat /B /B > /x && mv /x /B",          Some(format!("{OWN}{OWN}"))),
        ("move",      "mv /B /B.old && mv /B.old /B",        Some(OWN.to_owned())),
    ];
    for (name, script, want) in cases {
        let image = Image::busybox();
        image.add(DEBIAN, OWN);
        let outcome = run_with_ca(&image, &script.replace("/B", &format!("/{DEBIAN}")));
        assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        let layer = fs::read_to_string(image.upper(DEBIAN)).ok();
        assert_eq!(layer, want, "{name}");
    }
}

#[test]
fn a_mode_is_changed_without_the_content() {
    let image = Image::busybox();
    image.add(DEBIAN, OWN);
    run_with_ca(&image, &format!("chmod 640 /{DEBIAN}"));
    let layer = fs::metadata(image.upper(DEBIAN)).unwrap();
    assert_eq!(layer.mode() & 0o777, 0o640);
    let lower = fs::metadata(image.lower(DEBIAN)).unwrap();
    assert_eq!(layer.modified().unwrap(), lower.modified().unwrap());
}

/// What a step may do where the image has no bundle: (name, script, the whole layer).
#[test]
fn a_bundle_that_the_image_lacks_stays_unknown() {
    #[rustfmt::skip]
    let cases = [
        ("mode",       "chmod 600 /B",                       vec![]),
        ("owner",      "chown -R 0:0 /etc/ssl",              vec![]),
        ("removed",    "rm /B",                              vec![]),
        ("installed",  "echo new > /etc/ssl/certs/x && mv /etc/ssl/certs/x /B", vec!["etc", "etc/ssl", "etc/ssl/certs", DEBIAN]),
        ("neighbour",  "echo x > /etc/ssl/own; chmod 600 /B", vec!["etc", "etc/ssl", "etc/ssl/own"]),
    ];
    for (name, script, want) in cases {
        let image = Image::busybox();
        let outcome = run_with_ca(&image, &script.replace("/B", &format!("/{DEBIAN}")));
        assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        assert_eq!(image.changes(), want, "{name}");
    }
}

#[test]
fn a_step_cannot_lead_the_cleaning_astray() {
    let victim = tempfile::tempdir().unwrap();
    let file = victim.path().join("ca-certificates.crt");
    fs::write(&file, format!("{EXTRA}\n")).unwrap();
    let image = Image::busybox();
    image.add(DEBIAN, OWN);
    let script =
        format!("rm -r /etc/ssl/certs && ln -s {} /etc/ssl/certs", victim.path().display());
    assert_eq!(run_with_ca(&image, &script).code, Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{EXTRA}\n"));
}
