//! Rows of pods.

use super::Cells;
use crate::object::{self, at, bool_at, int_at, list_at, str_at};
use serde_json::Value;

/// What the columns Ready, Status and Restarts say.
#[derive(Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Ready containers.
    pub ready: usize,
    /// Containers that count (regular ones and sidecars).
    pub total: usize,
    /// `Running`, `CrashLoopBackOff`, `Init:0/1`, `Terminating`.
    pub reason: String,
    /// Restarts of the containers that count.
    pub restarts: i64,
    /// Time of the last restart, RFC 3339; empty when there was none.
    pub last_restart: String,
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    list_at(pod, &["spec", "initContainers"])
        .iter()
        .any(|c| str_at(c, &["name"]) == name && str_at(c, &["restartPolicy"]) == "Always")
}

fn later(a: &mut String, b: &str) {
    if b > a.as_str() {
        *a = b.to_owned();
    }
}

/// `Signal:9`, `ExitCode:1` or the reason of a terminated state.
fn terminated_reason(t: &Value) -> String {
    let (reason, signal) = (str_at(t, &["reason"]), int_at(t, &["signal"]).unwrap_or(0));
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", int_at(t, &["exitCode"]).unwrap_or(0))
    }
}

impl PodStatus {
    /// Init containers; true when one of them is still under way.
    fn init(&mut self, pod: &Value, sidecars: &mut (i64, String)) -> bool {
        let statuses = list_at(pod, &["status", "initContainerStatuses"]);
        for (i, c) in statuses.iter().enumerate() {
            let restarts = int_at(c, &["restartCount"]).unwrap_or(0);
            let finished = str_at(c, &["lastState", "terminated", "finishedAt"]);
            self.restarts += restarts;
            later(&mut self.last_restart, finished);
            let sidecar = is_sidecar(pod, str_at(c, &["name"]));
            if sidecar {
                sidecars.0 += restarts;
                later(&mut sidecars.1, finished);
            }
            let terminated = at(c, &["state", "terminated"]);
            let waiting = str_at(c, &["state", "waiting", "reason"]);
            match terminated {
                Some(t) if int_at(t, &["exitCode"]).unwrap_or(0) == 0 => continue,
                _ if sidecar && bool_at(c, &["started"]) => {
                    self.ready += usize::from(bool_at(c, &["ready"]));
                    continue;
                }
                Some(t) => self.reason = format!("Init:{}", terminated_reason(t)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => {
                    self.reason = format!("Init:{waiting}");
                }
                None => {
                    let all = list_at(pod, &["spec", "initContainers"]).len();
                    self.reason = format!("Init:{i}/{all}");
                }
            }
            return true;
        }
        false
    }

    /// Regular containers.
    fn regular(&mut self, pod: &Value) {
        let mut running = false;
        for c in list_at(pod, &["status", "containerStatuses"]).iter().rev() {
            self.restarts += int_at(c, &["restartCount"]).unwrap_or(0);
            later(&mut self.last_restart, str_at(c, &["lastState", "terminated", "finishedAt"]));
            let waiting = str_at(c, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(t) = at(c, &["state", "terminated"]) {
                self.reason = terminated_reason(t);
            } else if bool_at(c, &["ready"]) && at(c, &["state", "running"]).is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = object::condition_true(pod, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

/// Computes what `kubectl get pods` shows of a pod.
pub fn pod_status(pod: &Value) -> PodStatus {
    let phase = str_at(pod, &["status", "phase"]);
    let why = str_at(pod, &["status", "reason"]);
    let sidecar = |c: &&Value| str_at(c, &["restartPolicy"]) == "Always";
    let sidecars = list_at(pod, &["spec", "initContainers"]).iter().filter(sidecar).count();
    let mut s = PodStatus {
        ready: 0,
        total: list_at(pod, &["spec", "containers"]).len() + sidecars,
        reason: if why.is_empty() { phase } else { why }.to_owned(),
        restarts: 0,
        last_restart: String::new(),
    };
    let gated = object::condition(pod, "PodScheduled")
        .is_some_and(|c| str_at(c, &["reason"]) == "SchedulingGated");
    if gated {
        s.reason = "SchedulingGated".to_owned();
    }
    let mut of_sidecars = (0, String::new());
    let initializing = s.init(pod, &mut of_sidecars);
    if !initializing || object::condition_true(pod, "Initialized") {
        (s.restarts, s.last_restart) = of_sidecars;
        s.regular(pod);
    }
    if object::is_deleting(pod) {
        if why == "NodeLost" {
            s.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            s.reason = "Terminating".to_owned();
        }
    }
    s
}

pub(super) fn cells(c: &Cells<'_>) -> Vec<Value> {
    let s = pod_status(c.o);
    let mut restarts = s.restarts.to_string();
    if s.restarts != 0
        && let Some(ago) = super::age(&s.last_restart, c.now)
    {
        restarts = format!("{restarts} ({ago} ago)");
    }
    let ip = c.list(&["status", "podIPs"]).first().map_or("", |p| str_at(p, &["ip"]));
    let gates = c.list(&["spec", "readinessGates"]);
    let readiness = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let open = |g: &&Value| object::condition_true(c.o, str_at(g, &["conditionType"]));
        format!("{}/{}", gates.iter().filter(open).count(), gates.len())
    };
    vec![
        c.name(),
        format!("{}/{}", s.ready, s.total).into(),
        s.reason.into(),
        restarts.into(),
        c.age(),
        if ip.is_empty() { "<none>".into() } else { ip.into() },
        c.or(&["spec", "nodeName"], "<none>"),
        c.or(&["status", "nominatedNodeName"], "<none>"),
        readiness.into(),
    ]
}
