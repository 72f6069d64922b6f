//! Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs, CronJobs, ReplicationControllers.

use super::{Object, each, in_made, in_map, pod, put, storage, text};
use serde_json::Value;

pub(super) fn deployment(o: &mut Object) {
    in_map(o, "spec", |s| {
        put(s, "replicas", 1);
        in_made(s, "strategy", |t| {
            put(t, "type", "RollingUpdate");
            if text(t, "type") == "RollingUpdate" {
                in_made(t, "rollingUpdate", |r| {
                    put(r, "maxUnavailable", "25%");
                    put(r, "maxSurge", "25%");
                });
            }
        });
        put(s, "revisionHistoryLimit", 10);
        put(s, "progressDeadlineSeconds", 600);
        pod::template_of(s);
    });
}

pub(super) fn replica_set(o: &mut Object) {
    in_map(o, "spec", |s| {
        put(s, "replicas", 1);
        pod::template_of(s);
    });
}

pub(super) fn stateful_set(o: &mut Object) {
    in_map(o, "spec", |s| {
        put(s, "podManagementPolicy", "OrderedReady");
        in_made(s, "updateStrategy", |u| {
            put(u, "type", "RollingUpdate");
            if text(u, "type") == "RollingUpdate" {
                in_made(u, "rollingUpdate", |r| put(r, "partition", 0));
            }
        });
        in_made(s, "persistentVolumeClaimRetentionPolicy", |p| {
            put(p, "whenDeleted", "Retain");
            put(p, "whenScaled", "Retain");
        });
        put(s, "replicas", 1);
        put(s, "revisionHistoryLimit", 10);
        each(s, "volumeClaimTemplates", |c| {
            put(c, "apiVersion", "v1");
            put(c, "kind", "PersistentVolumeClaim");
            storage::claim(c);
        });
        pod::template_of(s);
    });
}

pub(super) fn daemon_set(o: &mut Object) {
    in_map(o, "spec", |s| {
        in_made(s, "updateStrategy", |u| {
            put(u, "type", "RollingUpdate");
            if text(u, "type") == "RollingUpdate" {
                in_made(u, "rollingUpdate", |r| {
                    put(r, "maxUnavailable", 1);
                    put(r, "maxSurge", 0);
                });
            }
        });
        put(s, "revisionHistoryLimit", 10);
        pod::template_of(s);
    });
}

pub(super) fn replication_controller(o: &mut Object) {
    let labels = o
        .get("spec")
        .and_then(|s| crate::object::at(s, &["template", "metadata", "labels"]))
        .cloned();
    in_map(o, "spec", |s| {
        put(s, "replicas", 1);
        if let Some(labels) = &labels {
            put_if_empty(s, "selector", labels);
        }
        pod::template_of(s);
    });
    labels_from(o, labels);
}

/// An object without labels takes those of its template.
fn labels_from(o: &mut Object, labels: Option<Value>) {
    if let Some(labels) = labels {
        in_made(o, "metadata", |m| put_if_empty(m, "labels", &labels));
    }
}

fn put_if_empty(o: &mut Object, key: &str, value: &Value) {
    if o.get(key).and_then(Value::as_object).is_none_or(|m| m.is_empty()) {
        o.insert(key.to_owned(), value.clone());
    }
}

pub(super) fn job(o: &mut Object) {
    let labels = o
        .get("spec")
        .and_then(|s| crate::object::at(s, &["template", "metadata", "labels"]))
        .cloned();
    in_map(o, "spec", job_spec);
    labels_from(o, labels);
}

fn job_spec(s: &mut Object) {
    let has = |s: &Object, k: &str| s.get(k).is_some_and(|v| !v.is_null());
    if !has(s, "completions") && !has(s, "parallelism") {
        put(s, "completions", 1);
    }
    put(s, "parallelism", 1);
    let limit = if has(s, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    put(s, "backoffLimit", limit);
    put(s, "completionMode", "NonIndexed");
    put(s, "suspend", false);
    put(s, "manualSelector", false);
    let replacement = if has(s, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    put(s, "podReplacementPolicy", replacement);
    pod_failure_policy(s);
    pod::template_of(s);
}

fn pod_failure_policy(s: &mut Object) {
    in_map(s, "podFailurePolicy", |p| {
        each(p, "rules", |r| each(r, "onPodConditions", |c| put(c, "status", "True")));
    });
}

pub(super) fn cron_job(o: &mut Object) {
    in_map(o, "spec", |s| {
        put(s, "concurrencyPolicy", "Allow");
        put(s, "suspend", false);
        put(s, "successfulJobsHistoryLimit", 3);
        put(s, "failedJobsHistoryLimit", 1);
        in_map(s, "jobTemplate", |t| {
            in_map(t, "spec", |j| {
                pod_failure_policy(j);
                pod::template_of(j);
            });
        });
    });
}
