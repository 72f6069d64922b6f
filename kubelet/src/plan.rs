//! What to do next for one pod: a pure function of what is asked, what is observed and the time.
//!
//! [`plan`] never sees which event woke it. The same state gives the same plan; the state after the plan's
//! effects gives an empty one (tests hold both). The rules are those of Kubernetes' kubelet
//! (`computePodActions` and the pod lifecycle documentation); the caller performs the actions.

use crate::limits;
use crate::spec::{Container, Role};
use crate::state::{Hook, Needs, Phase, PodState, Run, Verdict, Waiting, mono_of};
use pintle_base::{Now, Time, Wall};
use std::time::Duration;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the sandbox of this attempt, with its network.
    CreateSandbox(u32),
    /// Remove a sandbox in which nothing runs.
    RemoveSandbox(String),
    /// Start a container: make its run and let it go.
    Start {
        /// Container name.
        container: String,
        /// Number of the run.
        attempt: u32,
        /// Back-off that the end of this run leads to.
        backoff: Duration,
    },
    /// A container waits out its back-off until then.
    BackOff {
        /// Container name.
        container: String,
        /// End of the pause.
        until: Time,
        /// Its length.
        pause: Duration,
    },
    /// Decide that a run must end.
    Kill {
        /// Id of the run.
        run: String,
        /// Message of the Killing event.
        message: String,
        /// Seconds between SIGTERM and SIGKILL.
        grace_seconds: i64,
    },
    /// Run a hook of a run.
    Hook {
        /// Id of the run.
        run: String,
        /// preStop, else postStart.
        pre_stop: bool,
    },
    /// Send SIGTERM (or the container's stop signal).
    Term(String),
    /// Send SIGKILL to all of it.
    SigKill(String),
    /// Remove an ended run and its log.
    RemoveRun(String),
    /// Remove the pod's folder and mounts.
    CleanUp,
    /// The pod as a whole has failed.
    Fail(Verdict),
}

/// The actions and when to look again though nothing happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// Earliest time at which the plan may differ with no event in between.
    pub wake: Option<Time>,
}

impl Plan {
    fn wake_at(&mut self, at: Time) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Plans for one pod. `network_ready`: sandboxes can get an address.
pub fn plan(s: &PodState, network_ready: bool, now: Now) -> Plan {
    let mut plan = Plan::default();
    if s.verdict.is_none()
        && !s.deleting()
        && finished(s).is_none()
        && let Some(verdict) = deadline_exceeded(s, now, &mut plan)
    {
        plan.actions.push(Action::Fail(verdict));
        return plan;
    }
    if s.deleting() || s.verdict.is_some() || finished(s).is_some() {
        stop(s, now, &mut plan);
    } else {
        restart_changed(s, &mut plan);
        run(s, network_ready, now, &mut plan);
        post_start(s, &mut plan);
        collect_ended(s, &mut plan);
    }
    carry_out_kills(s, now, &mut plan);
    plan
}

/// The phase in which the pod ends, when its containers (or the API server) say that it has ended.
pub fn finished(s: &PodState) -> Option<&'static str> {
    // What the API server shows as ended stays ended, whoever said so.
    match s.pod.status.get("phase").and_then(|p| p.as_str()) {
        Some("Succeeded") => return Some("Succeeded"),
        Some("Failed") => return Some("Failed"),
        _ => {}
    }
    if s.runs.is_empty() {
        return None;
    }
    for (role, c) in s.pod.all_containers().filter(|(r, _)| *r == Role::Init) {
        if let Some(run) = s.last_run(&c.name)
            && run.exited()
            && !run.succeeded()
            && !s.restarts(role, c, run)
        {
            return Some("Failed");
        }
    }
    let mut all_good = true;
    for c in &s.pod.spec.containers {
        let run = s.last_run(&c.name)?;
        if !run.exited() || s.restarts(Role::Main, c, run) {
            return None;
        }
        all_good &= run.succeeded();
    }
    Some(if all_good { "Succeeded" } else { "Failed" })
}

