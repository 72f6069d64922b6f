//! The supervisor's decisions, pure: which daemon to start, restart or end, and when. Time comes in, actions go out.
//!
//! A unit starts when everything that it comes `after` has been ready once. A unit that dies is started again: at
//! once if it had been running for a while, else after a pause that doubles. A unit that dies before it was ever
//! ready fails the whole start: its reason is more useful than a restart.

use pintle_base::Time;
use std::time::Duration;

/// A daemon that ran this long is restarted without a pause.
const STEADY: Duration = Duration::from_secs(5);
/// First pause before a restart, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a daemon may take to end after SIGTERM before it gets SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// One daemon process to keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Unique: the daemon, or `DAEMON-NODE`.
    pub name: String,
    /// Command word of the binary: `store`, `kubelet`, ...
    pub daemon: &'static str,
    /// Node that it belongs to; empty = control plane.
    pub node: String,
    /// Arguments after the command word.
    pub args: Vec<String>,
    /// Names of units that must have been ready before.
    pub after: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Spawning,
    Running { pid: u32, since: Time, ready: bool },
    Paused { until: Time },
    Ended,
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start this unit (index) and report `spawned` or `spawn_failed`.
    Spawn(usize),
    /// Send a signal to a process.
    Signal(u32, Signal),
    /// Every unit has been ready once.
    AllReady,
    /// The start failed: this unit ended before it was ready; the text says how.
    StartFailed(usize, String),
    /// Everything has ended; the supervisor may go.
    Done,
}

/// The two signals that the supervisor sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

#[derive(Debug)]
struct Unit {
    spec: Spec,
    state: State,
    ever_ready: bool,
    pause: Duration,
    restarts: u64,
}

/// The supervisor's state.
#[derive(Debug)]
pub struct Units {
    units: Vec<Unit>,
    announced: bool,
    stopping: Option<Stop>,
    actions: std::collections::VecDeque<Action>,
}

#[derive(Clone, Copy, Debug)]
struct Stop {
    kill_at: Time,
    killed: bool,
    done: bool,
}

/// What `pintle status` shows of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// The unit.
    pub spec: &'a Spec,
    /// 0 = not running.
    pub pid: u32,
    /// When it was started.
    pub since: Option<Time>,
    /// It said that it is ready.
    pub ready: bool,
    /// Times that it was started again.
    pub restarts: u64,
}

impl Units {
    /// Nothing runs yet; call `turn` to begin.
    pub fn new(specs: Vec<Spec>) -> Units {
        let units = specs
            .into_iter()
            .map(|spec| Unit {
                spec,
                state: State::Waiting,
                ever_ready: false,
                pause: PAUSE_MIN,
                restarts: 0,
            })
            .collect();
        Units { units, announced: false, stopping: None, actions: Default::default() }
    }

    /// The unit of an index that an action named.
    pub fn spec(&self, unit: usize) -> Option<&Spec> {
        self.units.get(unit).map(|u| &u.spec)
    }

