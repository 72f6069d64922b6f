//! What the kubelet knows of one pod: what is asked, what was observed, what is under way.
//!
//! Everything that must survive a restart of the kubelet is in the labels of sandboxes and containers
//! ([`label`]) or in the pod's status at the API server; this is the memory form of it.

use crate::probe::Probes;
use crate::spec::{Container, Pod, Role};
use pintle_base::{Time, Wall};
use pintle_runtime::sandbox as rt;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Labels of sandboxes and containers, with the names that CRI runtimes use.
pub mod label {
    /// Pod name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Pod namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Pod uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Container name.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Number of the run of a container, from 0: its restart count.
    pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
    /// Number of the sandbox of a pod, from 0.
    pub const SANDBOX_ATTEMPT: &str = "pintle.sandbox-attempt";
    /// Address of the sandbox on the pod network; absent for host network.
    pub const IP: &str = "pintle.ip";
    /// Image as the pod named it.
    pub const IMAGE: &str = "pintle.image";
    /// Hash of the parts of the container that force a restart when they change.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Milliseconds of back-off that end of this run leads to.
    pub const BACKOFF_MS: &str = "pintle.backoff-ms";
}

/// The pod's sandbox as observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id with the runtime.
    pub id: String,
    /// Number of the sandbox of this pod, from 0.
    pub attempt: u32,
    /// Its shim lives: containers can run in it.
    pub ready: bool,
    /// Address on the pod network, or the node's for host network.
    pub ip: Option<IpAddr>,
    /// Pinned network namespace; empty for host network.
    pub netns: PathBuf,
    /// When it was made.
    pub created: Wall,
}

/// Where one run of a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, not let go.
    Created,
    /// Its process runs.
    Running,
    /// It ended.
    Exited {
        /// Exit code, 128 + signal when killed.
        code: i32,
        /// Signal that killed it, 0 = none.
        signal: i32,
        /// Killed for memory.
        oom_killed: bool,
    },
}

/// A postStart or preStop hook of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// There is none, or it is not its time.
    None,
    /// It must run.
    Wanted,
    /// It runs.
    Running,
    /// It has run, well or not.
    Done,
}

/// The end of a run that was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// Message of the Killing event.
    pub message: String,
    /// When it was decided.
    pub decided: Time,
    /// When SIGKILL comes.
    pub deadline: Time,
    /// preStop hook.
    pub pre_stop: Hook,
    /// SIGTERM was sent.
    pub term_sent: bool,
    /// SIGKILL was sent.
    pub kill_sent: bool,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Container name.
    pub name: String,
    /// Number of the run from 0: the restart count.
    pub attempt: u32,
    /// Id with the runtime.
    pub id: String,
    /// Sandbox that it is in.
    pub sandbox: String,
    /// Where it is.
    pub phase: Phase,
    /// Process id on the host.
    pub pid: u32,
    /// When its process was let go; 0 = not yet.
    pub started: Wall,
    /// The same on the monotonic clock (of this kubelet's life).
    pub started_mono: Time,
    /// When it ended; 0 = not yet.
    pub finished: Wall,
    /// Image as the pod named it.
    pub image: String,
    /// Digest of the image.
    pub image_id: String,
    /// Hash of what forces a restart.
    pub hash: String,
    /// Back-off that its end leads to.
    pub backoff: Duration,
    /// postStart hook.
    pub post_start: Hook,
    /// Decided end.
    pub kill: Option<Kill>,
    /// Termination message.
    pub message: String,
    /// Reason in place of Completed, Error, OOMKilled.
    pub reason: Option<String>,
}

impl Run {
    /// It ended.
    pub fn exited(&self) -> bool {
        matches!(self.phase, Phase::Exited { .. })
    }

    /// It ended with code 0.
    pub fn succeeded(&self) -> bool {
        matches!(self.phase, Phase::Exited { code: 0, .. })
    }
}

