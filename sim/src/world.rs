//! The world: one queue of events in virtual time, connections that carry bytes late, processes that die.
//!
//! Everything is drawn from one seed. The order of events is that of their times, then of their making; nothing
//! else decides, so that a seed gives the same history on every machine.

use crate::apiserver::ApiProcess;
use crate::daemon::DaemonProcess;
use crate::hollow::{Hollow, Machine};
use crate::oracle::{Oracle, Shared};
use crate::process::{Outputs, Process};
use crate::store::StoreProcess;
use crate::user::User;
use pintle_base::disk::SimDisk;
use pintle_base::{Now, Prng, Time, Wall};
use pintle_controllers::{Config, Manager};
use pintle_scheduler::Scheduler;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// A connection; numbers are never used twice.
pub type LinkId = u64;

/// Events that one history may have; more means that something goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// The simulated wall clock starts here.
const EPOCH_UNIX_S: i64 = 1_795_424_482;

const STORE: usize = 0;
const API: usize = 1;
const CONTROLLERS: usize = 2;
const SCHEDULER: usize = 3;
const USER: usize = 4;
const KUBELETS: usize = 5;

/// How bad it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Delays only: the strict invariants are checked.
    Calm,
    /// Connections are cut and held up, clocks step, daemons are slow, pods fail.
    Rough,
    /// Processes die too, and the power goes.
    Storm,
}

struct Slot {
    name: String,
    process: Option<Box<dyn Process>>,
    upstream: Option<usize>,
    link: Option<LinkId>,
    /// Counts lives: events of an earlier one are void.
    life: u64,
    skew_ns: i64,
    busy_until: Time,
    wake_at: Option<Time>,
    /// When the last piece of disk work (commit, chore) will be done.
    disk_until: [Time; 2],
}

struct Link {
    client: usize,
    server: usize,
    /// Bytes under way, and when the last of them arrives: to the server, to the client.
    ways: [(VecDeque<Vec<u8>>, Time); 2],
    held_until: Time,
    /// One side has heard of the end.
    half: bool,
}

enum Event {
    Deliver(LinkId, usize),
    Cut(usize, u64, LinkId),
    Wake(usize, u64, Time),
    Connect(usize, u64),
    Disk(usize, u64, bool),
    Start(usize),
    Fault,
    DiskHasSpace,
}

/// See the module.
pub struct World {
    seed: u64,
    prng: Prng,
    /// Shared with the processes.
    pub oracle: Shared,
    weather: Weather,
    now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    serial: u64,
    events: u64,
    slots: Vec<Slot>,
    links: BTreeMap<LinkId, Link>,
    disk: SimDisk,
    machines: Vec<Rc<RefCell<Machine>>>,
    calm: Rc<Cell<bool>>,
    finish: Rc<Cell<bool>>,
}

impl World {
    /// A cluster that is about to be started for the first time.
    pub fn new(seed: u64) -> World {
        let mut prng = Prng::new(seed);
        let weather = match prng.below(4) {
            0 => Weather::Calm,
            1 => Weather::Rough,
            _ => Weather::Storm,
        };
        let nodes = 2 + prng.below(3) as usize;
        let oracle: Shared = Rc::new(RefCell::new(Oracle::default()));
        oracle.borrow_mut().strict = weather == Weather::Calm;
        let slot = |name: String, upstream| Slot {
            name,
            process: None,
            upstream,
            link: None,
            life: 0,
            skew_ns: 0,
            busy_until: Time(0),
            wake_at: None,
            disk_until: [Time(0); 2],
        };
        let mut slots = vec![
            slot("store".into(), None),
            slot("apiserver".into(), Some(STORE)),
            slot("controllers".into(), Some(API)),
            slot("scheduler".into(), Some(API)),
            slot("user".into(), Some(API)),
        ];
        slots.extend((0..nodes).map(|i| slot(format!("kubelet n{i}"), Some(API))));
        World {
            seed,
            prng,
            oracle,
            weather,
            now: Time(1_000_000_000),
            queue: BTreeMap::new(),
            serial: 0,
            events: 0,
            slots,
            links: BTreeMap::new(),
            disk: SimDisk::new(512, seed ^ 0xd15c),
            machines: (0..nodes).map(|_| Rc::default()).collect(),
            calm: Rc::new(Cell::new(weather == Weather::Calm)),
            finish: Rc::new(Cell::new(false)),
        }
    }

