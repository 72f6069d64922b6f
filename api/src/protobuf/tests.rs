use super::*;
use crate::decode;
use pintle_base::Prng;
use serde_json::json;

/// Encodes a field with a length.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut n = content.len();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out.extend(content);
    out
}

fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, message), bytes(3, b""), bytes(4, b"")].concat()
}

fn config_map() -> Vec<u8> {
    let metadata = [bytes(1, b"a"), bytes(2, b""), bytes(8, b"")].concat();
    let entry = [bytes(1, b"k"), bytes(2, b"v")].concat();
    let binary = [bytes(1, b"b"), bytes(2, &[0, 1])].concat();
    envelope(
        "v1",
        "ConfigMap",
        &[bytes(1, &metadata), bytes(2, &entry), bytes(3, &binary)].concat(),
    )
}

#[test]
fn a_config_map() {
    let v = decode(&config_map()).unwrap();
    let d = decode::value(v, &Gvk::new("", "v1", "ConfigMap")).unwrap();
    assert_eq!(
        d.object,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
               "data": {"k": "v"}, "binaryData": {"b": "AAE="}})
    );
    assert!(d.strict.is_empty());
}

#[test]
fn embedded_messages_and_special_values() {
    // Probe: handler 1 { httpGet 2 { path 1, port 2 { type 1, strVal 3 } } }, periodSeconds 4.
    let port = [vec![1 << 3, 1], bytes(3, b"web")].concat();
    let http = [bytes(1, b"/"), bytes(2, &port)].concat();
    let probe = [bytes(1, &bytes(2, &http)), vec![4 << 3, 5]].concat();
    let quantity = bytes(1, b"0.5");
    let limits = bytes(1, &[bytes(1, b"cpu"), bytes(2, &quantity)].concat());
    let container = [bytes(1, b"c"), bytes(8, &limits), bytes(10, &probe)].concat();
    let seconds = vec![1 << 3, 0x80, 0x80, 0x80, 0x80, 0x04]; // 2^30
    let metadata = bytes(8, &seconds);
    let body =
        envelope("v1", "Pod", &[bytes(1, &metadata), bytes(2, &bytes(2, &container))].concat());
    let v = decode(&body).unwrap();
    assert_eq!(v["metadata"]["creationTimestamp"], "2004-01-10T13:37:04Z");
    let c = &v["spec"]["containers"][0];
    assert_eq!(
        c["livenessProbe"],
        json!({"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5})
    );
    assert_eq!(c["resources"]["limits"]["cpu"], "0.5");
}

#[test]
fn options_of_any_group_and_refusals() {
    let options = decode(&envelope("apps/v1", "DeleteOptions", &[1 << 3, 30])).unwrap();
    assert_eq!(options["gracePeriodSeconds"], 30);
    assert!(decode(b"k8s").is_err());
    assert!(
        decode(&envelope("v9", "Nope", b"")).unwrap_err().message.starts_with("no kind \"Nope\"")
    );
    assert!(decode(&envelope("v1", "Pod", &[0xff])).is_err());
}

#[test]
fn deep_messages_are_refused() {
    // JSONSchemaProps.not (27) in itself, many times.
    let mut schema = Vec::new();
    for _ in 0..5000 {
        let mut outer = vec![0xda, 0x01];
        let mut n = schema.len();
        while n >= 0x80 {
            outer.push(n as u8 | 0x80);
            n >>= 7;
        }
        outer.push(n as u8);
        outer.extend(&schema);
        schema = outer;
    }
    let version = bytes(4, &bytes(1, &schema));
    let body = envelope(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        &bytes(2, &bytes(7, &version)),
    );
    assert!(decode(&body).unwrap_err().message.contains("too deeply"));
}

#[test]
fn damaged_bodies_panic_nowhere() {
    let good = config_map();
    let mut p = Prng::new(8);
    for _ in 0..50_000 {
        let mut bad = good.clone();
        for _ in 0..1 + p.below(4) {
            let i = p.below(bad.len() as u64) as usize;
            bad[i] = p.next_u64() as u8;
        }
        bad.truncate(p.below(bad.len() as u64 + 1) as usize);
        let _ = decode(&bad);
    }
}
