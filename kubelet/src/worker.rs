//! Carries jobs out, on a thread that may block for milliseconds. Decides nothing.

use crate::container::StartSpec;
use crate::disk;
use crate::node::ImageInfo;
use crate::volume::Layout;
use crate::work::{Check, Done, Job, Outcome, StartResult, Step, StepResult, Ticket};
use pintle_runtime::sandbox::{self as rt, Error};
use pintle_runtime::{image, net};
use std::os::fd::OwnedFd;
use std::path::Path;

/// What the worker needs of the runtime; the real one, or a fake in tests.
pub trait Engine: Send + Sync {
    /// See [`rt::Runtime::create_sandbox`].
    fn create_sandbox(&self, config: &rt::SandboxConfig) -> rt::Result<rt::SandboxState>;
    /// See [`rt::Runtime::remove_sandbox`].
    fn remove_sandbox(&self, id: &str) -> rt::Result<()>;
    /// See [`rt::Runtime::events`].
    fn events(&self, sandbox: &str) -> rt::Result<OwnedFd>;
    /// See [`rt::Runtime::create_container`].
    fn create_container(
        &self,
        sandbox: &str,
        config: &rt::ContainerConfig,
    ) -> rt::Result<rt::ContainerState>;
    /// See [`rt::Runtime::start_container`].
    fn start_container(&self, sandbox: &str, run: &str) -> rt::Result<rt::ContainerState>;
    /// See [`rt::Runtime::kill_container`].
    fn kill_container(&self, sandbox: &str, run: &str, signal: i32, all: bool) -> rt::Result<()>;
    /// See [`rt::Runtime::remove_container`].
    fn remove_container(&self, sandbox: &str, run: &str) -> rt::Result<()>;
    /// See [`rt::Runtime::exec`].
    fn exec(&self, sandbox: &str, config: &rt::ExecConfig) -> rt::Result<rt::Streams>;
    /// Whether an image is there.
    fn has_image(&self, reference: &str) -> bool;
    /// All images.
    fn images(&self) -> Vec<ImageInfo>;
    /// See [`net::ensure_bridge`].
    fn ensure_bridge(&self, bridge: &net::Bridge) -> rt::Result<()>;
    /// See [`net::attach`].
    fn attach(&self, port: &net::Port) -> rt::Result<()>;
}

impl Engine for rt::Runtime {
    fn create_sandbox(&self, config: &rt::SandboxConfig) -> rt::Result<rt::SandboxState> {
        rt::Runtime::create_sandbox(self, config)
    }
    fn remove_sandbox(&self, id: &str) -> rt::Result<()> {
        rt::Runtime::remove_sandbox(self, id)
    }
    fn events(&self, sandbox: &str) -> rt::Result<OwnedFd> {
        rt::Runtime::events(self, sandbox)
    }
    fn create_container(
        &self,
        sandbox: &str,
        config: &rt::ContainerConfig,
    ) -> rt::Result<rt::ContainerState> {
        rt::Runtime::create_container(self, sandbox, config)
    }
    fn start_container(&self, sandbox: &str, run: &str) -> rt::Result<rt::ContainerState> {
        rt::Runtime::start_container(self, sandbox, run)
    }
    fn kill_container(&self, sandbox: &str, run: &str, signal: i32, all: bool) -> rt::Result<()> {
        rt::Runtime::kill_container(self, sandbox, run, signal, all)
    }
    fn remove_container(&self, sandbox: &str, run: &str) -> rt::Result<()> {
        rt::Runtime::remove_container(self, sandbox, run, true)
    }
    fn exec(&self, sandbox: &str, config: &rt::ExecConfig) -> rt::Result<rt::Streams> {
        rt::Runtime::exec(self, sandbox, config)
    }
    fn has_image(&self, reference: &str) -> bool {
        image::resolve(&self.config.images, reference).is_ok()
    }
    fn images(&self) -> Vec<ImageInfo> {
        let all = image::list(&self.config.images).unwrap_or_default();
        all.into_iter().map(|i| ImageInfo { names: i.names, size_bytes: i.size_bytes }).collect()
    }
    fn ensure_bridge(&self, bridge: &net::Bridge) -> rt::Result<()> {
        net::ensure_bridge(bridge)
    }
    fn attach(&self, port: &net::Port) -> rt::Result<()> {
        net::attach(port)
    }
}

/// What comes out of a job, for the shell.
#[derive(Debug, Default)]
pub struct Output {
    /// For the core.
    pub done: Option<Done>,
    /// Event descriptors of new sandboxes, by id.
    pub events: Vec<(String, OwnedFd)>,
    /// An exec check that was started: its end comes by the sandbox's events.
    pub exec: Option<(Ticket, String, rt::Streams)>,
}

fn text(e: &Error) -> String {
    let said = e.to_string();
    match std::error::Error::source(e).map(|cause| cause.to_string()) {
        Some(cause) if !said.contains(cause.as_str()) => format!("{said}: {cause}"),
        _ => said,
    }
}