/// Why a container does not run though it should.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Reason of the waiting state: `ErrImagePull`, `CreateContainerConfigError`, ...
    pub reason: String,
    /// For humans.
    pub message: String,
    /// When to try again.
    pub retry_at: Time,
    /// The pause that leads there; the next one is twice as long.
    pub pause: Duration,
}

/// Something that is tried again with growing pauses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retry {
    /// What went wrong last.
    pub message: String,
    /// Not before this time.
    pub at: Option<Time>,
    /// The pause that leads there.
    pub pause: Duration,
}

impl Retry {
    /// It failed at `now`: the next pause is twice the last one, from `first` to `max`.
    pub fn failed(&mut self, message: String, now: Time, first: Duration, max: Duration) {
        self.pause = if self.pause.is_zero() { first } else { (self.pause * 2).min(max) };
        self.message = message;
        self.at = Some(now + self.pause);
    }

    /// It went well.
    pub fn succeeded(&mut self) {
        *self = Retry::default();
    }

    /// It may be tried now.
    pub fn due(&self, now: Time) -> bool {
        self.at.is_none_or(|at| at <= now)
    }
}

/// Whether what the containers need from the API server is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Needs {
    /// Not asked yet, or answers are under way.
    #[default]
    Asked,
    /// All there (or optional and known to be absent).
    Ready,
    /// Something that a volume needs is not there: the text says what.
    MissingForVolume(String),
}

/// Why a pod as a whole ended (or was refused) though its containers may still run.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// `status.reason`: `DeadlineExceeded`, `Evicted`, `NodeAffinity`, ...
    pub reason: String,
    /// `status.message`.
    pub message: String,
}

/// One pod.
#[derive(Debug)]
pub struct PodState {
    /// What is asked. `status` in it is what the API server has.
    pub pod: Pod,
    /// The same as it came, for the copy on disk.
    pub object: Option<Arc<Value>>,
    /// The API server (or the static manifest) still has it; false = orphan that must go.
    pub wanted: bool,
    /// The newest sandbox.
    pub sandbox: Option<Sandbox>,
    /// Attempts of sandboxes so far.
    pub sandbox_attempts: u32,
    /// Sandboxes of earlier attempts that are still to be removed.
    pub old_sandboxes: Vec<String>,
    /// Runs, oldest first a container; in no order between containers.
    pub runs: Vec<Run>,
    /// Containers that failed to start.
    pub waiting: BTreeMap<String, Waiting>,
    /// Sandbox creation.
    pub sandbox_retry: Retry,
    /// Volumes.
    pub volume_retry: Retry,
    /// Volumes and pod files are on disk.
    pub volumes_ready: bool,
    /// References.
    pub needs: Needs,
    /// A job is with the workers.
    pub busy: bool,
    /// All of its things on disk are gone.
    pub cleaned: bool,
    /// End of the whole pod.
    pub verdict: Option<Verdict>,
    /// All of it must end; when that was decided.
    pub stopping_since: Option<Time>,
    /// When this kubelet accepted it first (`status.startTime`).
    pub start_time: Option<Wall>,
    /// Probes of running containers.
    pub probes: Probes,
    /// The terminal status is at the API server.
    pub terminal_reported: bool,
    /// The delete with grace 0 was sent.
    pub delete_sent: bool,
    /// Runs whose postStart hook failed: they must end.
    pub failed_hooks: Vec<String>,
    /// Decisions are due though nothing happened.
    pub dirty: bool,
}

impl PodState {
    /// A pod of which nothing is on the node yet.
    pub fn new(pod: Pod) -> PodState {
        PodState {
            pod,
            object: None,
            wanted: true,
            sandbox: None,
            sandbox_attempts: 0,
            old_sandboxes: Vec::new(),
            runs: Vec::new(),
            waiting: BTreeMap::new(),
            sandbox_retry: Retry::default(),
            volume_retry: Retry::default(),
            volumes_ready: false,
            needs: Needs::default(),
            busy: false,
            cleaned: true,
            verdict: None,
            stopping_since: None,
            start_time: None,
            probes: Probes::default(),
            terminal_reported: false,
            delete_sent: false,
            failed_hooks: Vec::new(),
            dirty: true,
        }
    }