fn deadline_exceeded(s: &PodState, now: Now, plan: &mut Plan) -> Option<Verdict> {
    let seconds = s.pod.spec.active_deadline_seconds?;
    let start = s.start_time?;
    let end = start + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if now.wall >= end {
        return Some(Verdict {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
        });
    }
    plan.wake_at(now.mono + (end - now.wall));
    None
}

/// Grace of the pod's containers when the pod as a whole goes.
pub fn pod_grace_seconds(s: &PodState) -> i64 {
    let m = &s.pod.metadata;
    if !s.wanted {
        return m.deletion_grace_period_seconds.unwrap_or(limits::GRACE_SECONDS_MIN);
    }
    m.deletion_grace_period_seconds
        .filter(|_| m.deletion_timestamp.is_some())
        .or(s.pod.spec.termination_grace_period_seconds)
        .unwrap_or(limits::GRACE_SECONDS_DEFAULT)
}

/// Everything must end: containers, then sidecars from the last to the first, then the sandbox, then (when
/// the pod is being deleted) what it has on disk.
fn stop(s: &PodState, now: Now, plan: &mut Plan) {
    if s.any_alive() {
        kill_all(s, now, plan);
        return;
    }
    if s.busy {
        return;
    }
    // The terminal status is the only record of a finished pod's containers once its sandbox is gone.
    let may_remove = s.deleting() || s.terminal_reported;
    for id in &s.old_sandboxes {
        plan.actions.push(Action::RemoveSandbox(id.clone()));
    }
    if let Some(sandbox) = &s.sandbox
        && may_remove
    {
        plan.actions.push(Action::RemoveSandbox(sandbox.id.clone()));
    }
    if s.deleting() && !s.cleaned {
        plan.actions.push(Action::CleanUp);
    }
}

fn kill_all(s: &PodState, now: Now, plan: &mut Plan) {
    let grace = pod_grace_seconds(s);
    let left = match s.stopping_since {
        Some(since) => {
            let gone = i64::try_from((now.mono - since).as_secs()).unwrap_or(i64::MAX);
            grace.saturating_sub(gone)
        }
        None => grace,
    };
    let alive = |c: &Container| s.runs.iter().filter(|r| r.name == c.name).any(|r| !r.exited());
    let main_alive = s.pod.all_containers().any(|(role, c)| role != Role::Sidecar && alive(c));
    let last_sidecar = s
        .pod
        .all_containers()
        .filter(|(role, c)| *role == Role::Sidecar && alive(c))
        .map(|(_, c)| c.name.as_str())
        .last();
    for run in s.runs.iter().filter(|r| !r.exited() && r.kill.is_none()) {
        let role = s.pod.container(&run.name).map(|(role, _)| role);
        let its_turn = match role {
            Some(Role::Sidecar) => !main_alive && last_sidecar == Some(run.name.as_str()),
            Some(_) | None => true,
        };
        // At the end of the pod's grace nobody waits for anybody.
        if its_turn || left <= 0 {
            plan.actions.push(Action::Kill {
                run: run.id.clone(),
                message: format!("Stopping container {}", run.name),
                grace_seconds: left.max(if grace == 0 { 0 } else { limits::GRACE_SECONDS_MIN }),
            });
        }
    }
}

