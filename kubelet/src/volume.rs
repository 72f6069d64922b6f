//! What must be on disk for a pod's volumes, as data. `disk` makes it so.

use crate::env::{self, Facts};
use crate::refs::{self, RefKey, Refs};
use crate::resources;
use crate::spec::{Container, DownwardVolume, KeyToPath, Pod, Projection, Volume};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One volume of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSpec {
    /// Name in the pod.
    pub name: String,
    /// Folder (or, for hostPath, the path) that containers mount.
    pub path: PathBuf,
    /// What is there.
    pub content: Content,
    /// Nobody may write to it.
    pub read_only: bool,
    /// Group that owns it, when the pod has an fsGroup and the volume is the pod's own.
    pub fs_group: Option<u32>,
}

/// What a volume consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A folder on the node's disk that lives as long as the pod.
    EmptyDir,
    /// The same in memory, with a size in bytes.
    Memory(Option<u64>),
    /// A path of the host that must be of this type (`Directory`, `FileOrCreate`, ...; empty = anything).
    HostPath(String),
    /// Files that are replaced all at once when they change.
    Files(Vec<File>),
}

/// One projected file.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Path in the volume; validated to stay inside.
    pub path: PathBuf,
    /// Permissions.
    pub mode: u32,
    /// Owner, when not root: tokens belong to the user that the pod runs as.
    pub uid: Option<u32>,
    /// Content.
    pub bytes: Vec<u8>,
}

/// Where a node keeps things of pods.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `D/nodes/NAME/pods`: a folder a pod, on disk.
    pub pods: PathBuf,
    /// `D/nodes/NAME/secrets`: a folder a pod, in memory (one tmpfs a node).
    pub secrets: PathBuf,
    /// `D/nodes/NAME/seccomp`: localhost profiles.
    pub seccomp: PathBuf,
}

impl Layout {
    /// Folder of a pod on disk.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// Folder of a pod in memory.
    pub fn secret(&self, uid: &str) -> PathBuf {
        self.secrets.join(uid)
    }

    /// Log file of a run.
    pub fn log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("logs").join(container).join(format!("{attempt}.log"))
    }

    /// File that a run writes its termination message to.
    pub fn termination(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(format!("{attempt}.termination"))
    }
}

const DEFAULT_MODE: u32 = 0o644;

/// All volumes of a pod; the error is the message of a FailedMount event and names the volume.
pub fn build(
    pod: &Pod,
    layout: &Layout,
    facts: &Facts,
    refs: &Refs,
) -> Result<Vec<VolumeSpec>, String> {
    pod.spec.volumes.iter().map(|v| one(pod, v, layout, facts, refs)).collect()
}

fn one(
    pod: &Pod,
    v: &Volume,
    layout: &Layout,
    facts: &Facts,
    refs: &Refs,
) -> Result<VolumeSpec, String> {
    let uid = &pod.metadata.uid;
    let failed = |why: String| format!("MountVolume.SetUp failed for volume {:?} : {why}", v.name);
    if v.name.is_empty() || v.name.contains('/') || v.name.starts_with('.') {
        return Err(failed("its name is no file name".into()));
    }
    let on_disk = layout.pod(uid).join("volumes").join(&v.name);
    let in_memory = layout.secret(uid).join(&v.name);
    let mut fs_group = pod.spec.security_context.fs_group;
    let mut read_only = false;
    let (path, content) = if let Some(e) = &v.empty_dir {
        let size = e.size_limit.as_ref().and_then(resources::quantity_nano);
        let bytes = size.and_then(|n| u64::try_from(n / 1_000_000_000).ok()).filter(|n| *n > 0);
        if e.medium.starts_with("Memory") {
            (on_disk, Content::Memory(bytes))
        } else {
            (on_disk, Content::EmptyDir)
        }
    } else if let Some(h) = &v.host_path {
        fs_group = None;
        (PathBuf::from(&h.path), Content::HostPath(h.kind.clone()))
    } else if let Some(c) = &v.persistent_volume_claim {
        read_only = c.read_only;
        fs_group = None;
        claimed(pod, &c.claim_name, refs).map_err(failed)?
    } else {
        read_only = true;
        let files = files_of(pod, v, facts, refs).map_err(failed)?;
        (in_memory, Content::Files(files))
    };
    Ok(VolumeSpec { name: v.name.clone(), path, content, read_only, fs_group })
}

/// Path and kind of the volume that a claim is bound to: hostPath and local volumes.
fn claimed(pod: &Pod, claim: &str, refs: &Refs) -> Result<(PathBuf, Content), String> {
    let key = RefKey::Claim(pod.metadata.namespace.clone(), claim.into());
    match refs.get(&key) {
        Some(Ok(_)) => {}
        Some(Err(why)) => return Err(format!("{} {why}", key.describe())),
        None => return Err(format!("{} is not known yet", key.describe())),
    }
    let name = refs::volume_of(refs, &key)
        .ok_or_else(|| format!("{} is not bound to a volume", key.describe()))?;
    let key = RefKey::Volume(name);
    let spec = match refs.get(&key) {
        Some(Ok(volume)) => &volume["spec"],
        Some(Err(why)) => return Err(format!("{} {why}", key.describe())),
        None => return Err(format!("{} is not known yet", key.describe())),
    };
    let host = spec["hostPath"]["path"].as_str();
    let kind = spec["hostPath"]["type"].as_str().unwrap_or_default();
    match (host, spec["local"]["path"].as_str()) {
        (Some(path), _) => Ok((PathBuf::from(path), Content::HostPath(kind.into()))),
        // A local volume is made by whoever runs the node, never by us.
        (None, Some(path)) => Ok((PathBuf::from(path), Content::HostPath("Directory".into()))),
        (None, None) => Err(format!("{} is neither hostPath nor local", key.describe())),
    }
}