    /// The last run of a container.
    pub fn last_run(&self, name: &str) -> Option<&Run> {
        self.runs.iter().filter(|r| r.name == name).max_by_key(|r| r.attempt)
    }

    /// The run before the last one.
    pub fn previous_run(&self, name: &str) -> Option<&Run> {
        let last = self.last_run(name)?.attempt;
        self.runs.iter().filter(|r| r.name == name && r.attempt < last).max_by_key(|r| r.attempt)
    }

    /// A run by its id.
    pub fn run_mut(&mut self, id: &str) -> Option<&mut Run> {
        self.runs.iter_mut().find(|r| r.id == id)
    }

    /// A run by its id.
    pub fn run(&self, id: &str) -> Option<&Run> {
        self.runs.iter().find(|r| r.id == id)
    }

    /// Any process of it runs or may run.
    pub fn any_alive(&self) -> bool {
        self.runs.iter().any(|r| !r.exited())
    }

    /// It is being deleted at the API server, or gone from there.
    pub fn deleting(&self) -> bool {
        !self.wanted || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The restart policy of one container.
    pub fn restarts(&self, role: Role, container: &Container, run: &Run) -> bool {
        let code = match run.phase {
            Phase::Exited { code, .. } => code,
            Phase::Created | Phase::Running => return false,
        };
        match role {
            Role::Sidecar => return true,
            Role::Ephemeral => return false,
            Role::Init | Role::Main => {}
        }
        for rule in &container.restart_policy_rules {
            if let Some(codes) = &rule.exit_codes {
                let listed = codes.values.contains(&code);
                if rule.action == "Restart" && listed == (codes.operator == "In") {
                    return true;
                }
            }
        }
        let policy = container.restart_policy.as_deref().unwrap_or(&self.pod.spec.restart_policy);
        match (policy, role) {
            ("Never", _) => false,
            ("OnFailure", _) | (_, Role::Init) => code != 0,
            _ => true,
        }
    }

    /// Takes over from the API server's status what it knows of runs and this life of the kubelet does not:
    /// reasons and messages of ended runs, and whole runs whose sandbox is gone.
    pub fn recall(&mut self, now: pintle_base::Now) {
        let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
        let all: Vec<Value> =
            lists.iter().filter_map(|l| self.pod.status[l].as_array()).flatten().cloned().collect();
        for status in &all {
            self.cleaned = false;
            for state in ["state", "lastState"] {
                self.recall_end(&status[state]["terminated"]);
            }
            self.recall_run(status, now);
        }
    }

    fn recall_end(&mut self, ended: &Value) {
        let id = run_of(&ended["containerID"]);
        let Some(run) = self.runs.iter_mut().find(|r| Some(r.id.as_str()) == id && r.exited())
        else {
            return;
        };
        if let Some(message) = ended["message"].as_str() {
            run.message = message.to_string();
        }
        run.reason = special_reason(ended);
        if run.reason.is_some() {
            run.phase = exit_of(ended);
        }
    }

    fn recall_run(&mut self, status: &Value, now: pintle_base::Now) {
        let Some(id) = run_of(&status["containerID"]) else { return };
        if self.runs.iter().any(|r| r.id == id) {
            return;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let time = |v: &Value| v.as_str().and_then(Wall::parse_rfc3339).unwrap_or_default();
        let ended = match &status["state"]["terminated"] {
            Value::Null => &status["lastState"]["terminated"],
            ended => ended,
        };
        let known = run_of(&ended["containerID"]) == Some(id);
        let started =
            if known { &ended["startedAt"] } else { &status["state"]["running"]["startedAt"] };
        let run = Run {
            name: text(&status["name"]),
            attempt: status["restartCount"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0),
            id: id.to_string(),
            sandbox: String::new(),
            phase: if known { exit_of(ended) } else { LOST },
            pid: 0,
            started: time(started),
            started_mono: mono_of(time(started), now),
            finished: if known { time(&ended["finishedAt"]) } else { now.wall },
            image: text(&status["image"]),
            image_id: text(&status["imageID"]),
            hash: String::new(),
            backoff: Duration::ZERO,
            post_start: Hook::Done,
            kill: None,
            message: if known { text(&ended["message"]) } else { LOST_MESSAGE.into() },
            reason: if known { special_reason(ended) } else { Some(LOST_REASON.into()) },
        };
        self.runs.push(run);
    }

    /// Takes over a container as the runtime reports it; gives true when that changed something. States only
    /// go forward: a late report of an earlier state changes nothing.
    pub fn observe(
        &mut self,
        sandbox: &str,
        state: &rt::ContainerState,
        now: pintle_base::Now,
    ) -> bool {
        let phase = match state.status {
            rt::ContainerStatus::Created => Phase::Created,
            rt::ContainerStatus::Running => Phase::Running,
            rt::ContainerStatus::Exited { code, signal, oom_killed } => {
                Phase::Exited { code, signal, oom_killed }
            }
        };
        if let Some(run) = self.runs.iter_mut().find(|r| r.id == state.id) {
            if rank(&phase) <= rank(&run.phase) {
                return false;
            }
            run.phase = phase;
            run.pid = state.pid;
            run.started = Wall(state.started_ns.max(run.started.0));
            run.finished = Wall(state.finished_ns);
            if run.started_mono == Time(0) {
                run.started_mono = mono_of(run.started, now);
            }
            return true;
        }
        let Some(run) = run_from(sandbox, state, phase, now) else { return false };
        self.runs.push(run);
        true
    }
}

/// Reason of a run of which nothing is left on the node.
pub const LOST_REASON: &str = "ContainerStatusUnknown";
/// Its message.
pub const LOST_MESSAGE: &str = "The container could not be located when the pod was terminated";
const LOST: Phase = Phase::Exited { code: 137, signal: 0, oom_killed: false };

fn run_of(container_id: &Value) -> Option<&str> {
    container_id.as_str()?.strip_prefix("pintle://")
}

fn exit_of(ended: &Value) -> Phase {
    let number = |key: &str| ended[key].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
    let oom_killed = ended["reason"] == "OOMKilled";
    Phase::Exited { code: number("exitCode"), signal: number("signal"), oom_killed }
}

/// The reason that does not follow from the exit code.
fn special_reason(ended: &Value) -> Option<String> {
    let follows = ["Completed", "Error", "OOMKilled"];
    ended["reason"].as_str().filter(|r| !follows.contains(r)).map(String::from)
}

fn run_from(
    sandbox: &str,
    state: &rt::ContainerState,
    phase: Phase,
    now: pintle_base::Now,
) -> Option<Run> {
    let text = |key: &str| state.labels.get(key).cloned().unwrap_or_default();
    let name = state.labels.get(label::CONTAINER_NAME)?.clone();
    let started = Wall(state.started_ns);
    let backoff_ms = text(label::BACKOFF_MS).parse().unwrap_or(0);
    Some(Run {
        name,
        attempt: text(label::ATTEMPT).parse().unwrap_or(0),
        id: state.id.clone(),
        sandbox: sandbox.to_string(),
        phase,
        pid: state.pid,
        started,
        started_mono: mono_of(started, now),
        finished: Wall(state.finished_ns),
        image: text(label::IMAGE),
        image_id: state.image_id.clone(),
        hash: text(label::HASH),
        backoff: Duration::from_millis(backoff_ms),
        // A hook of a run that an earlier life of the kubelet started is not repeated.
        post_start: Hook::Done,
        kill: None,
        message: String::new(),
        reason: None,
    })
}

fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Created => 0,
        Phase::Running => 1,
        Phase::Exited { .. } => 2,
    }
}

/// The monotonic time at which the wall clock showed `wall`, as far as that can be said.
pub fn mono_of(wall: Wall, now: pintle_base::Now) -> Time {
    if wall.0 == 0 {
        return Time(0);
    }
    let age = u64::try_from((now.wall - wall).as_nanos()).unwrap_or(u64::MAX);
    Time(now.mono.0.saturating_sub(age).max(1))
}
