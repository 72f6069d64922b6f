//! One pod's turn: plan, apply the plan's decisions, hand out jobs, report the status.

use crate::container::{self, Context};
use crate::core::{Kubelet, Purpose, SERVICES};
use crate::env;
use crate::event::{About, Kind};
use crate::limits;
use crate::plan::{self, Action};
use crate::probe;
use crate::refs;
use crate::spec::{Container, Handler, Probe, Role, port_number};
use crate::state::{Hook, Kill, Needs, Phase, PodState, Run, Waiting};
use crate::status;
use crate::volume;
use crate::work::{Check, Job, Step, Ticket, What};
use pintle_base::{Now, log};
use pintle_client::{Caches, Outbox};
use pintle_runtime::net;
use pintle_wire::msg::api::{PatchType, Request, Verb};
use std::net::IpAddr;
use std::time::Duration;

/// Plans in a row for one pod in one turn; each follows from the decisions of the one before.
const ROUNDS_MAX: usize = 8;

impl Kubelet {
    /// Decides for one pod until nothing is left to decide, then reports.
    pub(crate) fn work(&mut self, uid: &str, caches: &Caches, now: Now, out: &mut Outbox) {
        // Taken out so that the pod and the kubelet can both be changed; put back below.
        let Some(mut s) = self.pods.remove(uid) else { return };
        s.dirty = false;
        self.update_needs(&mut s, now);
        let mut wake = None;
        let mut steps = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let plan = plan::plan(&s, self.network.bridge_up, now);
            wake = plan.wake;
            if plan.actions.is_empty() {
                break;
            }
            for action in plan.actions {
                self.apply(&mut s, action, caches, now, &mut steps);
            }
            if !steps.is_empty() {
                s.busy = true;
            }
        }
        self.refresh_volumes(&mut s, now, &mut steps);
        if !steps.is_empty() {
            s.busy = true;
            self.jobs.push(Job::Pod { uid: uid.to_string(), steps });
        }
        let probes_due = self.probe_turn(&mut s, now);
        self.report(uid, &mut s, now, out);
        let done = self.finish_deletion(&mut s, now, out);
        match wake.into_iter().chain(probes_due).min() {
            Some(at) => self.wakes.insert(uid.to_string(), at),
            None => self.wakes.remove(uid),
        };
        self.pods.insert(uid.to_string(), s);
        if done {
            self.forget_pod(uid);
        }
    }

    fn update_needs(&mut self, s: &mut PodState, now: Now) {
        let volumes = refs::of_volumes(&s.pod);
        let missing = volumes.iter().find_map(|(key, optional, volume)| match self.refs.get(key) {
            Some(Err(why)) if !optional => Some(format!(
                "MountVolume.SetUp failed for volume {volume:?} : {} {why}",
                key.describe()
            )),
            _ => None,
        });
        let mut all = refs::of_pod(&s.pod);
        let bound = refs::bound_volumes(&s.pod, &self.refs);
        for key in &bound {
            self.refs.want(key.clone(), now.mono);
            self.users.entry(key.clone()).or_default().insert(s.pod.metadata.uid.clone());
        }
        all.extend(bound);
        s.needs = match missing {
            Some(message) => Needs::MissingForVolume(message),
            None if all.iter().all(|key| self.refs.get(key).is_some()) => Needs::Ready,
            None => Needs::Asked,
        };
    }

    fn apply(
        &mut self,
        s: &mut PodState,
        action: Action,
        caches: &Caches,
        now: Now,
        steps: &mut Vec<Step>,
    ) {
        match action {
            Action::CreateSandbox(attempt) => self.create_sandbox(s, attempt, now, steps),
            Action::RemoveSandbox(id) => {
                // From here on its shim ends because it is told to.
                s.sandbox.iter_mut().filter(|b| b.id == id).for_each(|b| b.ready = false);
                steps.push(Step::RemoveSandbox { id });
            }
            Action::Start { container, attempt, backoff } => {
                self.start(s, &container, attempt, backoff, caches, now, steps);
            }
            Action::BackOff { container, until, pause } => {
                self.back_off(s, &container, until, pause, now);
            }
            Action::Kill { run, message, grace_seconds } => {
                self.kill(s, &run, message, grace_seconds, now);
            }
            Action::Hook { run, pre_stop } => self.hook(s, &run, pre_stop, now),
            Action::Term(run) => {
                let signal = stop_signal(s, &run);
                if let Some(r) = s.run_mut(&run) {
                    r.kill.iter_mut().for_each(|k| k.term_sent = true);
                    let sandbox = r.sandbox.clone();
                    self.jobs.push(Job::Signal { sandbox, run, signal, all: false });
                }
            }
            Action::SigKill(run) => {
                if let Some(r) = s.run_mut(&run) {
                    r.kill.iter_mut().for_each(|k| k.kill_sent = true);
                    let sandbox = r.sandbox.clone();
                    self.jobs.push(Job::Signal { sandbox, run, signal: SIGKILL, all: true });
                }
            }
            Action::RemoveRun(run) => {
                let layout = &self.config.layout;
                let uid = &s.pod.metadata.uid;
                if let Some(r) = s.run(&run) {
                    let files = vec![
                        layout.log(uid, &r.name, r.attempt),
                        layout.termination(uid, &r.name, r.attempt),
                    ];
                    steps.push(Step::RemoveRun { sandbox: r.sandbox.clone(), run, files });
                }
            }
            Action::CleanUp => {
                let layout = &self.config.layout;
                let uid = &s.pod.metadata.uid;
                let folders = vec![layout.secret(uid), layout.pod(uid)];
                steps.push(Step::CleanUp { folders });
            }
            Action::Fail(verdict) => {
                let about = About::pod(&s.pod.metadata, None);
                self.event(&about, Kind::Normal, &verdict.reason, &verdict.message, now);
                s.verdict = Some(verdict);
                s.stopping_since = Some(now.mono);
            }
        }
    }

    fn create_sandbox(&mut self, s: &mut PodState, attempt: u32, now: Now, steps: &mut Vec<Step>) {
        let id = container::sandbox_id(&s.pod.metadata.uid, attempt);
        let host = s.pod.spec.host_network;
        let mut port = None;
        let mut ip = None;
        if !host {
            let Some(ipam) = &mut self.network.ipam else { return };
            let Some(address) = ipam.allocate() else {
                let message = format!(
                    "Failed to create pod sandbox: no free address in {} ({} in use)",
                    self.network.cidr,
                    ipam.in_use()
                );
                return self.sandbox_failed(s, message, now);
            };
            ip = Some(address);
            port = Some(Box::new(net::Port {
                bridge: self.config.bridge.clone(),
                host_name: container::port_name(&id),
                inner_name: "eth0".into(),
                netns: Default::default(),
                address: (address, ipam.prefix()),
                gateway: ipam.gateway(),
                mtu: self.config.mtu,
                hairpin: true,
            }));
            self.network.owners.insert(address, id.clone());
        }
        let config = Box::new(container::sandbox_config(s, attempt, ip));
        // The old one must go first when it is dead: its cgroup has the same name.
        if let Some(old) = s.sandbox.take() {
            steps.push(Step::RemoveSandbox { id: old.id });
        }
        s.sandbox_attempts = attempt + 1;
        s.waiting.clear();
        s.cleaned = false;
        s.sandbox = Some(crate::state::Sandbox {
            id,
            attempt,
            ready: true,
            ip: ip.or(self.config.node_ip),
            netns: Default::default(),
            created: now.wall,
        });
        steps.push(Step::Sandbox { config, port });
    }

    pub(crate) fn sandbox_failed(&mut self, s: &mut PodState, message: String, now: Now) {
        let about = About::pod(&s.pod.metadata, None);
        self.event(&about, Kind::Warning, "FailedCreatePodSandBox", &message, now);
        s.sandbox_retry.failed(message, now.mono, limits::RETRY_FIRST, limits::RETRY_MAX);
        s.dirty = true;
    }

    /// Volumes and pod files as one step; the event is recorded when they cannot be made yet.
    fn volumes_step(&mut self, s: &mut PodState, now: Now) -> Option<Step> {
        let ip = s.sandbox.as_ref().and_then(|b| b.ip);
        let facts = self.facts(ip);
        match volume::build(&s.pod, &self.config.layout, &facts, &self.refs) {
            Ok(volumes) => {
                let layout = &self.config.layout;
                let mut files = container::pod_files(s, ip, layout, &self.config.dns);
                // Should the API server lose the pod while this kubelet is down, its end is still orderly.
                let copy = layout.pod(&s.pod.metadata.uid).join("pod.json");
                files.extend(s.object.as_ref().map(|o| (copy, o.to_string())));
                s.volumes_ready = true;
                s.cleaned = false;
                Some(Step::Volumes { volumes, files })
            }
            Err(message) => {
                self.volumes_failed(s, message, now);
                None
            }
        }
    }

    pub(crate) fn volumes_failed(&mut self, s: &mut PodState, message: String, now: Now) {
        let about = About::pod(&s.pod.metadata, None);
        self.event(&about, Kind::Warning, "FailedMount", &message, now);
        s.volumes_ready = false;
        s.volume_retry.failed(message, now.mono, limits::RETRY_FIRST, limits::RETRY_MAX);
        s.dirty = true;
    }

    /// Brings volumes of running containers up to date after what they show has changed; tells of what is
    /// missing.
    fn refresh_volumes(&mut self, s: &mut PodState, now: Now, steps: &mut Vec<Step>) {
        if let Needs::MissingForVolume(message) = &s.needs
            && !s.volumes_ready
            && s.volume_retry.message != *message
            && !s.deleting()
        {
            let message = message.clone();
            let about = About::pod(&s.pod.metadata, None);
            self.event(&about, Kind::Warning, "FailedMount", &message, now);
            s.volume_retry.message = message;
        }
        let wanted = !s.volumes_ready
            && s.needs == Needs::Ready
            && !s.busy
            && !s.deleting()
            && s.any_alive()
            && s.volume_retry.due(now.mono);
        if wanted {
            steps.extend(self.volumes_step(s, now));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one action's fields and the turn's context")]
    fn start(
        &mut self,
        s: &mut PodState,
        name: &str,
        attempt: u32,
        backoff: Duration,
        caches: &Caches,
        now: Now,
        steps: &mut Vec<Step>,
    ) {
        if !s.volumes_ready {
            match self.volumes_step(s, now) {
                Some(step) => steps.push(step),
                None => return,
            }
        }
        let facts = self.facts(s.sandbox.as_ref().and_then(|b| b.ip));
        let namespace = s.pod.metadata.namespace.as_str();
        let own = caches.list_namespace(SERVICES, namespace).map(|(_, o)| &*o.value);
        let master = caches.get(SERVICES, "default/kubernetes").filter(|_| namespace != "default");
        let services = own.chain(master.map(|o| &*o.value));
        let services = env::service_variables(&s.pod, services);
        let Some((role, c)) = s.pod.container(name) else { return };
        let built =
            volume::build(&s.pod, &self.config.layout, &facts, &self.refs).and_then(|volumes| {
                let cx = Context {
                    layout: &self.config.layout,
                    facts: &facts,
                    services: &services,
                    refs: &self.refs,
                    volumes: &volumes,
                };
                container::start_spec(s, (role, c), attempt, backoff, &cx)
            });
        match built {
            Ok(spec) => {
                // It stays in CrashLoopBackOff's or an error's waiting state until it runs.
                steps.push(Step::Start(Box::new(spec)));
            }
            Err(message) => self.not_started(s, name, CONFIG_ERROR, &message, now),
        }
    }

    /// Remembers that a container could not be started, and tells.
    pub(crate) fn not_started(
        &mut self,
        s: &mut PodState,
        name: &str,
        reason: &str,
        message: &str,
        now: Now,
    ) {
        let role = s.pod.container(name).map_or(Role::Main, |(role, _)| role);
        let about = About::pod(&s.pod.metadata, Some((role, name)));
        self.event(&about, Kind::Warning, "Failed", &format!("Error: {message}"), now);
        let image = reason.contains("Image");
        let (first, max) = if image {
            (limits::IMAGE_BACKOFF_FIRST, limits::IMAGE_BACKOFF_MAX)
        } else {
            (limits::RETRY_FIRST, limits::RETRY_MAX)
        };
        let before = s.waiting.get(name).filter(|w| w.reason != plan::CRASH_LOOP).map(|w| w.pause);
        let pause = before.map_or(first, |p| (p * 2).min(max));
        let waiting = Waiting {
            reason: reason.into(),
            message: message.into(),
            retry_at: now.mono + pause,
            pause,
        };
        s.waiting.insert(name.into(), waiting);
        s.dirty = true;
    }

    fn back_off(
        &mut self,
        s: &mut PodState,
        name: &str,
        until: pintle_base::Time,
        pause: Duration,
        now: Now,
    ) {
        let role = s.pod.container(name).map_or(Role::Main, |(role, _)| role);
        let about = About::pod(&s.pod.metadata, Some((role, name)));
        let long = s.pod.long_name();
        let message = format!("Back-off restarting failed container {name} in pod {long}");
        self.event(&about, Kind::Warning, "BackOff", &message, now);
        let message = format!(
            "back-off {} restarting failed container={name} pod={long}",
            go_duration(pause)
        );
        let reason = plan::CRASH_LOOP.to_string();
        s.waiting.insert(name.into(), Waiting { reason, message, retry_at: until, pause });
    }

    fn kill(&mut self, s: &mut PodState, run: &str, message: String, grace_seconds: i64, now: Now) {
        if s.deleting() || s.verdict.is_some() {
            s.stopping_since.get_or_insert(now.mono);
        }
        let Some(name) = s.run(run).map(|r| r.name.clone()) else { return };
        let hook = s.pod.container(&name).and_then(|(_, c)| c.lifecycle.pre_stop.as_ref());
        let pre_stop = if hook.is_some() && grace_seconds > 0 { Hook::Wanted } else { Hook::None };
        let role = s.pod.container(&name).map_or(Role::Main, |(role, _)| role);
        let about = About::pod(&s.pod.metadata, Some((role, &name)));
        self.event(&about, Kind::Normal, "Killing", &message, now);
        let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        if let Some(r) = s.run_mut(run) {
            let created = r.phase == Phase::Created;
            r.kill = Some(Kill {
                message,
                decided: now.mono,
                deadline: if created { now.mono } else { now.mono + grace },
                pre_stop: if created { Hook::None } else { pre_stop },
                term_sent: false,
                kill_sent: false,
            });
        }
    }

    fn hook(&mut self, s: &mut PodState, run: &str, pre_stop: bool, now: Now) {
        let ip = s.sandbox.as_ref().and_then(|b| b.ip);
        let Some(r) = s.run(run) else { return };
        let Some((_, c)) = s.pod.container(&r.name) else { return };
        let handler =
            if pre_stop { c.lifecycle.pre_stop.clone() } else { c.lifecycle.post_start.clone() };
        let check = handler.and_then(|h| hook_check(&h, c, r, ip));
        let timeout_ms = r
            .kill
            .as_ref()
            .map_or(0, |k| u64::try_from((k.deadline - now.mono).as_millis()).unwrap_or(u64::MAX));
        let ticket = Ticket {
            uid: s.pod.metadata.uid.clone(),
            run: run.to_string(),
            what: if pre_stop { What::PreStop } else { What::PostStart },
        };
        let state = if check.is_some() { Hook::Running } else { Hook::Done };
        self.jobs.extend(check.map(|check| Job::Check { ticket, check, timeout_ms }));
        if let Some(r) = s.run_mut(run) {
            if pre_stop {
                r.kill.iter_mut().for_each(|k| k.pre_stop = state);
            } else {
                r.post_start = state;
            }
        }
    }

    fn probe_turn(&mut self, s: &mut PodState, now: Now) -> Option<pintle_base::Time> {
        let mut probes = std::mem::take(&mut s.probes);
        probes.sync(&s.pod, &s.runs, |run| known_before(s, run));
        let ip = s.sandbox.as_ref().and_then(|b| b.ip);
        for (id, kind) in probes.take_due(&s.pod, &s.runs, now.mono) {
            let Some(run) = s.run(&id) else { continue };
            let Some((_, c)) = s.pod.container(&run.name) else { continue };
            let Some(spec) = kind.of(c) else { continue };
            let timeout_ms = u64::try_from(spec.timeout_seconds.max(1)).unwrap_or(1) * 1000;
            match probe_check(spec, c, run, ip) {
                Some(check) => {
                    let what = What::Probe(kind);
                    let ticket = Ticket { uid: s.pod.metadata.uid.clone(), run: id, what };
                    self.jobs.push(Job::Check { ticket, check, timeout_ms });
                }
                None => {
                    probes.finished(c, &id, kind, false, now.mono);
                }
            }
        }
        let next = probes.next_due(&s.pod, &s.runs);
        s.probes = probes;
        next
    }

    fn report(&mut self, uid: &str, s: &mut PodState, now: Now, out: &mut Outbox) {
        let track = self.tracks.entry(uid.to_string()).or_default();
        // While a job is with the workers the next state is milliseconds away: one patch instead of two.
        let may = self.connected && s.wanted && !s.delete_sent;
        if !may || track.under_way || s.busy {
            return;
        }
        let Some(new) = status::compute(s, self.config.node_ip, now) else {
            s.terminal_reported = true;
            return;
        };
        let ended = matches!(new["phase"].as_str(), Some("Succeeded" | "Failed"));
        let terminal = ended && !s.any_alive();
        let Some(patch) = status::patch(uid, &s.pod.status, &new) else {
            if terminal && !s.terminal_reported {
                s.terminal_reported = true;
                s.dirty = true;
            }
            return;
        };
        track.under_way = true;
        let m = &s.pod.metadata;
        let mut r = Request::new(Verb::Patch, "", "v1", "pods");
        r.namespace = m.namespace.clone();
        r.name = m.name.clone();
        r.subresource = "status".into();
        r.patch_type = Some(PatchType::Strategic);
        r.body = crate::event::body(&patch);
        self.send(Purpose::Status(uid.to_string(), terminal), r, out);
    }

    /// Deletes a pod of which nothing is left on the node; true when it can be forgotten.
    fn finish_deletion(&mut self, s: &mut PodState, _now: Now, out: &mut Outbox) -> bool {
        let gone = s.deleting()
            && !s.busy
            && !s.any_alive()
            && s.sandbox.is_none()
            && s.old_sandboxes.is_empty()
            && s.cleaned;
        if !gone {
            return false;
        }
        if !s.wanted {
            return true;
        }
        if !s.delete_sent && self.connected {
            s.delete_sent = true;
            let m = &s.pod.metadata;
            let mut r = Request::new(Verb::Delete, "", "v1", "pods");
            r.namespace = m.namespace.clone();
            r.name = m.name.clone();
            r.options.grace_period_s = Some(0);
            r.options.precondition_uid = Some(m.uid.clone());
            log::info("pod is gone from the node", &[("pod", &s.pod.key())]);
            self.send(Purpose::Delete(m.uid.clone()), r, out);
        }
        false
    }
}

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// Reason of a container whose configuration refers to something that is not there.
pub(crate) const CONFIG_ERROR: &str = "CreateContainerConfigError";

fn stop_signal(s: &PodState, run: &str) -> i32 {
    let c = s.run(run).and_then(|r| s.pod.container(&r.name)).map(|(_, c)| c);
    match c.and_then(|c| c.lifecycle.stop_signal.as_deref()) {
        Some("SIGHUP") => 1,
        Some("SIGINT") => 2,
        Some("SIGQUIT") => 3,
        Some("SIGKILL") => SIGKILL,
        Some("SIGUSR1") => 10,
        Some("SIGUSR2") => 12,
        Some("SIGWINCH") => 28,
        _ => SIGTERM,
    }
}

/// A duration as Go prints whole seconds: `10s`, `2m40s`, `5m0s`.
fn go_duration(d: Duration) -> String {
    let s = d.as_secs();
    if s < 60 { format!("{s}s") } else { format!("{}m{}s", s / 60, s % 60) }
}

/// Ready and started as the API server knows them of this very run.
fn known_before(s: &PodState, run: &Run) -> (bool, bool) {
    let id = status::container_id(run);
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut all = lists.iter().filter_map(|l| s.pod.status[l].as_array()).flatten();
    match all.find(|c| c["containerID"].as_str() == Some(id.as_str())) {
        Some(c) => (c["ready"] == true, c["started"] == true),
        None => (false, false),
    }
}

fn http_check(h: &crate::spec::HttpGet, c: &Container, ip: Option<IpAddr>) -> Option<Check> {
    let address = if h.host.is_empty() { ip? } else { h.host.parse().ok()? };
    let headers = h.http_headers.iter().map(|x| (x.name.clone(), x.value.clone())).collect();
    let path = if h.path.starts_with('/') { h.path.clone() } else { format!("/{}", h.path) };
    let port = port_number(&h.port, c)?;
    Some(Check::Http { address, port, tls: h.scheme == "HTTPS", path, headers })
}

fn tcp_check(t: &crate::spec::TcpSocket, c: &Container, ip: Option<IpAddr>) -> Option<Check> {
    let address = if t.host.is_empty() { ip? } else { t.host.parse().ok()? };
    Some(Check::Tcp { address, port: port_number(&t.port, c)? })
}

fn exec_check(command: &[String], run: &Run) -> Check {
    Check::Exec { sandbox: run.sandbox.clone(), run: run.id.clone(), command: command.to_vec() }
}

fn hook_check(h: &Handler, c: &Container, run: &Run, ip: Option<IpAddr>) -> Option<Check> {
    if let Some(e) = &h.exec {
        Some(exec_check(&e.command, run))
    } else if let Some(h) = &h.http_get {
        http_check(h, c, ip)
    } else if let Some(s) = &h.sleep {
        Some(Check::Sleep(u64::try_from(s.seconds).unwrap_or(0)))
    } else {
        h.tcp_socket.as_ref().and_then(|t| tcp_check(t, c, ip))
    }
}

fn probe_check(p: &Probe, c: &Container, run: &Run, ip: Option<IpAddr>) -> Option<Check> {
    if let Some(e) = &p.exec {
        Some(exec_check(&e.command, run))
    } else if let Some(h) = &p.http_get {
        http_check(h, c, ip)
    } else {
        p.tcp_socket.as_ref().and_then(|t| tcp_check(t, c, ip))
    }
}

/// The kinds of probe whose failure is told with these words.
pub(crate) fn unhealthy(kind: probe::Kind, message: &str) -> String {
    format!("{} probe failed: {message}", kind.title())
}
