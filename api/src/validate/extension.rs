//! CustomResourceDefinitions and CertificateSigningRequests.

use super::kit::{Errors, equal, flag, int, list, one_of, or_null, required, s, set, texts};
use super::text;
use crate::path::Path;
use crate::status::FieldError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A CustomResourceDefinition, new or changed.
pub(super) fn crd(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let (group, names) = (s(v, "group"), or_null(v, "names"));
    let name = crate::object::name(o);
    if name != format!("{}.{group}", s(names, "plural")) {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        e.push(FieldError::invalid_str(root.field("metadata").field("name"), name, detail));
    }
    if required(e, &p, v, "group") {
        texts(e, &p.field("group"), group, text::dns1123_subdomain(group));
        if !group.contains('.') {
            let detail = "should be a domain with at least one dot";
            e.push(FieldError::invalid_str(p.field("group"), group, detail));
        }
    }
    if required(e, &p, v, "scope") {
        one_of(e, &p, v, "scope", &["Cluster", "Namespaced"]);
    }
    crd_names(names, &p.field("names"), e);
    versions(o, v, &p, e);
    let conversion = or_null(v, "conversion");
    let at = p.field("conversion");
    if set(v, "conversion").is_some() {
        one_of(e, &at, conversion, "strategy", &["None", "Webhook"]);
        if flag(v, "preserveUnknownFields") && s(conversion, "strategy") != "None" {
            let detail = "must be None if spec.preserveUnknownFields is true";
            let strategy = s(conversion, "strategy");
            e.push(FieldError::invalid_str(at.field("strategy"), strategy, detail));
        }
    }
    if flag(v, "preserveUnknownFields") {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        e.push(FieldError::invalid(p.field("preserveUnknownFields"), &true.into(), detail));
    }
}

fn crd_names(names: &Value, p: &Path<'_>, e: &mut Errors) {
    for key in ["plural", "singular"] {
        if required(e, p, names, key) {
            texts(e, &p.field(key), s(names, key), text::dns1035_label(s(names, key)));
        }
    }
    for key in ["kind", "listKind"] {
        if required(e, p, names, key) {
            let complaints = text::dns1035_label(&s(names, key).to_lowercase());
            let mixed =
                |c: &String| format!("may have mixed case, but should otherwise match: {c}");
            texts(e, &p.field(key), s(names, key), complaints.iter().map(mixed).collect());
        }
    }
    for key in ["shortNames", "categories"] {
        let at = p.field(key);
        for (i, n) in list(names, key).iter().filter_map(Value::as_str).enumerate() {
            texts(e, &at.index(i), n, text::dns1035_label(n));
        }
    }
}

fn versions(o: &Value, v: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("versions");
    let list_of = list(v, "versions");
    let mut storage = Vec::new();
    for (i, x) in list_of.iter().enumerate() {
        let p = all.index(i);
        let name = s(x, "name");
        texts(e, &p.field("name"), name, text::dns1035_label(name));
        if list_of[..i].iter().any(|y| s(y, "name") == name) {
            let detail = "must contain unique version names";
            e.push(FieldError::invalid_str(all, name, detail));
        }
        if flag(x, "storage") {
            storage.push(name);
        }
        if crate::object::at(x, &["schema", "openAPIV3Schema"]).is_none() {
            e.push(FieldError::required(p.field("schema").field("openAPIV3Schema"), ""));
        }
    }
    if let (true, Some(first)) = (list_of.len() == 1, list_of.first()) {
        // Kubernetes keeps a single version under its old name too, and says so.
        let name = s(first, "name");
        texts(e, &p.field("version"), name, text::dns1035_label(name));
    }
    if storage.len() != 1 {
        let shown = shown_versions(list_of);
        let detail = "must have exactly one version marked as storage version";
        e.push(FieldError::invalid_shown(all, &shown, detail));
    }
    let stored = list(or_null(o, "status"), "storedVersions");
    let at = "status.storedVersions";
    if stored.is_empty() {
        let detail = "must have at least one stored version";
        e.push(FieldError::invalid_shown(at, "null", detail));
    } else if let Some(last) = storage.last()
        && !stored.iter().any(|x| x.as_str() == Some(last))
    {
        let shown = Value::Array(stored.to_vec());
        e.push(FieldError::invalid(at, &shown, &format!("must have the storage version {last}")));
    }
    for (i, x) in stored.iter().filter_map(Value::as_str).enumerate() {
        if !list_of.iter().any(|y| s(y, "name") == x) {
            let detail = format!(
                "missing from spec.versions; {x} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {x} and \
                 removes {x} from status.storedVersions"
            );
            e.push(FieldError::invalid_str(format!("{at}[{i}]"), x, &detail));
        }
    }
}

/// Versions as Go prints them. A schema that all versions share stands outside of them.
fn shown_versions(versions: &[Value]) -> String {
    if versions.is_empty() {
        return "null".to_owned();
    }
    let one = |x: &Value| {
        let warning = or_null(x, "deprecationWarning");
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{warning},\
             \"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\
             \"SelectableFields\":null}}",
            or_null(x, "name"),
            flag(x, "served"),
            flag(x, "storage"),
            flag(x, "deprecated"),
        )
    };
    let all: Vec<String> = versions.iter().map(one).collect();
    format!("[{}]", all.join(","))
}

/// What of an established CRD stays.
pub(super) fn update_crd(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    if !crate::object::condition_true(old, "Established") {
        return;
    }
    super::kit::immutable(e, &p, n, o, "scope");
    super::kit::immutable(e, &p, n, o, "group");
    let at = p.field("names");
    let (n, o) = (or_null(n, "names"), or_null(o, "names"));
    for key in ["kind", "plural"] {
        super::kit::immutable(e, &at, n, o, key);
    }
}

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// A CertificateSigningRequest. That the request's signature holds is checked by who signs.
pub(super) fn signing_request(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    let request = STANDARD.decode(s(v, "request")).unwrap_or_default();
    let pem = String::from_utf8_lossy(&request);
    if !pem.contains("-----BEGIN CERTIFICATE REQUEST-----") {
        let shown = match s(v, "request") {
            "" => "null".to_owned(),
            text => Value::from(text).to_string(),
        };
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        e.push(FieldError::invalid_shown(p.field("request"), &shown, detail));
    }
    let usages = list(v, "usages");
    let at = p.field("usages");
    if usages.is_empty() {
        e.push(FieldError::required(at, ""));
    }
    for (i, u) in usages.iter().filter_map(Value::as_str).enumerate() {
        if !USAGES.contains(&u) {
            e.push(FieldError::not_supported(at.index(i), u, &USAGES));
        }
        if usages[..i].iter().any(|x| x.as_str() == Some(u)) {
            e.push(FieldError::duplicate(at.index(i), &u.into()));
        }
    }
    if required(e, &p, v, "signerName") {
        let name = s(v, "signerName");
        let good = name.split_once('/').is_some_and(|(domain, path)| {
            domain.contains('.') && text::dns1123_subdomain(domain).is_empty() && !path.is_empty()
        });
        if !good {
            let detail =
                "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            e.push(FieldError::invalid_str(p.field("signerName"), name, detail));
        }
    }
    if let Some(n) = int(v, "expirationSeconds")
        && n < 600
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        e.push(FieldError::invalid(p.field("expirationSeconds"), &n.into(), detail));
    }
}

/// A request's spec stays as it was made.
pub(super) fn update_signing_request(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    if !equal(n, o) {
        let at = root.field("spec");
        e.push(FieldError::invalid_shown(at, &n.to_string(), "field is immutable"));
    }
}