/// Carries out a job. [`Check`]s other than exec are the shell's (its loop waits for sockets and time).
pub fn perform(engine: &dyn Engine, layout: &Layout, job: Job) -> Output {
    let mut out = Output::default();
    match job {
        Job::Pod { uid, steps } => {
            let mut results = Vec::new();
            for step in steps {
                let result = step_of(engine, layout, &uid, step, &mut out);
                let stop = matches!(
                    result,
                    StepResult::Sandbox { result: Err(_), .. }
                        | StepResult::Volumes(Err(_))
                        | StepResult::SandboxRemoved { result: Err(_), .. }
                );
                results.push(result);
                if stop {
                    break;
                }
            }
            out.done = Some(Done::Pod { uid, results });
        }
        Job::Signal { sandbox, run, signal, all } => {
            // One that has ended by itself needs no signal; its end is reported by the shim.
            if let Err(e) = engine.kill_container(&sandbox, &run, signal, all) {
                pintle_base::log::debug("signal", &[("run", &run), ("error", &text(&e))]);
            }
        }
        Job::Check { ticket, check, timeout_ms } => {
            let Check::Exec { sandbox, run, command } = check else { return out };
            let config = rt::ExecConfig {
                container: run,
                command,
                tty: false,
                stdin: false,
                stdout: true,
                stderr: true,
                timeout_ms,
            };
            match engine.exec(&sandbox, &config) {
                Ok(streams) => out.exec = Some((ticket, sandbox, streams)),
                Err(e) => {
                    let outcome = Outcome { success: false, message: text(&e) };
                    out.done = Some(Done::Check { ticket, outcome });
                }
            }
        }
        Job::Network(bridge) => {
            out.done = Some(Done::Network(engine.ensure_bridge(&bridge).map_err(|e| text(&e))));
        }
        Job::Images => out.done = Some(Done::Images(engine.images())),
    }
    out
}

fn step_of(
    engine: &dyn Engine,
    layout: &Layout,
    uid: &str,
    step: Step,
    out: &mut Output,
) -> StepResult {
    match step {
        Step::RemoveSandbox { id } => {
            let result = engine.remove_sandbox(&id).map_err(|e| text(&e));
            StepResult::SandboxRemoved { id, result }
        }
        Step::Sandbox { config, port } => {
            let result = sandbox(engine, &config, port, out).map(Box::new).map_err(|e| text(&e));
            StepResult::Sandbox { id: config.id, result }
        }
        Step::Volumes { volumes, files } => {
            StepResult::Volumes(disk::make_volumes(&volumes, &files))
        }
        Step::Start(spec) => {
            let (name, attempt) = (spec.name.clone(), spec.attempt);
            let result = start(engine, layout, uid, *spec);
            StepResult::Started { name, attempt, result }
        }
        Step::RemoveRun { sandbox, run, files } => {
            if let Err(e) = engine.remove_container(&sandbox, &run) {
                pintle_base::log::warn(
                    "run was not removed",
                    &[("run", &run), ("error", &text(&e))],
                );
            }
            for file in files {
                disk::remove_with_rotated(&file);
            }
            StepResult::RunRemoved { run }
        }
        Step::CleanUp { folders } => StepResult::CleanedUp(disk::remove_folders(&folders)),
    }
}

fn sandbox(
    engine: &dyn Engine,
    config: &rt::SandboxConfig,
    port: Option<Box<net::Port>>,
    out: &mut Output,
) -> rt::Result<rt::SandboxState> {
    let state = engine.create_sandbox(config)?;
    if let Some(mut port) = port {
        port.netns = state.netns.clone();
        engine.attach(&port)?;
    }
    // Before any container runs, so that no end is missed.
    out.events.push((config.id.clone(), engine.events(&config.id)?));
    Ok(state)
}

fn start(engine: &dyn Engine, layout: &Layout, uid: &str, spec: StartSpec) -> StartResult {
    let StartSpec { mut config, mounts, termination_file, sandbox, name, .. } = spec;
    if let Err(why) = disk::touch_termination(&termination_file) {
        return StartResult::NotCreated("CreateContainerError", why);
    }
    match disk::resolve_mounts(&mounts, &layout.pod(uid).join("subpaths"), &name) {
        Ok(mounts) => config.mounts = mounts,
        Err(why) => return StartResult::NotCreated("CreateContainerConfigError", why),
    }
    let state = match engine.create_container(&sandbox, &config) {
        Ok(state) => state,
        Err(Error::NotFound(why)) if !engine.has_image(&config.image) => {
            return StartResult::NoImage(why);
        }
        Err(e) => {
            let refused = matches!(e, Error::Invalid(_)) && config.user.must_not_be_root;
            let reason =
                if refused { "CreateContainerConfigError" } else { "CreateContainerError" };
            return StartResult::NotCreated(reason, text(&e));
        }
    };
    match engine.start_container(&sandbox, &config.id) {
        Ok(state) => StartResult::Running(Box::new(state)),
        Err(e) => StartResult::NotStarted(Box::new(state), text(&e)),
    }
}

/// The pods that have a folder, by uid, with their last known objects (null = none): for those that the API
/// server no longer has.
pub fn saved_pods(pods: &Path) -> std::collections::BTreeMap<String, serde_json::Value> {
    let mut out = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        let Some(uid) = entry.file_name().to_str().map(String::from) else { continue };
        let text = std::fs::read(entry.path().join("pod.json")).unwrap_or_default();
        out.insert(uid, serde_json::from_slice(&text).unwrap_or_default());
    }
    out
}