fn files_of(pod: &Pod, v: &Volume, facts: &Facts, refs: &Refs) -> Result<Vec<File>, String> {
    let ns = &pod.metadata.namespace;
    let mut files = Vec::new();
    if let Some(c) = &v.config_map {
        let key = RefKey::ConfigMap(ns.clone(), c.name.clone());
        keyed(&mut files, refs, &key, &c.items, c.optional, c.default_mode)?;
    } else if let Some(s) = &v.secret {
        let key = RefKey::Secret(ns.clone(), s.secret_name.clone());
        keyed(&mut files, refs, &key, &s.items, s.optional, s.default_mode)?;
    } else if let Some(d) = &v.downward_api {
        downward(&mut files, pod, d, d.default_mode, facts)?;
    } else if let Some(p) = &v.projected {
        for source in &p.sources {
            projected(&mut files, pod, source, p.default_mode, facts, refs)?;
        }
    } else {
        return Err("this kind of volume is not supported by this kubelet".into());
    }
    Ok(files)
}

fn projected(
    files: &mut Vec<File>,
    pod: &Pod,
    source: &Projection,
    mode: Option<u32>,
    facts: &Facts,
    refs: &Refs,
) -> Result<(), String> {
    let ns = &pod.metadata.namespace;
    if let Some(c) = &source.config_map {
        let key = RefKey::ConfigMap(ns.clone(), c.name.clone());
        keyed(files, refs, &key, &c.items, c.optional, mode)?;
    }
    if let Some(s) = &source.secret {
        let key = RefKey::Secret(ns.clone(), s.name.clone());
        keyed(files, refs, &key, &s.items, s.optional, mode)?;
    }
    if let Some(d) = &source.downward_api {
        downward(files, pod, d, mode, facts)?;
    }
    if let Some(t) = &source.service_account_token {
        let key = refs::token_key(pod, t);
        let object = match refs.get(&key) {
            Some(Ok(object)) => object,
            Some(Err(why)) => return Err(format!("failed to fetch token: {why}")),
            None => return Err("the service account token is not known yet".into()),
        };
        let token = object["status"]["token"].as_str().unwrap_or_default();
        let uid = single_user(pod);
        let fs_group = pod.spec.security_context.fs_group;
        let mode = match (uid, fs_group) {
            // Readable by the pod's only user; by nobody else but root.
            (_, Some(_)) | (Some(_), None) => 0o600,
            (None, None) => mode.unwrap_or(DEFAULT_MODE),
        };
        let path = inside(&t.path)?;
        files.push(File { path, mode, uid, bytes: token.as_bytes().to_vec() });
    }
    Ok(())
}

/// The user that all containers of the pod run as, if they say so and agree.
fn single_user(pod: &Pod) -> Option<u32> {
    let pod_user = pod.spec.security_context.run_as_user;
    let mut users = pod.all_containers().map(|(_, c)| c.security_context.run_as_user.or(pod_user));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first)
}