    /// All units as they are.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.units.iter().map(|u| {
            let (pid, since, ready) = match u.state {
                State::Running { pid, since, ready } => (pid, Some(since), ready),
                State::Waiting | State::Spawning | State::Paused { .. } | State::Ended => {
                    (0, None, false)
                }
            };
            View { spec: &u.spec, pid, since, ready, restarts: u.restarts }
        })
    }

    /// A `Spawn` was carried out.
    pub fn spawned(&mut self, unit: usize, pid: u32, now: Time) {
        let stopping = self.stopping.is_some();
        if let Some(u) = self.units.get_mut(unit) {
            u.state = State::Running { pid, since: now, ready: false };
            if stopping {
                self.actions.push_back(Action::Signal(pid, Signal::Term));
            }
        }
    }

    /// A `Spawn` could not be carried out.
    pub fn spawn_failed(&mut self, unit: usize, why: &str, now: Time) {
        self.ended(unit, why, now);
    }

    /// A unit said READY=1.
    pub fn ready(&mut self, unit: usize, now: Time) {
        if let Some(u) = self.units.get_mut(unit)
            && let State::Running { ready, .. } = &mut u.state
        {
            *ready = true;
            u.ever_ready = true;
        }
        self.turn(now);
    }

    /// A child process ended. Processes that are no unit's are ignored.
    pub fn exited(&mut self, pid: u32, how: &str, now: Time) {
        let found = self
            .units
            .iter()
            .position(|u| matches!(u.state, State::Running { pid: p, .. } if p == pid));
        if let Some(unit) = found {
            self.ended(unit, how, now);
        }
    }

    /// End everything.
    pub fn stop(&mut self, now: Time) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Stop { kill_at: now + STOP_GRACE, killed: false, done: false });
        for u in &mut self.units {
            match u.state {
                State::Running { pid, .. } => {
                    self.actions.push_back(Action::Signal(pid, Signal::Term))
                }
                State::Spawning => {}
                State::Waiting | State::Paused { .. } | State::Ended => u.state = State::Ended,
            }
        }
        self.turn(now);
    }

    /// Decides what time and the last inputs make possible.
    pub fn turn(&mut self, now: Time) {
        if let Some(mut stop) = self.stopping {
            if now >= stop.kill_at && !stop.killed {
                stop.killed = true;
                for u in &self.units {
                    if let State::Running { pid, .. } = u.state {
                        self.actions.push_back(Action::Signal(pid, Signal::Kill));
                    }
                }
            }
            if !stop.done && self.units.iter().all(|u| u.state == State::Ended) {
                stop.done = true;
                self.actions.push_back(Action::Done);
            }
            self.stopping = Some(stop);
            return;
        }
        let once_ready: Vec<String> =
            self.units.iter().filter(|u| u.ever_ready).map(|u| u.spec.name.clone()).collect();
        for (i, u) in self.units.iter_mut().enumerate() {
            let due = match u.state {
                State::Waiting => u.spec.after.iter().all(|a| once_ready.contains(a)),
                State::Paused { until } => now >= until,
                State::Spawning | State::Running { .. } | State::Ended => false,
            };
            if due {
                u.state = State::Spawning;
                self.actions.push_back(Action::Spawn(i));
            }
        }
        if !self.announced && self.units.iter().all(|u| u.ever_ready) {
            self.announced = true;
            self.actions.push_back(Action::AllReady);
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When `turn` wants to be called though nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        if let Some(stop) = self.stopping {
            return (!stop.killed && !stop.done).then_some(stop.kill_at);
        }
        self.units
            .iter()
            .filter_map(|u| match u.state {
                State::Paused { until } => Some(until),
                State::Waiting | State::Spawning | State::Running { .. } | State::Ended => None,
            })
            .min()
    }

    fn ended(&mut self, unit: usize, how: &str, now: Time) {
        let stopping = self.stopping.is_some();
        let Some(u) = self.units.get_mut(unit) else { return };
        let ran = match u.state {
            State::Running { since, .. } => now - since,
            State::Waiting | State::Spawning | State::Paused { .. } | State::Ended => {
                Duration::ZERO
            }
        };
        if stopping {
            u.state = State::Ended;
        } else if !u.ever_ready && !self.announced {
            u.state = State::Ended;
            self.actions.push_back(Action::StartFailed(unit, how.to_owned()));
        } else {
            u.restarts += 1;
            if ran >= STEADY {
                u.pause = PAUSE_MIN;
                u.state = State::Paused { until: now };
            } else {
                u.state = State::Paused { until: now + u.pause };
                u.pause = (u.pause * 2).min(PAUSE_MAX);
            }
        }
        self.turn(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, after: &[&str]) -> Spec {
        Spec {
            name: name.into(),
            daemon: "store",
            node: String::new(),
            args: Vec::new(),
            after: after.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn actions(u: &mut Units) -> Vec<Action> {
        std::iter::from_fn(|| u.poll_action()).collect()
    }

    fn running() -> Units {
        let mut u = Units::new(vec![spec("store", &[]), spec("apiserver", &["store"])]);
        u.turn(at(0));
        assert_eq!(actions(&mut u), [Action::Spawn(0)]);
        u.spawned(0, 10, at(1));
        assert_eq!(actions(&mut u), []);
        u.ready(0, at(2));
        assert_eq!(actions(&mut u), [Action::Spawn(1)]);
        u.spawned(1, 11, at(3));
        u.ready(1, at(4));
        assert_eq!(actions(&mut u), [Action::AllReady]);
        u
    }

    #[test]
    fn starts_in_order_and_announces_once() {
        let mut u = running();
        u.turn(at(5));
        assert_eq!(actions(&mut u), []);
    }

    #[test]
    fn restarts_at_once_after_a_steady_run_and_pauses_after_a_short_one() {
        let mut u = running();
        u.exited(10, "killed by signal 9", at(10_000));
        assert_eq!(actions(&mut u), [Action::Spawn(0)]);
        u.spawned(0, 12, at(10_001));
        u.exited(12, "killed by signal 9", at(10_002));
        assert_eq!(actions(&mut u), []);
        assert_eq!(u.poll_timeout(), Some(at(10_102)));
        u.turn(at(10_102));
        assert_eq!(actions(&mut u), [Action::Spawn(0)]);
        u.spawned(0, 13, at(10_103));
        u.exited(13, "exit code 1", at(10_104));
        assert_eq!(u.poll_timeout(), Some(at(10_304)), "the pause doubles");
    }

    #[test]
    fn death_before_ready_fails_the_start() {
        let mut u = Units::new(vec![spec("store", &[])]);
        u.turn(at(0));
        u.spawned(0, 10, at(1));
        u.exited(10, "exit code 1", at(2));
        assert_eq!(
            actions(&mut u),
            [Action::Spawn(0), Action::StartFailed(0, "exit code 1".into())]
        );
    }

    #[test]
    fn stop_asks_then_kills_then_is_done() {
        let mut u = running();
        u.stop(at(100));
        assert_eq!(
            actions(&mut u),
            [Action::Signal(10, Signal::Term), Action::Signal(11, Signal::Term)]
        );
        u.exited(10, "exit code 0", at(101));
        assert_eq!(actions(&mut u), []);
        u.turn(at(100) + STOP_GRACE);
        assert_eq!(actions(&mut u), [Action::Signal(11, Signal::Kill)]);
        u.exited(11, "killed by signal 9", at(6_000));
        assert_eq!(actions(&mut u), [Action::Done]);
        assert_eq!(u.poll_timeout(), None);
    }
}