fn restart_changed(s: &PodState, plan: &mut Plan) {
    for run in s.runs.iter().filter(|r| r.phase == Phase::Running && r.kill.is_none()) {
        let Some((role, c)) = s.pod.container(&run.name) else { continue };
        let grace =
            s.pod.spec.termination_grace_period_seconds.unwrap_or(limits::GRACE_SECONDS_DEFAULT);
        if s.failed_hooks.contains(&run.id) {
            plan.actions.push(Action::Kill {
                run: run.id.clone(),
                message: format!("Container {} failed postStart hook", c.name),
                grace_seconds: grace,
            });
        } else if matches!(role, Role::Main | Role::Sidecar)
            && run.hash != crate::container::hash(c)
        {
            plan.actions.push(Action::Kill {
                run: run.id.clone(),
                message: format!("Container {} definition changed, will be restarted", c.name),
                grace_seconds: grace,
            });
        } else if let Some(kind) = s.probes.fatal(&run.id) {
            let probe = match kind {
                crate::probe::Kind::Startup => c.startup_probe.as_ref(),
                _ => c.liveness_probe.as_ref(),
            };
            plan.actions.push(Action::Kill {
                run: run.id.clone(),
                message: format!(
                    "Container {} failed {} probe, will be restarted",
                    c.name,
                    kind.as_str()
                ),
                grace_seconds: probe
                    .and_then(|p| p.termination_grace_period_seconds)
                    .unwrap_or(grace),
            });
        }
    }
}

fn run(s: &PodState, network_ready: bool, now: Now, plan: &mut Plan) {
    if s.busy {
        return;
    }
    for id in &s.old_sandboxes {
        plan.actions.push(Action::RemoveSandbox(id.clone()));
    }
    // A kubelet that died between making and starting a run left it waiting: it is made again.
    let abandoned = s.runs.iter().filter(|r| r.phase == Phase::Created && r.kill.is_none());
    let before = plan.actions.len();
    plan.actions.extend(abandoned.map(|r| Action::RemoveRun(r.id.clone())));
    if plan.actions.len() > before {
        return;
    }
    let fresh = match &s.sandbox {
        Some(sandbox) if sandbox.ready => false,
        Some(_) | None => true,
    };
    if fresh {
        if !network_ready && !s.pod.spec.host_network {
            return;
        }
        if let Some(at) = s.sandbox_retry.at.filter(|at| *at > now.mono) {
            plan.wake_at(at);
            return;
        }
        plan.actions.push(Action::CreateSandbox(s.sandbox_attempts));
    }
    if s.needs != Needs::Ready {
        return;
    }
    if let Some(at) = s.volume_retry.at.filter(|at| *at > now.mono) {
        plan.wake_at(at);
        return;
    }
    start_containers(s, fresh, now, plan);
}

/// The last run of a container in the present sandbox; none when that is yet to be made.
fn current_run<'a>(s: &'a PodState, fresh: bool, name: &str) -> Option<&'a Run> {
    let sandbox = s.sandbox.as_ref().filter(|_| !fresh)?;
    s.last_run(name).filter(|r| r.sandbox == sandbox.id)
}

fn start_containers(s: &PodState, fresh: bool, now: Now, plan: &mut Plan) {
    if !fresh {
        for c in &s.pod.spec.ephemeral_containers {
            if s.last_run(&c.name).is_none() {
                start(s, Role::Ephemeral, c, now, plan);
            }
        }
    }
    let begun = s.pod.spec.containers.iter().any(|c| current_run(s, fresh, &c.name).is_some());
    for (role, c) in s.pod.all_containers() {
        let run = current_run(s, fresh, &c.name);
        match (role, run) {
            (Role::Sidecar, Some(run)) if run.exited() => {
                start(s, role, c, now, plan);
                if !begun {
                    return;
                }
            }
            (Role::Sidecar, Some(run)) => {
                if !begun && !s.probes.started(c, run) {
                    return;
                }
            }
            (Role::Sidecar, None) => {
                start(s, role, c, now, plan);
                if !begun {
                    return;
                }
            }
            (Role::Init, _) if begun => {}
            (Role::Init, Some(run)) if run.succeeded() => {}
            (Role::Init, Some(run)) => {
                if run.exited() {
                    start(s, role, c, now, plan);
                }
                return;
            }
            (Role::Init, None) => {
                start(s, role, c, now, plan);
                return;
            }
            (Role::Main, None) => start_main(s, c, now, plan),
            (Role::Main, Some(run)) if run.exited() => start_main(s, c, now, plan),
            (Role::Main, Some(_)) | (Role::Ephemeral, _) => {}
        }
    }
}

