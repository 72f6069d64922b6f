//! Exec, attach, port-forward and log of a pod: what the request means, and whether it can be done.
//!
//! References: pkg/registry/core/pod (streamLocation, LogLocation) for the order of the checks and their texts;
//! KUBECTL.md section 3 for the protocols.

use super::http::{Head, Request};
use super::render::Rendered;
use super::rest::Target;
use super::stream::{self, Session, Slot, exec, forward, log, ports, ws};
use super::uri::Query;
use super::{ConnId, Front};
use crate::error::{Cause, Failure, GroupName};
use crate::server::{Attributes, Identity};
use pintle_base::Wall;
use pintle_wire::msg::Body;
use pintle_wire::msg::node;
use serde_json::Value;

/// How an answer to a streaming request begins.
pub(super) enum Start {
    /// 101 with these header lines.
    Upgrade(Vec<(&'static str, String)>),
    /// 200, then chunks.
    Chunked(Head),
}

/// A streaming request that can be tried.
pub(super) struct Begin {
    /// The node's connection.
    pub(super) node: ConnId,
    pub(super) session: Session,
    pub(super) start: Start,
    /// To be opened at once; the answer then begins when the node has accepted. Empty = it begins at once.
    pub(super) open: Option<node::Request>,
}

/// The slot of [`Begin::open`].
pub(super) const FIRST_SLOT: Slot = 0;

/// What to do about a streaming request.
pub(super) enum Decision {
    Begin(Box<Begin>),
    Answer(Rendered),
}

/// Whether the path is served here and not by the core.
pub(super) fn is_stream(target: &Target) -> bool {
    is_node_proxy(target) || is_pod_stream(target)
}

/// `nodes/N/proxy/PATH`: what a kubelet answers over its own connection.
fn is_node_proxy(target: &Target) -> bool {
    target.group.is_empty() && target.resource == "nodes" && target.subresource == "proxy"
}

fn is_pod_stream(target: &Target) -> bool {
    target.group.is_empty()
        && target.resource == "pods"
        && matches!(target.subresource.as_str(), "exec" | "attach" | "portforward" | "log")
}

struct Pod {
    value: Value,
    namespace: String,
    name: String,
}

impl Pod {
    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn containers(&self, list: &str) -> Vec<&str> {
        let all = self.value["spec"][list].as_array().into_iter().flatten();
        all.filter_map(|c| c["name"].as_str()).collect()
    }

    /// The container that is meant: the named one, or the only one.
    fn container(&self, wanted: &str) -> Result<String, Failure> {
        let (own, init, ephemeral) = (
            self.containers("containers"),
            self.containers("initContainers"),
            self.containers("ephemeralContainers"),
        );
        if !wanted.is_empty() {
            if own.iter().chain(&init).chain(&ephemeral).any(|c| *c == wanted) {
                return Ok(wanted.into());
            }
            let text = format!("container {wanted} is not valid for pod {}", self.name);
            return Err(Failure::bad_request(text));
        }
        if let [only] = own.as_slice() {
            return Ok((*only).into());
        }
        let mut text = format!("a container name must be specified for pod {}", self.name);
        if !own.is_empty() {
            text.push_str(&format!(", choose one of: [{}]", own.join(" ")));
        }
        if !init.is_empty() {
            text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
        }
        if !ephemeral.is_empty() {
            let names = ephemeral.join(" ");
            text.push_str(&format!(" or one of the ephemeral containers: [{names}]"));
        }
        Err(Failure::bad_request(text))
    }

    fn target(&self, container: String) -> node::Target {
        node::Target {
            namespace: self.namespace.clone(),
            pod: self.name.clone(),
            uid: self.text("/metadata/uid").into(),
            container,
        }
    }
}

impl Front {
    /// Decides about a streaming request of somebody who is known.
    pub(super) fn pod_stream(
        &mut self,
        who: &Identity,
        target: &Target,
        request: &Request,
        query: &Query,
        now: Wall,
    ) -> Result<Decision, Rendered> {
        let verb = target.verb_for_authorization(&request.method, query);
        let attributes = Attributes {
            verb,
            group: "",
            version: &target.version,
            resource: &target.resource,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: &target.name,
            path: "",
        };
        self.core.authorize(who, &attributes)?;
        if is_node_proxy(target) {
            return self.node_proxy(target, request);
        }
        let is_log = target.subresource == "log";
        if !matches!((request.method.as_str(), is_log), ("GET", _) | ("POST", false)) {
            return Err(super::special::method_not_allowed().into());
        }
        if !is_log && request.method == "GET" {
            // A WebSocket does what a POST does: it takes the same right (KEP-5365).
            self.core.authorize(who, &Attributes { verb: "create", ..attributes })?;
        }
        if is_log {
            return self.pod_log(target, request, query, now);
        }
        let pod = self.pod(target)?;
        let how = Upgrade::read(request)?;
        let begin = match target.subresource.as_str() {
            "portforward" => port_forward(&pod, &how, query)?,
            sub => run(&pod, &how, query, sub == "attach")?,
        };
        let (session, start, open) = begin;
        let node = self.node_of(&pod)?;
        Ok(Decision::Begin(Box::new(Begin { node, session, start, open })))
    }

    fn node_proxy(&mut self, target: &Target, request: &Request) -> Result<Decision, Rendered> {
        if request.method != "GET" {
            return Err(super::special::method_not_allowed().into());
        }
        let name = &target.name;
        if self.core.peek("", "nodes", "", name).is_none() {
            return Err(Failure::not_found(GroupName { group: "", name: "nodes" }, name).into());
        }
        let node = self.connected(name)?;
        let mut path = format!("/{}", target.tail);
        if !request.query.is_empty() {
            path = format!("{path}?{}", request.query);
        }
        let json = path.starts_with("/stats") || path.starts_with("/pods");
        let content = if json { "application/json" } else { "text/plain; charset=utf-8" };
        let start = Start::Chunked(Head::new(200, content));
        let session = Session::Log(log::Log::new(log::Form::Plain));
        let open = Some(node::Request::Get { path });
        Ok(Decision::Begin(Box::new(Begin { node, session, start, open })))
    }

    fn connected(&self, node: &str) -> Result<ConnId, Failure> {
        self.nodes.get(node).copied().ok_or_else(|| {
            Failure::internal(format!(
                "error dialing backend: node {node:?} is not connected to the API server"
            ))
        })
    }

    /// Completes what a wire client asks of a pod (uid, and the container when one is needed); gives the
    /// connection of its node.
    pub(super) fn pod_target(
        &self,
        target: &mut node::Target,
        with_container: bool,
    ) -> Result<ConnId, Failure> {
        let pod = self.pod_named(&target.namespace, &target.pod)?;
        let container =
            if with_container { pod.container(&target.container)? } else { String::new() };
        *target = pod.target(container);
        self.node_of(&pod)
    }

    fn pod(&self, target: &Target) -> Result<Pod, Failure> {
        self.pod_named(&target.namespace, &target.name)
    }

    fn pod_named(&self, namespace: &str, name: &str) -> Result<Pod, Failure> {
        let found = self.core.peek("", "pods", namespace, name);
        let value = found.and_then(|body| serde_json::from_slice(&body).ok());
        let value =
            value.ok_or_else(|| Failure::not_found(GroupName { group: "", name: "pods" }, name))?;
        Ok(Pod { value, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn node_of(&self, pod: &Pod) -> Result<ConnId, Failure> {
        let node = pod.text("/spec/nodeName");
        if node.is_empty() {
            let text = format!("pod {} does not have a host assigned", pod.name);
            return Err(Failure::bad_request(text));
        }
        self.connected(node)
    }

    fn pod_log(
        &mut self,
        target: &Target,
        request: &Request,
        query: &Query,
        now: Wall,
    ) -> Result<Decision, Rendered> {
        let options = log_options(&target.name, query, now)?;
        let pod = self.pod(target)?;
        let container = pod.container(query.get("container").unwrap_or_default())?;
        let (form, start) = if ws::Handshake::wanted(request) {
            let shake = ws::Handshake::read(request).map_err(Failure::bad_request)?;
            let known = ["binary.k8s.io", "base64.binary.k8s.io"];
            let chosen = choose(&shake.protocols, &known)?;
            let reader = ws::Reader::default();
            let base64 = chosen == "base64.binary.k8s.io";
            (log::Form::Socket { reader, base64 }, websocket(&shake, chosen))
        } else {
            let head = Head::new(200, "text/plain");
            (log::Form::Plain, Start::Chunked(head))
        };
        if pod.text("/spec/nodeName").is_empty() {
            // Nothing has run, so nothing was logged.
            let head = Head::new(200, "text/plain");
            return Ok(Decision::Answer(Rendered { head, body: Body::from([]) }));
        }
        let node = self.node_of(&pod)?;
        let open = node::Request::Logs { target: pod.target(container), options };
        let session = Session::Log(log::Log::new(form));
        Ok(Decision::Begin(Box::new(Begin { node, session, start, open: Some(open) })))
    }
}

type Parts = (Session, Start, Option<node::Request>);

/// How the client wants the connection upgraded.
enum Upgrade {
    WebSocket(ws::Handshake),
    /// Protocol versions, the best first.
    Spdy(Vec<String>),
}

impl Upgrade {
    fn read(request: &Request) -> Result<Upgrade, Failure> {
        if ws::Handshake::wanted(request) {
            return ws::Handshake::read(request)
                .map(Upgrade::WebSocket)
                .map_err(Failure::bad_request);
        }
        if request.has_token("connection", "upgrade") && request.has_token("upgrade", "spdy/3.1") {
            let versions = request.all("x-stream-protocol-version").flat_map(|v| v.split(','));
            return Ok(Upgrade::Spdy(versions.map(|v| v.trim().to_string()).collect()));
        }
        Err(Failure::bad_request("Upgrade request required"))
    }
}

// The first of the client's protocols that is known; none offered = the empty one.
fn choose<'a>(offered: &[String], known: &[&'a str]) -> Result<&'a str, Failure> {
    if offered.is_empty() {
        return Ok("");
    }
    let found = offered.iter().find_map(|o| known.iter().find(|k| *k == o));
    found.copied().ok_or_else(|| {
        Failure::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {known:?}"
        ))
    })
}

