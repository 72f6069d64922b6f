//! Probes of running containers: when each is due, and what its results mean.
//!
//! Thresholds, initial values and the order of startup before the others follow Kubernetes' prober: readiness
//! starts as failed, liveness as succeeded; a result counts once it has come `threshold` times in a row.

use crate::spec::{Container, Pod, Probe};
use crate::state::{Hook, Phase, Run};
use pintle_base::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Until it succeeds the others wait; when it fails the container is restarted.
    Startup,
    /// When it fails the container is restarted.
    Liveness,
    /// When it fails the container gets no traffic.
    Readiness,
}

impl Kind {
    /// All, in the order in which they are looked at.
    pub const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    /// As in `failed liveness probe`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "startup",
            Kind::Liveness => "liveness",
            Kind::Readiness => "readiness",
        }
    }

    /// As at the start of an event's message.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    /// The probe of this kind.
    pub fn of(self, c: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => c.startup_probe.as_ref(),
            Kind::Liveness => c.liveness_probe.as_ref(),
            Kind::Readiness => c.readiness_probe.as_ref(),
        }
    }
}

/// One probe of one run.
#[derive(Clone, Debug, PartialEq)]
struct State {
    due: Time,
    under_way: bool,
    // Results in a row with the same value.
    streak: (bool, i64),
    result: Option<bool>,
}

/// All probes of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    states: BTreeMap<(String, Kind), State>,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody sees.
    Nothing,
    /// Startup, readiness or liveness has a new value.
    Changed,
}

impl Probes {
    /// Begins probes of runs that run now and forgets those of runs that do not. `ready` and `started` say
    /// what the API server knew of a run before this kubelet started.
    pub fn sync(&mut self, pod: &Pod, runs: &[Run], known: impl Fn(&Run) -> (bool, bool)) {
        self.states
            .retain(|(id, _), _| runs.iter().any(|r| r.id == *id && r.phase == Phase::Running));
        for run in runs.iter().filter(|r| r.phase == Phase::Running && r.kill.is_none()) {
            let Some((_, c)) = pod.container(&run.name) else { continue };
            for kind in Kind::ALL {
                let Some(probe) = kind.of(c) else { continue };
                if self.states.contains_key(&(run.id.clone(), kind)) {
                    continue;
                }
                let (ready, started) = known(run);
                let result = match kind {
                    Kind::Startup => started.then_some(true),
                    Kind::Liveness => Some(true),
                    Kind::Readiness => Some(ready),
                };
                let state = State {
                    due: run.started_mono + seconds(probe.initial_delay_seconds),
                    under_way: false,
                    streak: (result == Some(true), 0),
                    result,
                };
                self.states.insert((run.id.clone(), kind), state);
            }
        }
    }

    fn value(&self, run: &str, kind: Kind) -> Option<bool> {
        self.states.get(&(run.to_string(), kind)).and_then(|s| s.result)
    }

    /// The container has started: it runs, its postStart hook is over, its startup probe has succeeded.
    pub fn started(&self, c: &Container, run: &Run) -> bool {
        run.phase == Phase::Running
            && matches!(run.post_start, Hook::None | Hook::Done)
            && (c.startup_probe.is_none() || self.value(&run.id, Kind::Startup) == Some(true))
    }

    /// The container takes traffic.
    pub fn ready(&self, c: &Container, run: &Run) -> bool {
        self.started(c, run)
            && (c.readiness_probe.is_none() || self.value(&run.id, Kind::Readiness) == Some(true))
    }

    /// The probe because of which a run must be restarted.
    pub fn fatal(&self, run: &str) -> Option<Kind> {
        [Kind::Startup, Kind::Liveness].into_iter().find(|k| self.value(run, *k) == Some(false))
    }

    /// The probes that must be sent now; they count as under way from here on.
    pub fn take_due(&mut self, pod: &Pod, runs: &[Run], now: Time) -> Vec<(String, Kind)> {
        let mut due = Vec::new();
        for run in runs {
            let Some((_, c)) = pod.container(&run.name) else { continue };
            for kind in Kind::ALL {
                if !self.active(c, run, kind) {
                    continue;
                }
                let key = (run.id.clone(), kind);
                let Some(state) = self.states.get_mut(&key) else { continue };
                if !state.under_way && state.due <= now {
                    state.under_way = true;
                    due.push(key);
                }
            }
        }
        due
    }

    /// When the next one is due.
    pub fn next_due(&self, pod: &Pod, runs: &[Run]) -> Option<Time> {
        let mut next: Option<Time> = None;
        for run in runs {
            let Some((_, c)) = pod.container(&run.name) else { continue };
            for kind in Kind::ALL {
                if let Some(state) = self.states.get(&(run.id.clone(), kind))
                    && !state.under_way
                    && self.active(c, run, kind)
                {
                    next = Some(next.map_or(state.due, |n| n.min(state.due)));
                }
            }
        }
        next
    }

    fn active(&self, c: &Container, run: &Run, kind: Kind) -> bool {
        let running = run.phase == Phase::Running;
        let staying = running && run.kill.is_none();
        let startup = self.value(&run.id, Kind::Startup);
        let past_startup = c.startup_probe.is_none() || startup == Some(true);
        match kind {
            Kind::Startup => staying && startup.is_none(),
            Kind::Liveness => staying && past_startup,
            // A pod that is going away serves as long as it says that it is ready.
            Kind::Readiness => running && past_startup,
        }
    }

    /// A probe was answered.
    pub fn finished(
        &mut self,
        c: &Container,
        run: &str,
        kind: Kind,
        success: bool,
        now: Time,
    ) -> Change {
        let Some(probe) = kind.of(c) else { return Change::Nothing };
        let Some(state) = self.states.get_mut(&(run.to_string(), kind)) else {
            return Change::Nothing;
        };
        state.under_way = false;
        let period = seconds(probe.period_seconds.max(1));
        if state.due <= now {
            let missed = (now - state.due).as_nanos() / period.as_nanos();
            state.due += period * u32::try_from(missed + 1).unwrap_or(u32::MAX);
        }
        state.streak = match state.streak {
            (value, n) if value == success => (value, n + 1),
            _ => (success, 1),
        };
        let threshold =
            if success { probe.success_threshold } else { probe.failure_threshold }.max(1);
        if state.streak.1 < threshold || state.result == Some(success) {
            return Change::Nothing;
        }
        state.result = Some(success);
        if kind == Kind::Startup && success {
            // Those that waited for it start at once.
            for ((id, k), s) in &mut self.states {
                if id == run && *k != Kind::Startup {
                    s.due = s.due.min(now);
                }
            }
        }
        Change::Changed
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}
