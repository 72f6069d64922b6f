//! Jobs: pods that run to their end, counted exactly once each.
//!
//! A pod of a job carries the finalizer `batch.kubernetes.io/job-tracking`. When it has ended, its uid first goes
//! into `status.uncountedTerminatedPods`, then the finalizer goes, then the uid becomes a number: whatever crashes
//! in between, nothing is lost or counted twice (KEP-2307). Indexed jobs, suspension, back-off limit, active
//! deadline and time to live are here; failure policies and success policies are not yet.

use crate::Kind;
use crate::manager::{Change, Controller};
use crate::plan::{Action, Plan, Selector, key_of};
use crate::replicaset::{adopt, patch_to, pod_of, ready_since, terminal, wake_owner_of_pod};
use crate::view::{View, controller_of};
use pintle_base::{Now, Wall};
use pintle_client::Key;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Pods made in one plan.
const BURST: i64 = 500;
/// First pause after a failed pod, and the longest (upstream: 10 s, 10 min).
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(600);

/// The controller.
pub struct Jobs;

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        match change.kind {
            Kind::Job => {
                keys.insert(change.key.to_owned());
            }
            Kind::Pod => wake_owner_of_pod("Job", Kind::Job, change, view, keys),
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, now: Now) -> Plan {
        match view.get(Kind::Job, key) {
            Some(job) => Picture::new(job, view, now.wall).plan(),
            None => Plan::default(),
        }
    }
}

/// Lets go of pods whose job does not exist (any more) or that were orphaned: nobody will count them.
pub struct LostPods;

impl Controller for LostPods {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn wake(&self, change: &Change<'_>, view: View<'_>, keys: &mut BTreeSet<Key>) {
        match change.kind {
            Kind::Pod if change.new.is_some_and(tracked) => {
                keys.insert(change.key.to_owned());
            }
            Kind::Job if change.new.is_none() => {
                let uid = change.old.map(uid).unwrap_or_default();
                keys.extend(view.owned(Kind::Pod, uid).filter(|p| tracked(p)).map(key_of));
            }
            _ => {}
        }
    }

    fn plan(&self, key: &str, view: View<'_>, _now: Now) -> Plan {
        let mut plan = Plan::default();
        let Some(pod) = view.get(Kind::Pod, key).filter(|p| tracked(p)) else { return plan };
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        match controller_of(pod) {
            Some(owner) if owner["kind"] == "Job" => {
                let owner_uid = owner["uid"].as_str().unwrap_or_default();
                let job = format!("{namespace}/{}", owner["name"].as_str().unwrap_or_default());
                if view.get(Kind::Job, &job).is_some_and(|j| uid(j) == owner_uid) {
                    // Its job counts it.
                } else if view.confirmed_gone(owner_uid) {
                    plan.actions.push(untrack(pod));
                } else {
                    plan.actions.push(Action::Confirm {
                        kind: Kind::Job,
                        key: job,
                        uid: owner_uid.to_owned(),
                        remember: owner_uid.to_owned(),
                    });
                }
            }
            Some(_) => plan.actions.push(untrack(pod)),
            None => {
                let adopts = view.list_in(Kind::Job, namespace).any(|j| {
                    let selector = Selector::read(&j["spec"]["selector"]);
                    !selector.is_empty() && selector.matches(&pod["metadata"]["labels"])
                });
                if !adopts {
                    plan.actions.push(untrack(pod));
                }
            }
        }
        plan
    }
}

struct Picture<'a> {
    job: &'a Value,
    pods: Vec<&'a Value>,
    adopt: Vec<&'a Value>,
    now: Wall,
}