fn keyed(
    files: &mut Vec<File>,
    refs: &Refs,
    key: &RefKey,
    items: &[KeyToPath],
    optional: bool,
    default_mode: Option<u32>,
) -> Result<(), String> {
    let object = match refs.get(key) {
        Some(Ok(object)) => object,
        Some(Err(_)) | None if optional => return Ok(()),
        Some(Err(why)) => return Err(format!("{} {why}", key.describe())),
        None => return Err(format!("{} is not known yet", key.describe())),
    };
    let secret = matches!(key, RefKey::Secret(..));
    let default_mode = default_mode.unwrap_or(DEFAULT_MODE);
    let find = |name: &str| -> Option<Vec<u8>> {
        let plain = object.get("data").and_then(|d| d.get(name));
        let binary = object.get("binaryData").and_then(|d| d.get(name));
        plain
            .and_then(|v| env::bytes_of(v, secret))
            .or_else(|| binary.and_then(|v| env::bytes_of(v, true)))
    };
    if items.is_empty() {
        let maps = ["data", "binaryData"].into_iter().filter_map(|m| object.get(m));
        for name in maps.filter_map(Value::as_object).flat_map(|m| m.keys()) {
            let bytes = find(name).unwrap_or_default();
            files.push(File { path: inside(name)?, mode: default_mode, uid: None, bytes });
        }
        return Ok(());
    }
    for item in items {
        match find(&item.key) {
            Some(bytes) => files.push(File {
                path: inside(&item.path)?,
                mode: item.mode.unwrap_or(default_mode),
                uid: None,
                bytes,
            }),
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    files: &mut Vec<File>,
    pod: &Pod,
    d: &DownwardVolume,
    default_mode: Option<u32>,
    facts: &Facts,
) -> Result<(), String> {
    for item in &d.items {
        let text = if let Some(f) = &item.field_ref {
            env::field(pod, f, facts).map_err(|e| e.0)?
        } else if let Some(r) = &item.resource_field_ref {
            let none = Container::default();
            env::resource(pod, &none, r, facts).map_err(|e| e.0)?
        } else {
            return Err(format!("downwardAPI item {:?} names no field", item.path));
        };
        files.push(File {
            path: inside(&item.path)?,
            mode: item.mode.or(default_mode).unwrap_or(DEFAULT_MODE),
            uid: None,
            bytes: text.into_bytes(),
        });
    }
    Ok(())
}

/// A relative path that stays inside; the names that the atomic replacement uses are refused.
fn inside(path: &str) -> Result<PathBuf, String> {
    let p = Path::new(path);
    let plain = p.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(format!("invalid path {path:?}: must be relative and stay in the volume"));
    }
    Ok(p.to_path_buf())
}

/// One mount of a container, before its sub-path is looked up on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct MountPlan {
    /// Volume folder or file on the host.
    pub source: PathBuf,
    /// Path below it; resolved without ever leaving it, made as a folder when it is not there.
    pub sub_path: String,
    /// Where in the container.
    pub destination: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// `rprivate`, `rslave`, `rshared`.
    pub propagation: Option<String>,
}

/// The mounts of a container's volumes.
pub fn mounts(
    c: &Container,
    volumes: &[VolumeSpec],
    vars: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<MountPlan>, String> {
    let mut out = Vec::new();
    for m in &c.volume_mounts {
        let v = volumes.iter().find(|v| v.name == m.name).ok_or_else(|| {
            format!("volume {:?} of container {:?} is not in the pod", m.name, c.name)
        })?;
        let sub_path = if m.sub_path_expr.is_empty() {
            m.sub_path.clone()
        } else {
            let text = env::expand(&m.sub_path_expr, vars);
            if text.contains("$(") {
                return Err(format!("failed to expand subPath for volumeMount {:?}", m.name));
            }
            text
        };
        let relative = Path::new(&sub_path)
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if !relative {
            return Err(format!("subPath {sub_path:?} must be relative and not contain '..'"));
        }
        out.push(MountPlan {
            source: v.path.clone(),
            sub_path,
            destination: PathBuf::from(&m.mount_path),
            read_only: m.read_only || v.read_only,
            propagation: match m.mount_propagation.as_deref() {
                Some("HostToContainer") => Some("rslave".into()),
                Some("Bidirectional") => Some("rshared".into()),
                _ => None,
            },
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::{Now, Time};
    use serde_json::json;

    fn layout() -> Layout {
        Layout { pods: "/p".into(), secrets: "/s".into(), seccomp: "/c".into() }
    }

    #[test]
    fn paths_stay_inside() {
        for bad in ["", "/etc", "../x", "a/../../b", "..data", "..2026/x"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        assert_eq!(inside("a/b.txt"), Ok("a/b.txt".into()));
    }

    #[test]
    fn a_projected_volume_has_all_its_sources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "1"}},
            "spec": {"volumes": [{"name": "all", "projected": {"defaultMode": 0o440, "sources": [
                {"configMap": {"name": "cm", "items": [{"key": "k", "path": "dir/k"}]}},
                {"secret": {"name": "absent", "optional": true}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"serviceAccountToken": {"path": "token"}},
            ]}}]}
        }))
        .expect("pod");
        let mut refs = Refs::default();
        let now = Now::default();
        refs.retain(&refs::of_pod(&pod), Time(0));
        let keys = refs.take_due(Time(0));
        assert_eq!(keys.len(), 3);
        assert!(build(&pod, &layout(), &Facts::default(), &refs).is_err(), "nothing is known yet");
        for key in &keys {
            let answer = match key {
                RefKey::ConfigMap(..) => Ok(json!({"data": {"k": "v", "other": "x"}})),
                RefKey::Secret(..) => Err(refs::NOT_FOUND.to_string()),
                RefKey::Claim(..) | RefKey::Volume(_) => panic!("there is no claim"),
                RefKey::Token { .. } => Ok(json!({"status": {"token": "t"}})),
            };
            assert!(refs.answered(key, answer, now));
        }
        let volumes = build(&pod, &layout(), &Facts::default(), &refs).expect("volumes");
        let Content::Files(files) = &volumes[0].content else { panic!("files") };
        let seen: Vec<_> = files
            .iter()
            .map(|f| (f.path.to_string_lossy().into_owned(), f.mode, f.bytes.clone()))
            .collect();
        assert_eq!(
            seen,
            [
                ("dir/k".into(), 0o440, b"v".to_vec()),
                ("labels".into(), 0o440, b"a=\"1\"\nb=\"2\"".to_vec()),
                ("token".into(), 0o440, b"t".to_vec()),
            ]
        );
    }
}