    /// The whole history: chaos, healing, rest. The error says what went wrong and when.
    pub fn run(&mut self) -> Result<Summary, String> {
        for slot in 0..self.slots.len() {
            self.push(self.now, Event::Start(slot));
        }
        let chaos = self.now + Duration::from_secs(20 + self.prng.below(40));
        if self.weather != Weather::Calm {
            self.push(self.now + Duration::from_secs(5), Event::Fault);
        }
        self.run_until(chaos)?;
        self.heal();
        let healed = self.now;
        let patience = healed + Duration::from_secs(1_800);
        let rest = Duration::from_secs(120);
        loop {
            let last = self.oracle.borrow().last_write.0.max(healed);
            if self.now.saturating_since(last) >= rest {
                break;
            }
            if self.now >= patience {
                let what = self.oracle.borrow().last_write.1.clone();
                return Err(format!("the cluster does not come to rest; last write: {what}"));
            }
            self.run_until(last + rest)?;
        }
        let mut wrong = crate::settled::differences(&self.oracle.borrow());
        for slot in &self.slots {
            match &slot.process {
                Some(p) if p.ready() => wrong.extend(p.differences()),
                Some(_) => wrong.push(format!("{} never became ready", slot.name)),
                None => wrong.push(format!("{} does not run", slot.name)),
            }
        }
        let oracle = self.oracle.borrow();
        if wrong.is_empty() {
            let settled = oracle.last_write.0.saturating_since(healed);
            let (writes, revision) = (oracle.writes, oracle.revision);
            Ok(Summary { weather: self.weather, events: self.events, writes, revision, settled })
        } else {
            Err(format!("at rest, but not as desired:\n  {}", wrong.join("\n  ")))
        }
    }