fn start_main(s: &PodState, c: &Container, now: Now, plan: &mut Plan) {
    // A run of an earlier sandbox that the policy does not restart stays ended.
    let wanted = match s.last_run(&c.name) {
        Some(run) => s.restarts(Role::Main, c, run),
        None => true,
    };
    if wanted {
        start(s, Role::Main, c, now, plan);
    }
}

fn start(s: &PodState, _role: Role, c: &Container, now: Now, plan: &mut Plan) {
    let last = s.last_run(&c.name);
    if let Some(run) = last {
        let pause = pause_after(run);
        let until = mono_of(run.finished, now) + pause;
        if !pause.is_zero() && until > now.mono {
            plan.wake_at(until);
            let known = matches!(s.waiting.get(&c.name), Some(w) if w.reason == CRASH_LOOP
                && w.pause == pause);
            if !known {
                plan.actions.push(Action::BackOff { container: c.name.clone(), until, pause });
            }
            return;
        }
    }
    if let Some(Waiting { retry_at, reason, .. }) = s.waiting.get(&c.name)
        && reason != CRASH_LOOP
        && *retry_at > now.mono
    {
        plan.wake_at(*retry_at);
        return;
    }
    let backoff = match last.map(pause_after) {
        None => Duration::ZERO,
        Some(Duration::ZERO) => limits::CRASH_BACKOFF_FIRST,
        Some(pause) => (pause * 2).min(limits::CRASH_BACKOFF_MAX),
    };
    plan.actions.push(Action::Start {
        container: c.name.clone(),
        attempt: last.map_or(0, |r| r.attempt + 1),
        backoff,
    });
}

/// Reason of a container that waits out its back-off.
pub const CRASH_LOOP: &str = "CrashLoopBackOff";

/// The pause after the end of a run: what it was started with, nothing when it ran for long.
fn pause_after(run: &Run) -> Duration {
    if run.started != Wall(0) && run.finished - run.started > limits::CRASH_BACKOFF_RESET {
        Duration::ZERO
    } else {
        run.backoff
    }
}

fn post_start(s: &PodState, plan: &mut Plan) {
    for run in &s.runs {
        if run.phase == Phase::Running && run.post_start == Hook::Wanted && run.kill.is_none() {
            plan.actions.push(Action::Hook { run: run.id.clone(), pre_stop: false });
        }
    }
}

/// Ended runs beyond those that `logs --previous` and `lastState` need.
fn collect_ended(s: &PodState, plan: &mut Plan) {
    if s.busy {
        return;
    }
    for (_, c) in s.pod.all_containers() {
        let mut runs: Vec<&Run> = s.runs.iter().filter(|r| r.name == c.name).collect();
        runs.sort_by_key(|r| r.attempt);
        runs.pop();
        let surplus = runs.len().saturating_sub(limits::ENDED_RUNS_KEPT);
        for run in runs.into_iter().take(surplus).filter(|r| r.exited()) {
            plan.actions.push(Action::RemoveRun(run.id.clone()));
        }
    }
}

fn carry_out_kills(s: &PodState, now: Now, plan: &mut Plan) {
    for run in s.runs.iter().filter(|r| !r.exited()) {
        let Some(kill) = &run.kill else { continue };
        if kill.kill_sent {
            continue;
        }
        if now.mono >= kill.deadline {
            plan.actions.push(Action::SigKill(run.id.clone()));
            continue;
        }
        plan.wake_at(kill.deadline);
        match kill.pre_stop {
            Hook::Wanted => {
                plan.actions.push(Action::Hook { run: run.id.clone(), pre_stop: true });
            }
            Hook::Running => {}
            Hook::None | Hook::Done => {
                if !kill.term_sent {
                    plan.actions.push(Action::Term(run.id.clone()));
                }
            }
        }
    }
}
