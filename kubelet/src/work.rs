//! What the core hands to the workers, and what comes back: the closed list of effects of the kubelet.

use crate::container::StartSpec;
use crate::probe::Kind;
use crate::volume::VolumeSpec;
use pintle_runtime::net;
use pintle_runtime::sandbox as rt;
use std::net::IpAddr;
use std::path::PathBuf;

/// One piece of work. Jobs of one pod's [`Job::Pod`] never overlap; all others may.
#[derive(Clone, Debug)]
pub enum Job {
    /// Steps of one pod, in order.
    Pod {
        /// Uid of the pod.
        uid: String,
        /// In order; after a failed sandbox or volume step the rest is skipped.
        steps: Vec<Step>,
    },
    /// A signal to a run.
    Signal {
        /// Sandbox.
        sandbox: String,
        /// Run.
        run: String,
        /// Number.
        signal: i32,
        /// To every process of it.
        all: bool,
    },
    /// A probe or a hook.
    Check {
        /// Whose.
        ticket: Ticket,
        /// What to do.
        check: Check,
        /// Limit in milliseconds; 0 = none.
        timeout_ms: u64,
    },
    /// Bring the node's bridge up.
    Network(net::Bridge),
    /// List the images.
    Images,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Remove a sandbox; its address is free afterwards.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Make a sandbox and put it on the network.
    Sandbox {
        /// For the runtime.
        config: Box<rt::SandboxConfig>,
        /// Place on the bridge; the namespace is filled in by the worker. `None` = host network.
        port: Option<Box<net::Port>>,
    },
    /// Make volumes and pod files as they should be.
    Volumes {
        /// Volumes.
        volumes: Vec<VolumeSpec>,
        /// Pod files.
        files: Vec<(PathBuf, String)>,
    },
    /// Make and start a run.
    Start(Box<StartSpec>),
    /// Remove an ended run.
    RemoveRun {
        /// Sandbox.
        sandbox: String,
        /// Run.
        run: String,
        /// Its log and termination files.
        files: Vec<PathBuf>,
    },
    /// Remove all that the pod has on disk.
    CleanUp {
        /// Its folders.
        folders: Vec<PathBuf>,
    },
}

/// Whose probe or hook it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// Uid of the pod.
    pub uid: String,
    /// Run.
    pub run: String,
    /// What it is.
    pub what: What,
}

/// Kinds of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A probe.
    Probe(Kind),
    /// The postStart hook.
    PostStart,
    /// The preStop hook.
    PreStop,
}

/// What a probe or hook does.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// Run a command in the container; exit code 0 is success.
    Exec {
        /// Sandbox.
        sandbox: String,
        /// Run.
        run: String,
        /// argv.
        command: Vec<String>,
    },
    /// GET; a code from 200 to 399 is success.
    Http {
        /// Where.
        address: IpAddr,
        /// TCP port.
        port: u16,
        /// With TLS, the certificate not verified.
        tls: bool,
        /// Path with query.
        path: String,
        /// Headers; `Host` in it replaces the default.
        headers: Vec<(String, String)>,
    },
    /// Connect.
    Tcp {
        /// Where.
        address: IpAddr,
        /// TCP port.
        port: u16,
    },
    /// Nothing for this many seconds.
    Sleep(u64),
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// It succeeded.
    pub success: bool,
    /// What it said: goes into the event's message when it failed.
    pub message: String,
}

/// What came of a job.
#[derive(Debug)]
pub enum Done {
    /// Of [`Job::Pod`]: one result a step that was carried out.
    Pod {
        /// Uid of the pod.
        uid: String,
        /// In the order of the steps; steps that were skipped have none.
        results: Vec<StepResult>,
    },
    /// Of [`Job::Check`].
    Check {
        /// Whose.
        ticket: Ticket,
        /// What came of it.
        outcome: Outcome,
    },
    /// Of [`Job::Network`].
    Network(Result<(), String>),
    /// Of [`Job::Images`].
    Images(Vec<crate::node::ImageInfo>),
}

/// What came of a step.
#[derive(Debug)]
pub enum StepResult {
    /// Of [`Step::RemoveSandbox`].
    SandboxRemoved {
        /// Its id.
        id: String,
        /// Why not.
        result: Result<(), String>,
    },
    /// Of [`Step::Sandbox`].
    Sandbox {
        /// Its id.
        id: String,
        /// As found, or why not.
        result: Result<Box<rt::SandboxState>, String>,
    },
    /// Of [`Step::Volumes`].
    Volumes(Result<(), String>),
    /// Of [`Step::Start`].
    Started {
        /// Container name.
        name: String,
        /// Number of the run.
        attempt: u32,
        /// How far it came.
        result: StartResult,
    },
    /// Of [`Step::RemoveRun`].
    RunRemoved {
        /// Run.
        run: String,
    },
    /// Of [`Step::CleanUp`].
    CleanedUp(Result<(), String>),
}

/// How far the start of a run came.
#[derive(Debug)]
pub enum StartResult {
    /// It runs (or ended already).
    Running(Box<rt::ContainerState>),
    /// There is no such image.
    NoImage(String),
    /// It could not be made: reason (`CreateContainerError`, `CreateContainerConfigError`) and message.
    NotCreated(&'static str, String),
    /// It was made, and its first process could not be started.
    NotStarted(Box<rt::ContainerState>, String),
}
