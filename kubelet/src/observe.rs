//! What results of jobs and reports of shims change.

use crate::core::Kubelet;
use crate::event::{About, Kind};
use crate::limits;
use crate::pods::{CONFIG_ERROR, unhealthy};
use crate::probe::Change;
use crate::spec::Role;
use crate::state::{Hook, Phase, PodState, label};
use crate::work::{Done, Outcome, StartResult, StepResult, Ticket, What};
use pintle_base::{Now, log};
use pintle_runtime::sandbox as rt;

impl Kubelet {
    /// A job was done.
    pub fn done(&mut self, done: Done, now: Now) {
        match done {
            Done::Pod { uid, results } => {
                let Some(mut s) = self.pods.remove(&uid) else { return };
                s.busy = false;
                s.dirty = true;
                for result in results {
                    self.step_done(&mut s, result, now);
                }
                self.pods.insert(uid, s);
            }
            Done::Check { ticket, outcome } => self.check_done(&ticket, &outcome, now),
            Done::Network(result) => {
                self.network.asked = false;
                match result {
                    Ok(()) => {
                        self.network.bridge_up = true;
                        self.network.retry_at = None;
                        self.node.set_network_ready(true);
                        self.pods.values_mut().for_each(|s| s.dirty = true);
                    }
                    Err(why) => {
                        log::error("pod network is not up", &[("reason", &why)]);
                        self.network.retry_at = Some(now.mono + limits::RETRY_FIRST * 5);
                    }
                }
            }
            Done::Images(images) => self.node.set_images(images),
        }
    }

    fn step_done(&mut self, s: &mut PodState, result: StepResult, now: Now) {
        match result {
            StepResult::SandboxRemoved { id, result: Ok(()) } => self.sandbox_removed(s, &id),
            StepResult::SandboxRemoved { id, result: Err(why) } => {
                log::warn("sandbox was not removed", &[("sandbox", &id), ("reason", &why)]);
                // It stays among those that must go; the next try is the pod's next turn.
                if !s.old_sandboxes.contains(&id) {
                    if s.sandbox.as_ref().is_some_and(|b| b.id == id) {
                        s.sandbox = None;
                    }
                    s.old_sandboxes.push(id);
                }
                s.dirty = false;
                self.wakes.insert(s.pod.metadata.uid.clone(), now.mono + limits::RETRY_FIRST);
            }
            StepResult::Sandbox { id, result: Ok(state) } => {
                s.sandbox_retry.succeeded();
                if let Some(b) = s.sandbox.as_mut().filter(|b| b.id == id) {
                    b.ready = state.shim_pid != 0;
                    b.netns = state.netns.clone();
                }
            }
            StepResult::Sandbox { id, result: Err(why) } => {
                // What was made of it is removed with the next try.
                s.sandbox = None;
                s.old_sandboxes.push(id);
                let message = format!("Failed to create pod sandbox: {why}");
                self.sandbox_failed(s, message, now);
            }
            StepResult::Volumes(Ok(())) => s.volume_retry.succeeded(),
            StepResult::Volumes(Err(message)) => self.volumes_failed(s, message, now),
            StepResult::Started { name, attempt, result } => {
                self.started(s, &name, attempt, result, now);
            }
            StepResult::RunRemoved { run } => s.runs.retain(|r| r.id != run),
            StepResult::CleanedUp(Ok(())) => s.cleaned = true,
            StepResult::CleanedUp(Err(why)) => {
                log::warn("pod folder was not removed", &[("pod", &s.pod.key()), ("reason", &why)]);
                s.dirty = false;
                self.wakes.insert(s.pod.metadata.uid.clone(), now.mono + limits::RETRY_FIRST);
            }
        }
    }

    fn sandbox_removed(&mut self, s: &mut PodState, id: &str) {
        s.old_sandboxes.retain(|o| o != id);
        if s.sandbox.as_ref().is_some_and(|b| b.id == id) {
            s.sandbox = None;
        }
        let freed: Vec<_> = self
            .network
            .owners
            .iter()
            .filter(|(_, owner)| *owner == id)
            .map(|(ip, _)| *ip)
            .collect();
        for ip in freed {
            self.network.owners.remove(&ip);
            if let Some(ipam) = &mut self.network.ipam {
                ipam.release(ip);
            }
        }
        // Runs of it that nobody reported as ended are.
        for run in s.runs.iter_mut().filter(|r| r.sandbox == id && !r.exited()) {
            run.phase = Phase::Exited { code: 137, signal: 9, oom_killed: false };
        }
    }

