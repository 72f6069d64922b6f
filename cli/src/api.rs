//! The user's side of the API server: one blocking connection over the wire protocol.

use crate::cluster::layout::Layout;
use pintle_base::Time;
use pintle_reactor::{Endpoint, blocking};
use pintle_wire::conn::{Hello, Limits, StreamId};
use pintle_wire::msg::api::{EventType, Reply, Request, Verb};
use pintle_wire::msg::{self, Open};
use serde_json::Value;
use std::time::Duration;

/// How long to wait for the connection and for each answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why something did not work, for the user.
#[derive(Debug)]
pub enum Error {
    /// The API server said no: HTTP code, reason, message.
    Status(u16, String, String),
    /// No answer; the text says what to do.
    Down(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Status(_, reason, message) if reason.is_empty() => f.write_str(message),
            Error::Status(_, reason, message) => write!(f, "{message} ({reason})"),
            Error::Down(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The API server says that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Status(404, _, _))
    }
}

/// A connection to the API server as the administrator.
pub struct Api {
    client: blocking::Client,
}

/// One event of a watch.
pub struct WatchEvent {
    /// What happened.
    pub kind: EventType,
    /// The object.
    pub object: Value,
}

impl Api {
    /// Connects to the API server of a data directory.
    pub fn connect(layout: &Layout) -> Result<Api, Error> {
        let socket = layout.socket("apiserver");
        if !socket.exists() {
            return Err(Error::Down(format!(
                "no cluster runs in {} (there is no {}); start one with pintle up, or name another --data-dir",
                layout.root().display(),
                socket.display()
            )));
        }
        let hello = Hello {
            daemon: "cli".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Hello::default()
        };
        let client = blocking::Client::connect(
            Endpoint::Unix(socket.clone()),
            hello,
            Limits::default(),
            TIMEOUT,
        )
        .map_err(|e| {
            let why = crate::cluster::node::chain(&e);
            Error::Down(format!(
                "cannot reach the API server at {}: {why}; see pintle status",
                socket.display()
            ))
        })?;
        Ok(Api { client })
    }

    /// One request, one object (or list, or Status of success).
    pub fn call(&mut self, request: Request) -> Result<Value, Error> {
        let (value, warnings) = self.call_with_warnings(request)?;
        for w in warnings {
            eprintln!("Warning: {w}");
        }
        Ok(value)
    }

    /// The same, with the warnings of the answer.
    pub fn call_with_warnings(&mut self, request: Request) -> Result<(Value, Vec<String>), Error> {
        let open = Open::Api(Box::new(request));
        let bytes = self.client.call(&msg::encode(&open)).map_err(|e| down(&e))?;
        match msg::decode::<Reply>(&bytes) {
            Ok(Reply::Object { code, warnings, body }) => {
                let value = parse(&body)?;
                if code >= 400 { Err(status(code, &value)) } else { Ok((value, warnings)) }
            }
            Ok(Reply::Event { .. }) => {
                Err(Error::Down("the API server answered with a watch event".into()))
            }
            Err(e) => Err(Error::Down(format!("the API server's answer cannot be read: {e}"))),
        }
    }

    /// Starts a watch; its events come from `next_event`.
    pub fn watch(&mut self, request: Request) -> Result<StreamId, Error> {
        let open = Open::Api(Box::new(request));
        self.client.open(&msg::encode(&open), true).map_err(|e| down(&e))
    }

    /// The next event of a watch; `None` when the server has ended it. `deadline` by the monotonic clock.
    pub fn next_event(
        &mut self,
        stream: StreamId,
        deadline: Option<Time>,
    ) -> Result<Option<WatchEvent>, Error> {
        let Some(bytes) = self.client.next(stream, deadline).map_err(|e| down(&e))? else {
            return Ok(None);
        };
        match msg::decode::<Reply>(&bytes) {
            Ok(Reply::Event { kind: EventType::Error, body, .. }) => {
                Err(status(410, &parse(&body)?))
            }
            Ok(Reply::Event { kind, body, .. }) => {
                Ok(Some(WatchEvent { kind, object: parse(&body)? }))
            }
            Ok(Reply::Object { code, body, .. }) => Err(status(code, &parse(&body)?)),
            Err(e) => Err(Error::Down(format!("the API server's answer cannot be read: {e}"))),
        }
    }

    /// Ends a watch.
    pub fn cancel(&mut self, stream: StreamId) {
        self.client.cancel(stream);
    }

    /// Lists a resource and then watches it until `done` says so for the whole set, by key, or `deadline` passes
    /// (then an error with `what`).
    pub fn wait_for(
        &mut self,
        mut list: Request,
        deadline: Time,
        what: &str,
        done: &mut dyn FnMut(&std::collections::BTreeMap<String, Value>) -> bool,
    ) -> Result<(), Error> {
        list.verb = Verb::List;
        let answer = self.call(list.clone())?;
        let key = |o: &Value| {
            let m = &o["metadata"];
            format!(
                "{}/{}",
                m["namespace"].as_str().unwrap_or_default(),
                m["name"].as_str().unwrap_or_default()
            )
        };
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let mut set: std::collections::BTreeMap<String, Value> =
            items.into_iter().map(|o| (key(&o), o)).collect();
        if done(&set) {
            return Ok(());
        }
        list.verb = Verb::Watch;
        list.options.resource_version =
            answer["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let stream = self.watch(list)?;
        loop {
            match self.next_event(stream, Some(deadline)) {
                Ok(Some(event)) => {
                    match event.kind {
                        EventType::Added | EventType::Modified => {
                            set.insert(key(&event.object), event.object)
                        }
                        EventType::Deleted => set.remove(&key(&event.object)),
                        EventType::Bookmark | EventType::Error => None,
                    };
                    if done(&set) {
                        self.cancel(stream);
                        return Ok(());
                    }
                }
                Ok(None) => {
                    return Err(Error::Down(format!(
                        "the API server ended the watch while waiting for {what}"
                    )));
                }
                Err(Error::Down(text)) => {
                    return Err(Error::Down(format!("waiting for {what}: {text}")));
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn parse(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body)
        .map_err(|e| Error::Down(format!("the API server's answer is not JSON: {e}")))
}

fn status(code: u16, v: &Value) -> Error {
    let text = |k: &str| v[k].as_str().unwrap_or_default().to_owned();
    Error::Status(code, text("reason"), text("message"))
}

fn down(e: &dyn std::error::Error) -> Error {
    Error::Down(crate::cluster::node::chain(e))
}
