//! Leader election by a Lease: at most one holder leads at a time.
//!
//! As in client-go: the time of another holder's renewal is taken when *we* see the record change, so clocks of
//! different machines are never compared; who can't renew stops leading before the others may begin.

use crate::limits::{LEASE_DURATION, LEASE_RENEW, LEASE_RENEW_DEADLINE};
use crate::requests::LEASES;
use crate::{ApiError, Outbox, Token};
use pintle_base::{Now, Time};
use serde_json::{Value, json};

/// One candidate. Pure: the daemon passes answers on and asks `leads`.
#[derive(Debug)]
pub struct Elector {
    namespace: String,
    name: String,
    identity: String,
    token: Token,
    /// The lease as last read, and when it was last seen to change.
    lease: Option<(Value, Time)>,
    /// When we last got the lease or renewed it (by the time at which the request was sent).
    renewed: Option<Time>,
    /// When the request under way was sent, and whether it claims the lease.
    under_way: Option<(Time, bool)>,
    next: Time,
}

impl Elector {
    /// A candidate for the lease `namespace/name`; its requests carry `token`.
    pub fn new(namespace: &str, name: &str, identity: &str, token: Token) -> Elector {
        Elector {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            token,
            lease: None,
            renewed: None,
            under_way: None,
            next: Time(0),
        }
    }

    /// This candidate leads now.
    pub fn leads(&self, now: Time) -> bool {
        self.renewed.is_some_and(|at| now < at + LEASE_RENEW_DEADLINE)
    }

    /// Sends what is to be sent. Call in each turn.
    pub fn turn(&mut self, now: Now, out: &mut Outbox) {
        if self.under_way.is_some() || now.mono < self.next {
            return;
        }
        let (claims, request) = match &self.lease {
            None => (false, LEASES.get(&self.namespace, &self.name)),
            Some((lease, _)) if lease.is_null() => {
                let mut lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": self.namespace},
                });
                self.claim(&mut lease, now);
                (true, LEASES.create(&self.namespace, &lease))
            }
            Some((lease, seen)) => {
                let mine = lease["spec"]["holderIdentity"] == json!(self.identity);
                if !mine && !free(lease) && now.mono < *seen + LEASE_DURATION {
                    // Look again when it could have run out.
                    (false, LEASES.get(&self.namespace, &self.name))
                } else {
                    let mut lease = lease.clone();
                    self.claim(&mut lease, now);
                    (true, LEASES.update(&self.namespace, &self.name, &lease))
                }
            }
        };
        self.under_way = Some((now.mono, claims));
        out.send(self.token, request);
    }

    /// The answer to one of our requests.
    pub fn handle_reply(&mut self, result: Result<Value, ApiError>, now: Now) {
        let Some((sent, claimed)) = self.under_way.take() else { return };
        match result {
            Ok(lease) => {
                let mine = lease["spec"]["holderIdentity"] == json!(self.identity);
                let changed =
                    self.lease.as_ref().is_none_or(|(known, _)| known["spec"] != lease["spec"]);
                // A holder that has just been seen for the first time gets its whole duration.
                let seen = match &self.lease {
                    Some((_, seen)) if !changed => *seen,
                    _ => now.mono,
                };
                // A record that was only read may name us and yet be old: it must be renewed to count.
                let wrote = mine && claimed;
                self.next = if wrote {
                    now.mono + LEASE_RENEW
                } else if mine || free(&lease) {
                    now.mono
                } else {
                    (seen + LEASE_DURATION).max(now.mono + LEASE_RENEW)
                };
                if wrote {
                    self.renewed = Some(sent);
                } else if !mine {
                    self.renewed = None;
                }
                self.lease = Some((lease, seen));
            }
            Err(error) if error.is("NotFound") => {
                self.lease = Some((Value::Null, now.mono));
                self.renewed = None;
                self.next = now.mono;
            }
            Err(error) => {
                // Conflict and AlreadyExists: somebody was faster. Read again.
                let raced = error.is("Conflict") || error.is("AlreadyExists");
                if raced {
                    self.lease = None;
                }
                self.next = now.mono + if raced { LEASE_RENEW / 5 } else { LEASE_RENEW / 2 };
            }
        }
    }

    /// When `turn` wants to be called, or `leads` changes by itself.
    pub fn poll_timeout(&self) -> Option<Time> {
        let ends = self.renewed.map(|at| at + LEASE_RENEW_DEADLINE);
        let next = self.under_way.is_none().then_some(self.next);
        ends.into_iter().chain(next).min()
    }

    /// A request that gives the lease back, so that the next leader need not wait: for a clean exit.
    pub fn release(&mut self, now: Now, out: &mut Outbox) {
        if !self.leads(now.mono) {
            return;
        }
        self.renewed = None;
        if let Some((lease, _)) = &self.lease {
            let mut lease = lease.clone();
            lease["spec"]["holderIdentity"] = json!("");
            lease["spec"]["leaseDurationSeconds"] = json!(1);
            out.send(self.token, LEASES.update(&self.namespace, &self.name, &lease));
        }
    }

    fn claim(&self, lease: &mut Value, now: Now) {
        let time = json!(now.wall.rfc3339_micro());
        let spec = &mut lease["spec"];
        if spec["holderIdentity"] != json!(self.identity) {
            let transitions = spec["leaseTransitions"].as_u64().map_or(0, |n| n + 1);
            spec["leaseTransitions"] = json!(transitions);
            spec["acquireTime"] = time.clone();
            spec["holderIdentity"] = json!(self.identity);
        }
        spec["leaseDurationSeconds"] = json!(LEASE_DURATION.as_secs());
        spec["renewTime"] = time;
    }
}

