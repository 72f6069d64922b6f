//! Where a stream leads: the pod, container and run that the API server names, and the first call to the runtime.

use super::pool::Pool;
use super::sessions::Kind;
use pintle_kubelet::core::Kubelet;
use pintle_kubelet::state::{Phase, PodState, Run};
use pintle_runtime::sandbox::ExecConfig;
use pintle_wire::msg::node::{Frame, Io, Target};

/// A refusal with the HTTP code and reason that fit.
pub fn failed(code: u16, reason: &str, message: String) -> Frame {
    Frame::Failed { code, reason: reason.into(), message }
}

/// A container of a pod.
pub struct Place<'a> {
    /// The pod.
    pub pod: &'a PodState,
    /// Name of the container.
    pub name: String,
}

/// The pod and container of a target.
pub fn find<'a>(kubelet: &'a Kubelet, target: &Target) -> Result<Place<'a>, Frame> {
    let pod = kubelet
        .pod_by_key(&target.namespace, &target.pod)
        .filter(|p| target.uid.is_empty() || p.pod.metadata.uid == target.uid)
        .ok_or_else(|| {
            let what = format!("pod {}/{} is not on this node", target.namespace, target.pod);
            failed(404, "NotFound", what)
        })?;
    let name = match (target.container.as_str(), pod.pod.spec.containers.first()) {
        ("", Some(first)) => first.name.clone(),
        (name, _) => name.to_string(),
    };
    if pod.pod.container(&name).is_none() {
        let what = format!("container {name} is not valid for pod {}", target.pod);
        return Err(failed(400, "BadRequest", what));
    }
    Ok(Place { pod, name })
}

/// Its running run.
pub fn running<'a>(place: &Place<'a>) -> Result<&'a Run, Frame> {
    let run = place.pod.last_run(&place.name).filter(|r| r.phase == Phase::Running);
    run.ok_or_else(|| {
        failed(500, "InternalError", format!("container not found (\"{}\")", place.name))
    })
}

/// Asks the runtime for a command in a container.
pub fn begin_exec(
    kubelet: &Kubelet,
    pool: &Pool,
    id: u64,
    target: &Target,
    command: Vec<String>,
    io: Io,
) -> Result<Kind, Frame> {
    let place = find(kubelet, target)?;
    let run = running(&place)?;
    let config = ExecConfig {
        container: run.id.clone(),
        command,
        tty: io.tty,
        stdin: io.stdin,
        stdout: io.stdout,
        stderr: io.stderr && !io.tty,
        timeout_ms: 0,
    };
    pool.exec(id, run.sandbox.clone(), config);
    Ok(Kind::Begins { sandbox: run.sandbox.clone(), run: run.id.clone(), early: Vec::new() })
}

/// Asks the runtime for a container's own streams.
pub fn begin_attach(
    kubelet: &Kubelet,
    pool: &Pool,
    id: u64,
    target: &Target,
    io: Io,
) -> Result<Kind, Frame> {
    let place = find(kubelet, target)?;
    let run = running(&place)?;
    pool.attach(id, run.sandbox.clone(), run.id.clone(), io.stdin);
    Ok(Kind::Begins { sandbox: run.sandbox.clone(), run: run.id.clone(), early: Vec::new() })
}

/// Asks for a connection into a pod.
pub fn begin_forward(
    kubelet: &Kubelet,
    pool: &Pool,
    id: u64,
    target: &Target,
    port: u16,
) -> Result<Kind, Frame> {
    let place = find(kubelet, &Target { container: String::new(), ..target.clone() })?;
    let sandbox = place.pod.sandbox.as_ref().filter(|b| b.ready).ok_or_else(|| {
        failed(500, "InternalError", format!("pod {} is not running", target.pod))
    })?;
    let inside = (!place.pod.pod.spec.host_network).then(|| sandbox.id.clone());
    pool.dial(id, inside, port);
    Ok(Kind::Begins { sandbox: sandbox.id.clone(), run: String::new(), early: Vec::new() })
}