fn websocket(shake: &ws::Handshake, chosen: &str) -> Start {
    let mut headers = vec![
        ("Upgrade", "websocket".to_string()),
        ("Connection", "Upgrade".to_string()),
        ("Sec-WebSocket-Accept", shake.accept.clone()),
    ];
    if !chosen.is_empty() {
        headers.push(("Sec-WebSocket-Protocol", chosen.to_string()));
    }
    Start::Upgrade(headers)
}

fn spdy(chosen: &str) -> Start {
    let mut headers =
        vec![("Upgrade", "SPDY/3.1".to_string()), ("Connection", "Upgrade".to_string())];
    if !chosen.is_empty() {
        headers.push(("X-Stream-Protocol-Version", chosen.to_string()));
    }
    Start::Upgrade(headers)
}

fn run(pod: &Pod, how: &Upgrade, query: &Query, attach: bool) -> Result<Parts, Failure> {
    let container = pod.container(query.get("container").unwrap_or_default())?;
    let io = node::Io {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    };
    if !io.stdin && !io.stdout && !io.stderr {
        return Err(Failure::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if io.tty && io.stderr {
        return Err(Failure::bad_request("tty and stderr cannot both be true"));
    }
    let command: Vec<String> = query.all("command").map(String::from).collect();
    if !attach && command.is_empty() {
        return Err(Failure::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    let target = pod.target(container);
    let open = match attach {
        true => node::Request::Attach { target, io },
        false => node::Request::Exec { target, command: command.clone(), io },
    };
    let (session, start) = match how {
        Upgrade::WebSocket(shake) => {
            let known: Vec<&str> = exec::PROTOCOLS.iter().map(|p| p.name).collect();
            let chosen = choose(&shake.protocols, &known)?;
            let protocol = exec::PROTOCOLS.iter().find(|p| p.name == chosen);
            let protocol = *protocol.unwrap_or(&exec::PROTOCOLS[0]);
            (exec::Exec::websocket(protocol, io, command), websocket(shake, chosen))
        }
        Upgrade::Spdy(versions) => {
            let chosen = choose(versions, &exec::SPDY_PROTOCOLS)?;
            (exec::Exec::spdy(chosen, io, command), spdy(chosen))
        }
    };
    Ok((Session::Exec(Box::new(session)), start, Some(open)))
}

/// Name of port-forward's protocol, and of its tunnel through WebSocket.
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

fn port_forward(pod: &Pod, how: &Upgrade, query: &Query) -> Result<Parts, Failure> {
    let target = pod.target(String::new());
    let shake = match how {
        Upgrade::Spdy(versions) => {
            let chosen = choose(versions, &[PORT_FORWARD])?;
            let session = Session::Forward(Box::new(forward::Forward::new(target, false)));
            return Ok((session, spdy(chosen), None));
        }
        Upgrade::WebSocket(shake) => shake,
    };
    if shake.protocols.iter().any(|p| p == TUNNEL) {
        let session = Session::Forward(Box::new(forward::Forward::new(target, true)));
        return Ok((session, websocket(shake, TUNNEL), None));
    }
    let known = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
    let chosen = choose(&shake.protocols, &known)?;
    let mut wanted = Vec::new();
    for text in query.all("ports").flat_map(|v| v.split(',')) {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => wanted.push(port),
            _ => return Err(Failure::bad_request(format!("port {text:?} is not a port number"))),
        }
    }
    if wanted.is_empty() || wanted.len() > PORTS_MAX {
        return Err(Failure::bad_request(format!(
            "query parameter \"ports\" must name 1 to {PORTS_MAX} ports"
        )));
    }
    let protocol = exec::PROTOCOLS.iter().find(|p| p.name == chosen);
    let protocol = *protocol.unwrap_or(&exec::PROTOCOLS[1]);
    let session = Session::Ports(ports::Ports::new(target, protocol, &wanted));
    Ok((session, websocket(shake, chosen), None))
}

/// Two channels a port, and a channel is one byte (255 is taken).
const PORTS_MAX: usize = 127;

fn log_options(pod: &str, query: &Query, now: Wall) -> Result<node::LogOptions, Failure> {
    let number = |key: &str| query.number(key).map_err(Failure::bad_request);
    let (tail, limit, since) =
        (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
    let since_time = query.get("sinceTime").filter(|v| !v.is_empty());
    let mut causes = Vec::new();
    let mut check = |field: &str, value: Option<i64>, min: i64, text: &str| {
        if let Some(n) = value.filter(|n| *n < min) {
            causes.push(Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {n}: {text}"),
                field: field.into(),
            });
        }
    };
    check("tailLines", tail, 0, "must be greater than or equal to 0");
    check("limitBytes", limit, 1, "must be greater than 0");
    check("sinceSeconds", since, 1, "must be greater than 0");
    if since.is_some() && since_time.is_some() {
        causes.push(Cause {
            reason: "FieldValueForbidden".into(),
            message: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
                .into(),
            field: String::new(),
        });
    }
    if !causes.is_empty() {
        let what = GroupName { group: "", name: "PodLogOptions" };
        return Err(Failure::invalid(what, pod, causes));
    }
    let since_unix_ns = match (since, since_time) {
        (Some(s), _) => Some(now.0.saturating_sub(s.saturating_mul(1_000_000_000))),
        (None, Some(text)) => {
            let parsed = Wall::parse_rfc3339(text);
            let bad =
                || Failure::bad_request(format!("sinceTime {text:?} is not an RFC 3339 time"));
            Some(parsed.ok_or_else(bad)?.0)
        }
        (None, None) => None,
    };
    Ok(node::LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: tail.and_then(|n| u64::try_from(n).ok()),
        since_unix_ns,
        limit_bytes: limit.and_then(|n| u64::try_from(n).ok()),
    })
}

/// The failure of a stream that never began, as the node told it.
pub(super) fn refused(event: &stream::NodeEvent) -> Rendered {
    match event {
        stream::NodeEvent::Frame(node::Frame::Failed { code, reason, message }) => {
            let mut reply = Failure::plain(*code, "", message.clone()).status();
            if !reason.is_empty() {
                reply["reason"] = reason.as_str().into();
            }
            let body = Body::from(reply.to_string().into_bytes());
            Rendered { head: Head::new(*code, "application/json"), body }
        }
        stream::NodeEvent::Frame(_) => Failure::internal("the node answered out of order").into(),
        stream::NodeEvent::Gone(why) => {
            Failure::internal(format!("error dialing backend: {why}")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: Value) -> Pod {
        Pod { value, namespace: "ns".into(), name: "p".into() }
    }

    #[test]
    fn containers_are_found_or_asked_for() {
        let one = pod(json!({"spec": {"containers": [{"name": "a"}]}}));
        assert_eq!(one.container(""), Ok("a".into()));
        assert_eq!(
            one.container("x").map_err(|f| f.message),
            Err("container x is not valid for pod p".into())
        );
        let many = pod(json!({"spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
        }}));
        assert_eq!(many.container("i"), Ok("i".into()));
        assert_eq!(
            many.container("").map_err(|f| f.message),
            Err("a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]".into())
        );
    }

    #[test]
    fn log_options_are_read_and_checked() {
        let now = Wall::from_unix_s(1_000);
        let q = Query::parse("follow=true&tailLines=5&sinceSeconds=10&limitBytes=7&timestamps=1");
        let o = log_options("p", &q, now).expect("good");
        assert!(o.follow && o.timestamps && !o.previous);
        assert_eq!((o.tail_lines, o.limit_bytes), (Some(5), Some(7)));
        assert_eq!(o.since_unix_ns, Some(990_000_000_000));
        let bad = log_options("p", &Query::parse("tailLines=-1"), now).expect_err("refused");
        assert_eq!(
            bad.message,
            "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
        );
    }
}