    fn push(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.queue.insert((at, self.serial), event);
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from * 1_000 + self.prng.below((to - from) * 1_000))
    }

    fn now_of(&self, slot: usize) -> Now {
        let wall = Wall::from_unix_s(EPOCH_UNIX_S).0 + self.now.0 as i64;
        Now { mono: self.now, wall: Wall(wall + self.slots[slot].skew_ns) }
    }

    fn note(&self, text: &str) {
        self.oracle.borrow_mut().note(self.now_of(USER), &format!("-- {text}"));
    }

    fn run_until(&mut self, end: Time) -> Result<(), String> {
        while let Some(((at, serial), _)) = self.queue.first_key_value() {
            if *at > end {
                break;
            }
            let key = (*at, *serial);
            self.now = self.now.max(key.0);
            let Some(event) = self.queue.remove(&key) else { break };
            self.events += 1;
            self.step(event)?;
            let oracle = self.oracle.borrow();
            if let Some(first) = oracle.violations.first() {
                return Err(first.clone());
            }
            if self.events > EVENTS_MAX {
                return Err(format!("more than {EVENTS_MAX} events: something goes in circles"));
            }
        }
        self.now = end;
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver(link, way) => self.deliver(link, way),
            Event::Cut(slot, life, link) => {
                if self.slots[slot].life == life {
                    self.with(slot, |p, now| p.cut(link, now));
                    self.lost(slot, link);
                }
            }
            Event::Wake(slot, life, at) => {
                let s = &mut self.slots[slot];
                if s.life != life || s.wake_at != Some(at) {
                    return Ok(());
                }
                s.wake_at = None;
                if s.busy_until > self.now {
                    let until = s.busy_until;
                    s.wake_at = Some(until);
                    self.push(until, Event::Wake(slot, life, until));
                } else {
                    self.with(slot, |p, now| p.timeout(now));
                }
            }
            Event::Connect(slot, life) => {
                if self.slots[slot].life == life && self.slots[slot].link.is_none() {
                    self.connect(slot);
                }
            }
            Event::Disk(slot, life, chore) => {
                if self.slots[slot].life == life {
                    self.with(slot, |p, now| p.disk(chore, now));
                }
            }
            Event::Start(slot) => self.start(slot)?,
            Event::Fault => {
                if !self.finish.get() {
                    self.fault();
                    let pause = self.ms(200, 6_000);
                    self.push(self.now + pause, Event::Fault);
                }
            }
            Event::DiskHasSpace => self.disk.set_full(false),
        }
        Ok(())
    }

    // Lets a process act and carries out what it wants.
    fn with(&mut self, slot: usize, act: impl FnOnce(&mut dyn Process, Now)) {
        let now = self.now_of(slot);
        let Some(mut process) = self.slots[slot].process.take() else { return };
        act(&mut *process, now);
        let mut out = Outputs::default();
        process.turn(now, &mut out);
        let wake = process.poll_timeout();
        let s = &mut self.slots[slot];
        s.process = Some(process);
        if let Some(at) = wake {
            // Never at once: time must pass for something to change.
            let at = at.max(self.now + Duration::from_micros(10));
            if s.wake_at.is_none_or(|w| at < w) {
                s.wake_at = Some(at);
                let life = s.life;
                self.push(at, Event::Wake(slot, life, at));
            }
        }
        for (link, bytes) in out.bytes {
            self.send(slot, link, bytes);
        }
        for link in out.close {
            self.lost(slot, link);
        }
        for (chore, count) in [(false, out.disk.0), (true, out.disk.1)] {
            for _ in 0..count {
                let took = if chore { self.ms(1, 50) } else { self.ms(0, 8) };
                let until = self.slots[slot].disk_until[usize::from(chore)].max(self.now) + took;
                self.slots[slot].disk_until[usize::from(chore)] = until;
                let life = self.slots[slot].life;
                self.push(until, Event::Disk(slot, life, chore));
            }
        }
        if let Some(why) = out.exit {
            self.note(&format!("{} ends: {why}", self.slots[slot].name));
            self.kill(slot);
        }
    }

    fn send(&mut self, slot: usize, link: LinkId, mut bytes: Vec<u8>) {
        while !bytes.is_empty() {
            let whole = bytes.len() < 2 || self.prng.chance(2, 3);
            let cut = if whole {
                bytes.len()
            } else {
                1 + self.prng.below(bytes.len() as u64 - 1) as usize
            };
            let rest = bytes.split_off(cut);
            let late = if self.prng.chance(1, 50) { self.ms(5, 200) } else { self.ms(0, 3) };
            let Some(l) = self.links.get_mut(&link) else { return };
            let way = usize::from(l.server == slot);
            let at = (self.now + late).max(l.ways[way].1);
            l.ways[way].0.push_back(std::mem::replace(&mut bytes, rest));
            l.ways[way].1 = at;
            self.push(at, Event::Deliver(link, way));
        }
    }

    fn deliver(&mut self, link: LinkId, way: usize) {
        let Some(l) = self.links.get_mut(&link) else { return };
        let to = if way == 0 { l.server } else { l.client };
        let until = l.held_until.max(self.slots[to].busy_until);
        if until > self.now {
            self.push(until, Event::Deliver(link, way));
            return;
        }
        let Some(bytes) = l.ways[way].0.pop_front() else { return };
        self.with(to, |p, now| p.input(link, &bytes, now));
    }

    fn connect(&mut self, slot: usize) {
        let Some(server) = self.slots[slot].upstream else { return };
        if self.slots[server].process.is_none() {
            let pause = self.ms(20, 1_000);
            let life = self.slots[slot].life;
            self.push(self.now + pause, Event::Connect(slot, life));
            return;
        }
        self.serial += 1;
        let link = self.serial;
        let ways = [(VecDeque::new(), self.now), (VecDeque::new(), self.now)];
        self.links
            .insert(link, Link { client: slot, server, ways, held_until: Time(0), half: false });
        self.slots[slot].link = Some(link);
        let name = self.slots[slot].name.clone();
        self.with(server, |p, now| p.accepted(link, &name, now));
        self.with(slot, |p, now| p.connected(link, now));
    }

    // One side knows that a connection is gone (or made it so): the other hears of it later, after what is
    // still under way to it, of which the end is lost.
    fn lost(&mut self, slot: usize, link: LinkId) {
        if self.slots[slot].link == Some(link) {
            self.slots[slot].link = None;
            let pause = self.ms(5, 500);
            let life = self.slots[slot].life;
            self.push(self.now + pause, Event::Connect(slot, life));
        }
        let Some(l) = self.links.get_mut(&link) else { return };
        if l.half {
            self.links.remove(&link);
            return;
        }
        l.half = true;
        let other = if l.client == slot { l.server } else { l.client };
        let way = usize::from(l.server == slot);
        let keep = self.prng.below(l.ways[way].0.len() as u64 + 1) as usize;
        l.ways[way].0.truncate(keep);
        let at = l.ways[way].1.max(l.held_until).max(self.now);
        let at = (at + Duration::from_millis(1)).max(self.slots[other].busy_until);
        let life = self.slots[other].life;
        self.push(at, Event::Cut(other, life, link));
    }

    fn start(&mut self, slot: usize) -> Result<(), String> {
        if self.slots[slot].process.is_some() {
            return Ok(());
        }
        let now = self.now_of(slot);
        let life = self.slots[slot].life;
        let seed = self.seed.wrapping_mul(31).wrapping_add((slot as u64) << 20).wrapping_add(life);
        let process: Box<dyn Process> = match slot {
            STORE => Box::new(
                StoreProcess::open(&self.disk, &self.oracle, now)
                    .map_err(|e| format!("the store cannot be opened: {e}"))?,
            ),
            API => Box::new(ApiProcess::new(seed, now)),
            CONTROLLERS => {
                let config = Config {
                    root_ca_pem: "PEM".into(),
                    cluster_cidr: "10.244.0.0/16".into(),
                    node_cidr_bits: 24,
                };
                let core = Manager::new(&config);
                Box::new(DaemonProcess::new(core, "controllers", "", seed, &self.oracle))
            }
            SCHEDULER => {
                let core = Scheduler::new();
                Box::new(DaemonProcess::new(core, "scheduler", "", seed, &self.oracle))
            }
            USER => {
                let wild = self.weather != Weather::Calm;
                let core = User::new(seed, wild, &self.finish, &self.oracle);
                Box::new(DaemonProcess::new(core, "cli", "", seed, &self.oracle))
            }
            _ => {
                let i = slot - KUBELETS;
                let core = Hollow::new(i, &self.machines[i], &self.calm, seed);
                Box::new(DaemonProcess::new(core, "kubelet", &format!("n{i}"), seed, &self.oracle))
            }
        };
        self.note(&format!("{} starts", self.slots[slot].name));
        self.slots[slot].process = Some(process);
        self.with(slot, |_, _| {});
        if self.slots[slot].upstream.is_some() {
            self.push(self.now, Event::Connect(slot, life));
        }
        Ok(())
    }

    fn kill(&mut self, slot: usize) {
        let Some(mut process) = self.slots[slot].process.take() else { return };
        process.dying(&mut self.prng);
        drop(process);
        let s = &mut self.slots[slot];
        s.life += 1;
        s.link = None;
        s.wake_at = None;
        s.busy_until = Time(0);
        s.disk_until = [Time(0); 2];
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, l)| l.client == slot || l.server == slot)
            .map(|(id, _)| *id)
            .collect();
        for link in links {
            self.lost(slot, link);
        }
        // A lost node is one whose kubelet is away for longer than its lease.
        let long = slot >= KUBELETS && self.prng.chance(1, 4);
        let away = if long { self.ms(30_000, 90_000) } else { self.ms(1, 8_000) };
        self.push(self.now + away, Event::Start(slot));
    }

    fn fault(&mut self) {
        let slot = self.prng.below(self.slots.len() as u64) as usize;
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        let link = links.get(self.prng.below(links.len() as u64) as usize).copied();
        match self.prng.below(10) {
            0..=3 if self.weather == Weather::Storm && slot != USER => {
                self.note(&format!("{} is killed", self.slots[slot].name));
                self.kill(slot);
            }
            0..=4 => {
                let Some(link) = link else { return };
                let Some(l) = self.links.get(&link) else { return };
                let (client, server) = (l.client, l.server);
                let first = if self.prng.chance(1, 2) { client } else { server };
                self.note(&format!("the connection of {} is cut", self.slots[client].name));
                let life = self.slots[first].life;
                self.push(self.now, Event::Cut(first, life, link));
            }
            5 | 6 => {
                let Some(link) = link else { return };
                let long = self.prng.chance(1, 6);
                let held = if long { self.ms(20_000, 70_000) } else { self.ms(50, 5_000) };
                if let Some(l) = self.links.get_mut(&link) {
                    l.held_until = self.now + held;
                    let client = l.client;
                    let text = format!("{} is partitioned for {held:?}", self.slots[client].name);
                    self.note(&text);
                }
            }
            7 => {
                let slow = self.ms(50, 4_000);
                self.slots[slot].busy_until = self.now + slow;
                self.note(&format!("{} is slow for {slow:?}", self.slots[slot].name));
            }
            8 => {
                let step = self.prng.below(20_000) as i64 - 10_000;
                self.slots[slot].skew_ns += step * 1_000_000;
                self.note(&format!("the clock of {} steps by {step} ms", self.slots[slot].name));
            }
            _ => {
                let full = self.ms(100, 5_000);
                self.disk.set_full(true);
                self.push(self.now + full, Event::DiskHasSpace);
                self.note("the disk is full");
            }
        }
    }

    // No fault any more; what was done stays done.
    fn heal(&mut self) {
        self.note("faults and user end here");
        self.calm.set(true);
        self.finish.set(true);
        self.disk.set_full(false);
        for link in self.links.values_mut() {
            link.held_until = link.held_until.min(self.now);
        }
        for slot in 0..self.slots.len() {
            self.slots[slot].busy_until = self.now;
            if self.slots[slot].process.is_none() {
                self.push(self.now, Event::Start(slot));
            } else {
                // The end of faults is news for nobody but the simulated parts.
                self.with(slot, |_, _| {});
            }
        }
    }

    /// Figures of the moment, for a failure.
    pub fn position(&self) -> String {
        format!(
            "at {:.3} s of virtual time, event {}, weather {:?}",
            self.now.0 as f64 / 1e9,
            self.events,
            self.weather
        )
    }
}

/// What a good history was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How bad it was.
    pub weather: Weather,
    /// Events.
    pub events: u64,
    /// Changes that the store published.
    pub writes: u64,
    /// The store's last revision.
    pub revision: u64,
    /// From the end of the faults to the last write that was no heartbeat.
    pub settled: Duration,
}
