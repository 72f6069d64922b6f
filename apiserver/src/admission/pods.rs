//! What admission gives to every pod: its service account and token volume, its priority, tolerations for a
//! node that goes away.

use pintle_api::object;
use pintle_api::status::Status;
use serde_json::{Value, json};

use crate::server::Server;
use crate::status::Result;

const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATION_S: i64 = 300;

impl Server {
    pub(super) fn admit_pod(&mut self, pod: &mut Value) -> Result<()> {
        self.service_account(pod)?;
        self.priority(pod)?;
        self.runtime_class(pod)?;
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            tolerate(pod, key);
        }
        Ok(())
    }

    fn service_account(&mut self, pod: &mut Value) -> Result<()> {
        let name = object::name(pod).to_owned();
        if object::annotation(pod, MIRROR).is_some() {
            let account = object::str_at(pod, &["spec", "serviceAccountName"]);
            if !account.is_empty() {
                let why = "a mirror pod may not reference service accounts";
                return Err(Status::forbidden("", "pods", &name, why));
            }
            return Ok(());
        }
        let mut account = object::str_at(pod, &["spec", "serviceAccountName"]).to_owned();
        if account.is_empty() {
            account = match object::str_at(pod, &["spec", "serviceAccount"]) {
                "" => "default".into(),
                old => old.to_owned(),
            };
        }
        object::set(pod, &["spec", "serviceAccountName"], account.clone());
        object::set(pod, &["spec", "serviceAccount"], account.clone());
        let namespace = object::namespace(pod).to_owned();
        let Some(sa) = self.lookup("", "serviceaccounts", &namespace, &account) else {
            let why = format!(
                "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
            );
            return Err(Status::forbidden("", "pods", &name, &why));
        };
        let sa = sa.parse();
        let pull = object::list_at(&sa, &["imagePullSecrets"]);
        if !pull.is_empty() && object::list_at(pod, &["spec", "imagePullSecrets"]).is_empty() {
            object::set(pod, &["spec", "imagePullSecrets"], pull.to_vec());
        }
        let wanted = object::at(pod, &["spec", "automountServiceAccountToken"])
            .or_else(|| object::at(&sa, &["automountServiceAccountToken"]))
            .and_then(Value::as_bool)
            .unwrap_or(true);
        if wanted {
            self.mount_token(pod);
        }
        Ok(())
    }

    /// Mounts the projected token volume into every container that has nothing at that path.
    fn mount_token(&mut self, pod: &mut Value) {
        let existing = object::list_at(pod, &["spec", "volumes"])
            .iter()
            .map(|v| object::str_at(v, &["name"]))
            .find(|n| n.starts_with("kube-api-access-"))
            .map(str::to_owned);
        let volume = existing
            .clone()
            .unwrap_or_else(|| format!("kube-api-access-{}", self.prng.name_suffix(5)));
        let mut mounted = false;
        for list in ["initContainers", "containers"] {
            let Some(containers) =
                pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut)
            else {
                continue;
            };
            for c in containers {
                let mounts = object::list_at(c, &["volumeMounts"]);
                if mounts.iter().any(|m| object::str_at(m, &["mountPath"]) == TOKEN_DIR) {
                    continue;
                }
                let mut all = mounts.to_vec();
                all.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_DIR}));
                object::set(c, &["volumeMounts"], all);
                mounted = true;
            }
        }
        if mounted && existing.is_none() {
            let mut all = object::list_at(pod, &["spec", "volumes"]).to_vec();
            all.push(token_volume(&volume));
            object::set(pod, &["spec", "volumes"], all);
        }
    }

    fn priority(&self, pod: &mut Value) -> Result<()> {
        let name = object::name(pod).to_owned();
        let class = object::str_at(pod, &["spec", "priorityClassName"]).to_owned();
        let (class, value, policy) = if class.is_empty() {
            match self.default_priority() {
                Some(c) => (object::name(&c).to_owned(), priority_of(&c), policy_of(&c)),
                None => (String::new(), 0, "PreemptLowerPriority".into()),
            }
        } else {
            let Some(c) = self.lookup("scheduling.k8s.io", "priorityclasses", "", &class) else {
                let why = format!("no PriorityClass with name {class} was found");
                return Err(Status::forbidden("", "pods", &name, &why));
            };
            let c = c.parse();
            (class, priority_of(&c), policy_of(&c))
        };
        let given = object::int_at(pod, &["spec", "priority"]);
        if let Some(given) = given.filter(|g| *g != value) {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            );
            return Err(Status::forbidden("", "pods", &name, &why));
        }
        if !class.is_empty() {
            object::set(pod, &["spec", "priorityClassName"], class);
        }
        object::set(pod, &["spec", "priority"], value);
        if object::at(pod, &["spec", "preemptionPolicy"]).is_none() {
            object::set(pod, &["spec", "preemptionPolicy"], policy);
        }
        Ok(())
    }

    /// The overhead and the nodes of the pod's runtime class.
    fn runtime_class(&self, pod: &mut Value) -> Result<()> {
        let name = object::name(pod).to_owned();
        let refuse =
            |why: &str| Err(Status::forbidden("", "pods", &name, &format!("pod rejected: {why}")));
        let class = object::str_at(pod, &["spec", "runtimeClassName"]).to_owned();
        let overhead =
            object::map_at(pod, &["spec", "overhead"]).filter(|o| !o.is_empty()).cloned();
        let class = if class.is_empty() {
            None
        } else {
            let Some(o) = self.lookup("node.k8s.io", "runtimeclasses", "", &class) else {
                return refuse(&format!("RuntimeClass \"{class}\" not found"));
            };
            Some(o.parse())
        };
        let fixed = class.as_ref().and_then(|c| object::map_at(c, &["overhead", "podFixed"]));
        match (fixed, overhead) {
            (None, Some(_)) => {
                return refuse(
                    "Pod Overhead set without corresponding RuntimeClass defined Overhead",
                );
            }
            (Some(fixed), Some(own)) if *fixed != own => {
                return refuse("Pod's Overhead doesn't match RuntimeClass's defined Overhead");
            }
            (Some(fixed), _) => {
                object::set(pod, &["spec", "overhead"], Value::Object(fixed.clone()))
            }
            (None, None) => {}
        }
        let Some(class) = class else { return Ok(()) };
        for (k, v) in object::map_at(&class, &["scheduling", "nodeSelector"]).into_iter().flatten()
        {
            object::set(pod, &["spec", "nodeSelector", k], v.clone());
        }
        let more = object::list_at(&class, &["scheduling", "tolerations"]);
        if !more.is_empty() {
            let mut all = object::list_at(pod, &["spec", "tolerations"]).to_vec();
            all.extend(more.iter().filter(|t| !all.contains(t)).cloned().collect::<Vec<_>>());
            object::set(pod, &["spec", "tolerations"], all);
        }
        Ok(())
    }

    /// The priority class for pods that name none: the lowest of those marked so.
    fn default_priority(&self) -> Option<Value> {
        let id = self.registry.resource_of("scheduling.k8s.io", "priorityclasses")?;
        self.cache
            .table(id)
            .iter("")
            .map(|o| o.parse())
            .filter(|c| object::bool_at(c, &["globalDefault"]))
            .min_by_key(priority_of)
    }
}

fn priority_of(class: &Value) -> i64 {
    object::int_at(class, &["value"]).unwrap_or(0)
}

fn policy_of(class: &Value) -> String {
    match object::str_at(class, &["preemptionPolicy"]) {
        "" => "PreemptLowerPriority".into(),
        p => p.into(),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn tolerate(pod: &mut Value, key: &str) {
    let list = object::list_at(pod, &["spec", "tolerations"]);
    let covered = list.iter().any(|t| {
        let k = object::str_at(t, &["key"]);
        let effect = object::str_at(t, &["effect"]);
        (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    });
    if covered {
        return;
    }
    let mut all = list.to_vec();
    all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_S}));
    object::set(pod, &["spec", "tolerations"], all);
}