    fn started(
        &mut self,
        s: &mut PodState,
        name: &str,
        attempt: u32,
        result: StartResult,
        now: Now,
    ) {
        let Some((role, c)) = s.pod.container(name) else { return };
        let (image, has_hook) = (c.image.clone(), c.lifecycle.post_start.is_some());
        let never = c.image_pull_policy == "Never";
        let sandbox = s.sandbox.as_ref().map(|b| b.id.clone()).unwrap_or_default();
        let about = About::pod(&s.pod.metadata, Some((role, name)));
        match result {
            StartResult::Running(state) => {
                s.waiting.remove(name);
                let pulled = format!("Container image \"{image}\" already present on machine");
                self.event(&about, Kind::Normal, "Pulled", &pulled, now);
                self.event(
                    &about,
                    Kind::Normal,
                    "Created",
                    &format!("Created container: {name}"),
                    now,
                );
                self.event(
                    &about,
                    Kind::Normal,
                    "Started",
                    &format!("Started container {name}"),
                    now,
                );
                s.observe(&sandbox, &state, now);
                if let Some(run) = s.run_mut(&state.id)
                    && has_hook
                    && run.phase == Phase::Running
                {
                    run.post_start = Hook::Wanted;
                }
            }
            StartResult::NoImage(why) => self.no_image(s, name, &image, never, &why, now),
            StartResult::NotCreated(reason, message) => {
                let message = if reason == CONFIG_ERROR && message.contains("root") {
                    format!(
                        "container has runAsNonRoot and image will run as root (pod: \"{}\", container: {name})",
                        s.pod.long_name()
                    )
                } else {
                    message
                };
                self.not_started(s, name, reason, &message, now);
            }
            StartResult::NotStarted(mut state, why) => {
                s.waiting.remove(name);
                self.event(
                    &about,
                    Kind::Normal,
                    "Created",
                    &format!("Created container: {name}"),
                    now,
                );
                self.event(&about, Kind::Warning, "Failed", &format!("Error: {why}"), now);
                if !matches!(state.status, rt::ContainerStatus::Exited { .. }) {
                    state.status =
                        rt::ContainerStatus::Exited { code: 128, signal: 0, oom_killed: false };
                    state.finished_ns = now.wall.0;
                }
                state.labels.entry(label::ATTEMPT.into()).or_insert_with(|| attempt.to_string());
                s.observe(&sandbox, &state, now);
                if let Some(run) = s.run_mut(&state.id) {
                    run.phase = Phase::Exited { code: 128, signal: 0, oom_killed: false };
                    run.reason = Some("StartError".into());
                    run.message = why;
                }
            }
        }
    }

    fn no_image(
        &mut self,
        s: &mut PodState,
        name: &str,
        image: &str,
        never: bool,
        why: &str,
        now: Now,
    ) {
        if never {
            let message =
                format!("Container image \"{image}\" is not present with pull policy of Never");
            return self.not_started(s, name, "ErrImageNeverPull", &message, now);
        }
        let role = s.pod.container(name).map_or(Role::Main, |(role, _)| role);
        let about = About::pod(&s.pod.metadata, Some((role, name)));
        let again = s.waiting.get(name).is_some_and(|w| w.reason.contains("Image"));
        if again {
            let message = format!("Back-off pulling image \"{image}\"");
            self.event(&about, Kind::Normal, "BackOff", &message, now);
            return self.not_started(s, name, "ImagePullBackOff", &message, now);
        }
        // Pulling from registries comes later: the runtime's text says how to import.
        let message = format!("Failed to pull image \"{image}\": {why}");
        self.event(&about, Kind::Warning, "Failed", &message, now);
        self.not_started(s, name, "ErrImagePull", &message, now);
    }

    fn check_done(&mut self, ticket: &Ticket, outcome: &Outcome, now: Now) {
        let Some(mut s) = self.pods.remove(&ticket.uid) else { return };
        match ticket.what {
            What::Probe(kind) => self.probe_done(&mut s, ticket, kind, outcome, now),
            What::PostStart | What::PreStop => self.hook_done(&mut s, ticket, outcome, now),
        }
        self.pods.insert(ticket.uid.clone(), s);
    }