fn finished(job: &Value) -> Option<&Value> {
    let conditions = job["status"]["conditions"].as_array()?;
    conditions
        .iter()
        .find(|c| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True")
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn tracked(pod: &Value) -> bool {
    pod["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|x| x == TRACKING))
}

fn time(v: &Value) -> Option<Wall> {
    v.as_str().and_then(Wall::parse_rfc3339)
}

fn index_of(pod: &Value) -> Option<i64> {
    pod["metadata"]["annotations"][INDEX].as_str()?.parse().ok()
}

impl<'a> Picture<'a> {
    fn new(job: &'a Value, view: View<'a>, now: Wall) -> Picture<'a> {
        let claim = view.claimable(Kind::Pod, job, &Selector::read(&job["spec"]["selector"]));
        Picture { job, pods: claim.mine, adopt: claim.adopt, now }
    }

    fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        plan.actions.extend(self.adopt.iter().map(|p| adopt(Kind::Pod, p, self.job)));
        if !self.job["metadata"]["deletionTimestamp"].is_null() {
            // Its pods go by garbage collection; what is ours to do is to let go of them.
            self.release_all(&mut plan);
            return plan;
        }
        if let Some(condition) = finished(self.job) {
            self.release_all(&mut plan);
            self.expire(condition, &mut plan);
            return plan;
        }
        let mut status = self.counted_status(&mut plan);
        let end = self.verdict(&status);
        let active: Vec<&Value> = self.active();
        if let Some((kind, reason, message)) = end {
            self.end(&active, &mut status, kind, reason, &message, &mut plan);
        } else if self.job["spec"]["suspend"] == true {
            self.suspend(&active, &mut status, &mut plan);
        } else {
            self.run(&active, &mut status, &mut plan);
        }
        if self.job["status"] != status {
            // Numbers follow from those before them: never written over what this plan has not seen.
            plan.actions.push(Action::Patch {
                kind: Kind::Job,
                key: key_of(self.job),
                subresource: "status",
                patch: json!({
                    "metadata": {
                        "uid": self.job["metadata"]["uid"],
                        "resourceVersion": self.job["metadata"]["resourceVersion"],
                    },
                    "status": patch_to(&self.job["status"], &status),
                }),
            });
        }
        plan
    }

    fn active(&self) -> Vec<&'a Value> {
        self.pods
            .iter()
            .copied()
            .filter(|p| !terminal(p) && p["metadata"]["deletionTimestamp"].is_null())
            .collect()
    }

    fn indexed(&self) -> bool {
        self.job["spec"]["completionMode"] == "Indexed"
    }

    // Step by step: ended pods into the list of uncounted, their finalizers off, the list into the numbers.
    fn counted_status(&self, plan: &mut Plan) -> Value {
        let old = &self.job["status"];
        let list = |field: &str| -> Vec<String> {
            let v = old["uncountedTerminatedPods"][field].as_array();
            v.into_iter().flatten().filter_map(|u| u.as_str().map(str::to_owned)).collect()
        };
        let mut succeeded = old["succeeded"].as_i64().unwrap_or(0);
        let mut failed = old["failed"].as_i64().unwrap_or(0);
        let mut done_indexes = parse_indexes(old["completedIndexes"].as_str().unwrap_or_default());
        let (mut waiting_ok, mut waiting_bad) = (list("succeeded"), list("failed"));
        let still_held = |u: &String| self.pods.iter().any(|p| uid(p) == u && tracked(p));
        let (held, freed): (Vec<_>, Vec<_>) = waiting_ok.into_iter().partition(still_held);
        succeeded += i64::try_from(freed.len()).unwrap_or(0);
        waiting_ok = held;
        let (held, freed): (Vec<_>, Vec<_>) = waiting_bad.into_iter().partition(still_held);
        failed += i64::try_from(freed.len()).unwrap_or(0);
        waiting_bad = held;
        for pod in self.pods.iter().filter(|p| tracked(p)) {
            let u = uid(pod).to_owned();
            let listed = waiting_ok.contains(&u) || waiting_bad.contains(&u);
            let ok = pod["status"]["phase"] == "Succeeded";
            let bad = pod["status"]["phase"] == "Failed"
                || !ok && !pod["metadata"]["deletionTimestamp"].is_null();
            if listed {
                plan.actions.push(untrack(pod));
            } else if ok {
                match index_of(pod).filter(|_| self.indexed()) {
                    // A second success of one index is not a second completion.
                    Some(i) if !done_indexes.insert(i) => plan.actions.push(untrack(pod)),
                    Some(_) | None => waiting_ok.push(u),
                }
            } else if bad {
                waiting_bad.push(u);
            }
        }
        if self.indexed() {
            succeeded = i64::try_from(done_indexes.len()).unwrap_or(0)
                - i64::try_from(waiting_ok.len()).unwrap_or(0);
        }
        let mut s = json!({ "uncountedTerminatedPods": {} });
        let mut put = |path: &str, v: Value, present: bool| {
            if present {
                s[path] = v;
            }
        };
        put("succeeded", json!(succeeded), succeeded > 0);
        put("failed", json!(failed), failed > 0);
        put("completedIndexes", json!(format_indexes(&done_indexes)), !done_indexes.is_empty());
        for field in ["startTime", "completionTime", "conditions"] {
            put(field, old[field].clone(), !old[field].is_null());
        }
        if !waiting_ok.is_empty() {
            s["uncountedTerminatedPods"]["succeeded"] = json!(waiting_ok);
        }
        if !waiting_bad.is_empty() {
            s["uncountedTerminatedPods"]["failed"] = json!(waiting_bad);
        }
        s
    }

    fn release_all(&self, plan: &mut Plan) {
        plan.actions.extend(self.pods.iter().filter(|p| tracked(p)).map(|p| untrack(p)));
    }

    // Whether the job ends now: condition type, reason, message.
    fn verdict(&self, s: &Value) -> Option<(&'static str, &'static str, String)> {
        let spec = &self.job["spec"];
        let number = |list: &str| {
            let uncounted = s["uncountedTerminatedPods"][list].as_array().map_or(0, Vec::len);
            s[list].as_i64().unwrap_or(0) + i64::try_from(uncounted).unwrap_or(0)
        };
        let limit = spec["backoffLimit"].as_i64().unwrap_or(6);
        if number("failed") > limit {
            return Some((
                "Failed",
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit".into(),
            ));
        }
        let started = time(&s["startTime"]);
        if let (Some(deadline), Some(started)) = (spec["activeDeadlineSeconds"].as_u64(), started)
            && self.now - started >= Duration::from_secs(deadline)
            && spec["suspend"] != true
        {
            return Some((
                "Failed",
                "DeadlineExceeded",
                "Job was active longer than specified deadline".into(),
            ));
        }
        let done = match spec["completions"].as_i64() {
            Some(n) => number("succeeded") >= n,
            // A work queue: one success, and everybody has ended.
            None => number("succeeded") > 0 && self.active().is_empty(),
        };
        done.then(|| {
            ("Complete", "CompletionsReached", "Reached expected number of succeeded pods".into())
        })
    }

    fn end(
        &self,
        active: &[&Value],
        s: &mut Value,
        kind: &str,
        reason: &'static str,
        message: &str,
        plan: &mut Plan,
    ) {
        plan.actions.extend(active.iter().map(|p| Action::delete(Kind::Pod, p)));
        let target = if kind == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
        set_condition(s, target, reason, message, self.now);
        // The final condition comes when no pod runs and none is uncounted.
        let quiet = self.pods.iter().all(|p| terminal(p));
        let counted =
            s["uncountedTerminatedPods"].as_object().is_none_or(serde_json::Map::is_empty);
        if quiet && counted {
            set_condition(s, kind, reason, message, self.now);
            if kind == "Complete" {
                s["completionTime"] = json!(self.now.rfc3339());
            }
            let reason = if kind == "Complete" { "Completed" } else { reason };
            let message = if kind == "Complete" { "Job completed" } else { message };
            plan.actions.push(self.event(kind == "Failed", reason, message.to_owned()));
        }
        self.set_counts(&[], s);
    }

    fn suspend(&self, active: &[&Value], s: &mut Value, plan: &mut Plan) {
        plan.actions.extend(active.iter().map(|p| Action::delete(Kind::Pod, p)));
        let was = condition(s, "Suspended").is_some_and(|c| c["status"] == "True");
        if !was {
            set_condition(s, "Suspended", "JobSuspended", "Job suspended", self.now);
            plan.actions.push(self.event(false, "Suspended", "Job suspended".into()));
        }
        if let Some(map) = s.as_object_mut() {
            map.remove("startTime");
        }
        self.set_counts(&[], s);
    }

    fn run(&self, active: &[&Value], s: &mut Value, plan: &mut Plan) {
        if s["startTime"].is_null() {
            s["startTime"] = json!(self.now.rfc3339());
        }
        if condition(s, "Suspended").is_some_and(|c| c["status"] == "True") {
            resume_condition(s, self.now);
            plan.actions.push(self.event(false, "Resumed", "Job resumed".into()));
        }
        let spec = &self.job["spec"];
        let parallelism = spec["parallelism"].as_i64().unwrap_or(1);
        let uncounted = s["uncountedTerminatedPods"]["succeeded"].as_array().map_or(0, Vec::len);
        let succeeded =
            s["succeeded"].as_i64().unwrap_or(0) + i64::try_from(uncounted).unwrap_or(0);
        let wanted = match spec["completions"].as_i64() {
            Some(n) => parallelism.min((n - succeeded).max(0)),
            // A work queue starts nobody new once somebody has succeeded.
            None if succeeded > 0 => i64::try_from(active.len()).unwrap_or(0).min(parallelism),
            None => parallelism,
        };
        let have = i64::try_from(active.len()).unwrap_or(0);
        if have > wanted {
            let surplus = usize::try_from(have - wanted).unwrap_or(0);
            let mut victims: Vec<&&Value> = active.iter().collect();
            victims.sort_by_key(|p| (ready_since(p).is_some(), std::cmp::Reverse(key_of(p))));
            plan.actions
                .extend(victims.into_iter().take(surplus).map(|p| Action::delete(Kind::Pod, p)));
        } else if have < wanted {
            match self.pause() {
                Some(left) => plan.requeue_after = Some(left),
                None => self.create((wanted - have).min(BURST), active, s, plan),
            }
        }
        if let (Some(deadline), Some(started)) =
            (spec["activeDeadlineSeconds"].as_u64(), time(&s["startTime"]))
        {
            let left = Duration::from_secs(deadline).saturating_sub(self.now - started)
                + Duration::from_millis(10);
            plan.requeue_after = Some(plan.requeue_after.map_or(left, |r| r.min(left)));
        }
        self.set_counts(active, s);
    }

    // After failures a pause that doubles with each, counted from the last one's end.
    fn pause(&self) -> Option<Duration> {
        let ends = self.pods.iter().filter(|p| p["status"]["phase"] == "Failed").map(|p| {
            let states = p["status"]["containerStatuses"].as_array();
            let ended = states
                .into_iter()
                .flatten()
                .filter_map(|c| time(&c["state"]["terminated"]["finishedAt"]));
            ended.max().unwrap_or_else(|| ended_without_containers(p))
        });
        let (count, last) = ends.fold((0u32, None), |(n, last), end| (n + 1, Some(end).max(last)));
        let last = last?;
        let pause = RETRY_MIN.saturating_mul(1 << (count - 1).min(10)).min(RETRY_MAX);
        let been = self.now - last;
        (been < pause).then(|| pause - been)
    }

    fn create(&self, n: i64, active: &[&Value], s: &Value, plan: &mut Plan) {
        let mut indexes =
            if self.indexed() { self.free_indexes(active, s) } else { Vec::new() }.into_iter();
        for _ in 0..n {
            let mut pod = pod_of(self.job, &self.job["spec"]["template"]);
            let mut finalizers: Vec<Value> =
                pod["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.push(json!(TRACKING));
            pod["metadata"]["finalizers"] = json!(finalizers);
            if self.indexed() {
                let Some(i) = indexes.next() else { return };
                self.set_index(&mut pod, i);
            }
            plan.actions.push(Action::Create(Kind::Pod, pod));
        }
    }

    fn free_indexes(&self, active: &[&Value], s: &Value) -> Vec<i64> {
        let done = parse_indexes(s["completedIndexes"].as_str().unwrap_or_default());
        let busy: BTreeSet<i64> = active.iter().filter_map(|p| index_of(p)).collect();
        let n = self.job["spec"]["completions"].as_i64().unwrap_or(0);
        (0..n).filter(|i| !done.contains(i) && !busy.contains(i)).collect()
    }

    fn set_index(&self, pod: &mut Value, index: i64) {
        let name = self.job["metadata"]["name"].as_str().unwrap_or_default();
        pod["metadata"]["annotations"][INDEX] = json!(index.to_string());
        pod["metadata"]["labels"][INDEX] = json!(index.to_string());
        pod["metadata"]["generateName"] = json!(format!("{name}-{index}-"));
        if pod["spec"]["hostname"].is_null() {
            pod["spec"]["hostname"] = json!(format!("{name}-{index}"));
        }
        for list in ["containers", "initContainers"] {
            for c in pod["spec"][list].as_array_mut().into_iter().flatten() {
                let entry = json!({
                    "name": "JOB_COMPLETION_INDEX",
                    "valueFrom": {"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}},
                });
                match c["env"].as_array_mut() {
                    Some(env) => env.push(entry),
                    None => c["env"] = json!([entry]),
                }
            }
        }
    }

    fn set_counts(&self, active: &[&Value], s: &mut Value) {
        let ready = active.iter().filter(|p| ready_since(p).is_some()).count();
        let terminating = self
            .pods
            .iter()
            .filter(|p| !terminal(p) && !p["metadata"]["deletionTimestamp"].is_null())
            .count();
        if !active.is_empty() {
            s["active"] = json!(active.len());
        }
        s["ready"] = json!(ready);
        s["terminating"] = json!(terminating);
    }

    fn expire(&self, condition: &Value, plan: &mut Plan) {
        let Some(ttl) = self.job["spec"]["ttlSecondsAfterFinished"].as_u64() else { return };
        let Some(since) = time(&condition["lastTransitionTime"]) else { return };
        let been = self.now - since;
        let ttl = Duration::from_secs(ttl);
        if been >= ttl {
            plan.actions.push(Action::delete(Kind::Job, self.job));
        } else {
            plan.requeue_after = Some(ttl - been);
        }
    }

    fn event(&self, warning: bool, reason: &'static str, message: String) -> Action {
        Action::Event {
            about: Box::new(
                json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": self.job["metadata"]}),
            ),
            warning,
            reason,
            message,
        }
    }
}

// An evicted pod may have ended before any container ran (upstream's getFinishedTime).
fn ended_without_containers(pod: &Value) -> Wall {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    let meta = &pod["metadata"];
    ready
        .and_then(|c| time(&c["lastTransitionTime"]))
        .or_else(|| time(&meta["deletionTimestamp"]))
        .or_else(|| time(&meta["creationTimestamp"]))
        .unwrap_or_default()
}

fn untrack(pod: &Value) -> Action {
    let rest: Vec<&Value> = pod["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|f| *f != TRACKING)
        .collect();
    Action::Patch {
        kind: Kind::Pod,
        key: key_of(pod),
        subresource: "",
        patch: json!({"metadata": {
            "uid": pod["metadata"]["uid"], "resourceVersion": pod["metadata"]["resourceVersion"], "finalizers": rest,
        }}),
    }
}

fn condition<'s>(s: &'s Value, kind: &str) -> Option<&'s Value> {
    s["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn set_condition(s: &mut Value, kind: &str, reason: &str, message: &str, now: Wall) {
    if condition(s, kind).is_some_and(|c| c["status"] == "True") {
        return;
    }
    let c = json!({
        "type": kind, "status": "True", "reason": reason, "message": message,
        "lastProbeTime": now.rfc3339(), "lastTransitionTime": now.rfc3339(),
    });
    let mut list: Vec<Value> = s["conditions"].as_array().cloned().unwrap_or_default();
    list.retain(|x| x["type"] != kind);
    list.push(c);
    s["conditions"] = json!(list);
}

fn resume_condition(s: &mut Value, now: Wall) {
    for c in
        s["conditions"].as_array_mut().into_iter().flatten().filter(|c| c["type"] == "Suspended")
    {
        *c = json!({
            "type": "Suspended", "status": "False", "reason": "JobResumed", "message": "Job resumed",
            "lastProbeTime": now.rfc3339(), "lastTransitionTime": now.rfc3339(),
        });
    }
}

/// `0-2,5` as a set; what does not parse is left out.
fn parse_indexes(text: &str) -> BTreeSet<i64> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.parse::<i64>(), to.parse::<i64>()) {
            set.extend(from..=to.min(from.saturating_add(100_000)));
        }
    }
    set
}

/// A set as `0-2,5`.
fn format_indexes(set: &BTreeSet<i64>) -> String {
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for &i in set {
        match parts.last_mut() {
            Some((_, to)) if *to + 1 == i => *to = i,
            _ => parts.push((i, i)),
        }
    }
    let texts = parts.iter().map(|(from, to)| match to - from {
        0 => from.to_string(),
        1 => format!("{from},{to}"),
        _ => format!("{from}-{to}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_round_trip() {
        for text in ["", "0", "0,1", "0-2,5", "1,3-7,9,10"] {
            assert_eq!(format_indexes(&parse_indexes(text)), text);
        }
    }
}
