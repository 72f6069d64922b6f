//! pods/eviction: a deletion that asks the pod's disruption budget first and takes one disruption from it in the
//! same transaction.
//!
//! References: pkg/registry/core/pod/storage/eviction.go.

use std::sync::Arc;

use pintle_api::object;
use pintle_api::selector::Labels;
use pintle_api::status::Cause;
use pintle_wire::msg::api;
use serde_json::{Value, json};

use super::special::set_condition;
use super::{Done, Effect, Planned, json_reply};
use crate::registry::ResourceId;
use crate::server::{Server, Work};
use crate::status::{Failure, Result};

/// An object that changes with another: resource, key, expected revision, new value.
type Also = (ResourceId, String, u64, Value);

impl Server {
    pub(super) fn plan_eviction(&mut self, work: &Work) -> Result<Planned> {
        let r = work.request.clone();
        let body = self.special_body(work)?;
        let own = object::name(&body);
        if !own.is_empty() && own != r.name {
            return Err(Failure::bad_request("name in URL does not match name in Eviction object"));
        }
        let (_, pod) = self.existing(work, &r.name)?;
        let delete = deletion(&r, &body["deleteOptions"]);
        // A pod that does not run counts in no budget.
        let phase = object::str_at(&pod, &["status", "phase"]);
        let over = matches!(phase, "Succeeded" | "Failed" | "Pending");
        let mut also = Vec::new();
        if !over && !object::is_deleting(&pod) {
            also.extend(self.take_from_budget(&pod)?);
        }
        let delete = Work { request: Arc::new(delete), ..work.clone() };
        let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(match self.plan_delete(&delete)? {
            Planned::Answer(_) => Planned::Answer(json_reply(201, &success)),
            Planned::Commit(mut plan) => {
                plan.done = Done::Body(201, success);
                plan.also = also;
                if let Effect::Put(pod) = &mut plan.effect {
                    set_condition(
                        pod,
                        json!({"type": "DisruptionTarget", "status": "True", "lastProbeTime": null,
                            "lastTransitionTime": self.now.wall.rfc3339(),
                            "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}),
                    );
                }
                Planned::Commit(plan)
            }
        })
    }

    /// The pod's disruption budget with one disruption less; 429 when it has none left.
    fn take_from_budget(&self, pod: &Value) -> Result<Option<Also>> {
        let Some(id) = self.registry.resource_of("policy", "poddisruptionbudgets") else {
            return Ok(None);
        };
        let labels = object::labels(pod);
        let all = self.cache.table(id).iter(object::namespace(pod));
        let mut budgets = all
            .map(|o| (o.revision, o.parse()))
            .filter(|(_, b)| Labels::of(&b["spec"]["selector"]).is_ok_and(|s| s.matches(labels)));
        let Some((revision, budget)) = budgets.next() else { return Ok(None) };
        if budgets.next().is_some() {
            return Err(Failure::plain(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let allowed = disruptions_left(&budget)?;
        let new = self.with_one_less(&budget, allowed, object::name(pod));
        let key = format!("{}/{}", object::namespace(&budget), object::name(&budget));
        Ok(Some((id, key, revision, new)))
    }

    fn with_one_less(&self, budget: &Value, allowed: i64, pod: &str) -> Value {
        let mut new = budget.clone();
        let now = self.now.wall.rfc3339();
        object::set(&mut new, &["status", "disruptionsAllowed"], allowed - 1);
        object::set(&mut new, &["status", "disruptedPods", pod], now.clone());
        let (status, reason) =
            if allowed == 1 { ("False", "InsufficientPods") } else { ("True", "SufficientPods") };
        let observed = object::int_at(budget, &["status", "observedGeneration"]).unwrap_or(0);
        set_condition(
            &mut new,
            json!({"type": "DisruptionAllowed", "status": status, "reason": reason,
                "observedGeneration": observed, "message": "", "lastTransitionTime": now}),
        );
        if let Some(e) = self.registry.find("policy", "v1", "poddisruptionbudgets") {
            self.track_as("kube-apiserver", e, budget, &mut new, "status");
        }
        new
    }
}

/// The deletion that an eviction stands for.
fn deletion(r: &api::Request, options: &Value) -> api::Request {
    let text = |steps: &[&str]| match object::str_at(options, steps) {
        "" => None,
        s => Some(s.to_owned()),
    };
    let mut delete = r.clone();
    delete.verb = api::Verb::Delete;
    delete.subresource.clear();
    let o = &mut delete.options;
    o.grace_period_s = object::int_at(options, &["gracePeriodSeconds"]);
    o.propagation_policy = text(&["propagationPolicy"]);
    o.precondition_uid = text(&["preconditions", "uid"]);
    o.precondition_resource_version = text(&["preconditions", "resourceVersion"]);
    o.dry_run |= object::list_at(options, &["dryRun"]).iter().any(|d| d == "All");
    delete
}

/// How many disruptions the budget allows, at least one; else the 429.
fn disruptions_left(budget: &Value) -> Result<i64> {
    let name = object::name(budget);
    let n = |k: &str| object::int_at(budget, &["status", k]).unwrap_or(0);
    let refuse = |cause: String, retry_after_s| {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut f = Failure::too_many_requests(text, retry_after_s);
        let d = f.details.get_or_insert_with(Default::default);
        d.causes.push(Cause {
            reason: "DisruptionBudget".into(),
            message: cause,
            field: String::new(),
        });
        Err(f)
    };
    if n("observedGeneration") < object::generation(budget) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return refuse(cause, 10);
    }
    let (allowed, wanted, have) =
        (n("disruptionsAllowed"), n("desiredHealthy"), n("currentHealthy"));
    match allowed {
        1.. => Ok(allowed),
        _ if have <= wanted => refuse(
            format!(
                "The disruption budget {name} needs {wanted} healthy pods and has {have} currently"
            ),
            0,
        ),
        _ => refuse(
            format!("The disruption budget {name} does not allow evicting pods currently"),
            0,
        ),
    }
}