    fn probe_done(
        &mut self,
        s: &mut PodState,
        ticket: &Ticket,
        kind: crate::probe::Kind,
        outcome: &Outcome,
        now: Now,
    ) {
        let Some(name) = s.run(&ticket.run).map(|r| r.name.clone()) else { return };
        let Some((role, c)) = s.pod.container(&name) else { return };
        let about = About::pod(&s.pod.metadata, Some((role, &name)));
        let change = s.probes.finished(c, &ticket.run, kind, outcome.success, now.mono);
        if !outcome.success && !s.run(&ticket.run).is_none_or(|r| r.exited()) {
            let message = unhealthy(kind, &outcome.message);
            self.event(&about, Kind::Warning, "Unhealthy", &message, now);
        }
        if change == Change::Changed {
            s.dirty = true;
        }
        // The next one is due at a time that `wakes` does not know yet.
        let next = s.probes.next_due(&s.pod, &s.runs);
        if let Some(at) = next {
            let wake = self.wakes.entry(ticket.uid.clone()).or_insert(at);
            *wake = (*wake).min(at);
        }
    }

    fn hook_done(&mut self, s: &mut PodState, ticket: &Ticket, outcome: &Outcome, now: Now) {
        s.dirty = true;
        let pre_stop = ticket.what == What::PreStop;
        let Some(run) = s.run_mut(&ticket.run) else { return };
        let (name, alive) = (run.name.clone(), !run.exited());
        if pre_stop {
            run.kill.iter_mut().for_each(|k| k.pre_stop = Hook::Done);
        } else {
            run.post_start = Hook::Done;
        }
        if outcome.success || !alive {
            return;
        }
        let role = s.pod.container(&name).map_or(Role::Main, |(role, _)| role);
        let about = About::pod(&s.pod.metadata, Some((role, &name)));
        let reason = if pre_stop { "FailedPreStopHook" } else { "FailedPostStartHook" };
        let title = if pre_stop { "PreStopHook" } else { "PostStartHook" };
        let message = format!("{title} failed: {}", outcome.message);
        self.event(&about, Kind::Warning, reason, &message, now);
        if !pre_stop {
            s.failed_hooks.push(ticket.run.clone());
        }
    }

    /// A shim reports a container that ended. `message`: its termination message, read by the shell.
    pub fn container_exited(
        &mut self,
        sandbox: &str,
        state: &rt::ContainerState,
        message: String,
        now: Now,
    ) {
        let Some(uid) = state.labels.get(label::POD_UID) else { return };
        let Some(s) = self.pods.get_mut(uid) else { return };
        if s.observe(sandbox, state, now) {
            if let Some(run) = s.run_mut(&state.id) {
                run.message = message;
            }
            s.dirty = true;
        }
    }

    /// A shim is dead: nothing of its sandbox runs any more.
    pub fn sandbox_lost(&mut self, sandbox: &str, now: Now) {
        for s in self.pods.values_mut() {
            let Some(b) = s.sandbox.as_mut().filter(|b| b.id == sandbox && b.ready) else {
                continue;
            };
            log::warn("sandbox lost its shim", &[("sandbox", &sandbox)]);
            b.ready = false;
            s.dirty = true;
            for run in s.runs.iter_mut().filter(|r| r.sandbox == sandbox && !r.exited()) {
                run.phase = Phase::Exited { code: 137, signal: 9, oom_killed: false };
                run.finished = now.wall;
            }
        }
    }

    /// The termination file and policy of a run, for the shell to read when it ends.
    pub fn termination_of(&self, state: &rt::ContainerState) -> Option<Termination> {
        let uid = state.labels.get(label::POD_UID)?;
        let name = state.labels.get(label::CONTAINER_NAME)?;
        let attempt = state.labels.get(label::ATTEMPT)?.parse().ok()?;
        let layout = &self.config.layout;
        let c = self.pods.get(uid).and_then(|s| s.pod.container(name)).map(|(_, c)| c);
        let failed = !matches!(state.status, rt::ContainerStatus::Exited { code: 0, .. });
        Some(Termination {
            file: layout.termination(uid, name, attempt),
            log: c
                .filter(|c| failed && c.termination_message_policy == "FallbackToLogsOnError")
                .map(|_| layout.log(uid, name, attempt)),
        })
    }
}

/// Where a termination message may be.
#[derive(Clone, Debug)]
pub struct Termination {
    /// The file.
    pub file: std::path::PathBuf,
    /// The log whose end stands in when the file is empty.
    pub log: Option<std::path::PathBuf>,
}