/// Nobody holds it.
fn free(lease: &Value) -> bool {
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::{Prng, Wall};
    use pintle_wire::msg::api::{Request, Verb};

    /// An API server that knows one lease.
    fn serve(stored: &mut Value, revision: &mut u64, request: &Request) -> Result<Value, ApiError> {
        let fail = |code, reason: &str| {
            Err(ApiError::Status { code, reason: reason.into(), message: String::new() })
        };
        let sent = || serde_json::from_slice::<Value>(&request.body).expect("JSON");
        let mut new = match request.verb {
            Verb::Get if stored.is_null() => return fail(404, "NotFound"),
            Verb::Get => return Ok(stored.clone()),
            Verb::Create if !stored.is_null() => return fail(409, "AlreadyExists"),
            Verb::Create => sent(),
            Verb::Update => {
                let new = sent();
                if new["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"] {
                    return fail(409, "Conflict");
                }
                new
            }
            other => panic!("{other:?}"),
        };
        *revision += 1;
        new["metadata"]["resourceVersion"] = json!(revision.to_string());
        *stored = new;
        Ok(stored.clone())
    }

    #[test]
    fn never_two_leaders_and_always_one_in_the_end() {
        for seed in 0..200 {
            let mut p = Prng::new(seed);
            let mut all: Vec<Elector> =
                (0..3).map(|i| Elector::new("kube-system", "x", &format!("c{i}"), 7)).collect();
            let (mut stored, mut revision) = (Value::Null, 0);
            let mut cut = [false; 3];
            // Answers under way, by candidate.
            let mut answers: Vec<(u64, usize, Result<Value, ApiError>)> = Vec::new();
            let mut led = 0;
            for ms in (0..400_000u64).step_by(100) {
                let now = Now { mono: Time(ms * 1_000_000), wall: Wall(ms as i64 * 1_000_000) };
                if ms % 20_000 == 0 {
                    cut = [p.chance(1, 3), p.chance(1, 3), ms > 200_000 && p.chance(1, 3)];
                }
                if ms > 300_000 {
                    cut = [false; 3];
                }
                for (at, i, result) in std::mem::take(&mut answers) {
                    if at <= ms {
                        all[i].handle_reply(result, now);
                    } else {
                        answers.push((at, i, result));
                    }
                }
                for i in 0..3 {
                    let mut out = Outbox::default();
                    all[i].turn(now, &mut out);
                    for (_, request) in out.requests {
                        let result = if cut[i] {
                            Err(ApiError::Disconnected)
                        } else {
                            serve(&mut stored, &mut revision, &request)
                        };
                        // The answer may be lost though it was carried out.
                        let lost = ms < 300_000 && p.chance(1, 20);
                        let result = if lost { Err(ApiError::Disconnected) } else { result };
                        answers.push((ms + p.below(1_000), i, result));
                    }
                }
                let leaders = all.iter().filter(|e| e.leads(now.mono)).count();
                assert!(leaders <= 1, "seed {seed}: {leaders} leaders at {ms} ms");
                led += leaders;
            }
            let end = Time(400_000 * 1_000_000);
            assert!(all.iter().any(|e| e.leads(end)), "seed {seed}: nobody leads");
            assert!(led > 1000, "seed {seed}: led {led} of 4000");
        }
    }

    #[test]
    fn a_released_lease_is_taken_without_waiting_for_it_to_run_out() {
        let now = |s: u64| Now { mono: Time(s * 1_000_000_000), wall: Wall::from_unix_s(s as i64) };
        let (mut a, mut b) = (Elector::new("n", "x", "a", 1), Elector::new("n", "x", "b", 1));
        let (mut stored, mut revision) = (Value::Null, 0);
        let mut step = |e: &mut Elector, at: Now, release: bool| {
            let mut out = Outbox::default();
            if release {
                e.release(at, &mut out);
            } else {
                e.turn(at, &mut out);
            }
            for (_, request) in out.requests {
                let result = serve(&mut stored, &mut revision, &request);
                e.handle_reply(result, at);
            }
        };
        for _ in 0..3 {
            step(&mut a, now(0), false);
        }
        step(&mut b, now(0), false);
        assert!(a.leads(now(1).mono) && !b.leads(now(1).mono));
        step(&mut a, now(1), true);
        assert!(!a.leads(now(1).mono));
        // Its next look meets the change, the one after that takes it.
        step(&mut b, now(LEASE_DURATION.as_secs()), false);
        let at = now(LEASE_DURATION.as_secs() + 1);
        step(&mut b, at, false);
        step(&mut b, at, false);
        assert!(b.leads(at.mono), "{b:?}");
    }
}
