//! One watched resource: list in pages, watch from there, and what to do when either breaks.
//!
//! The state says which stream belongs to it; everything else on that stream's end is one of four outcomes:
//! go on, resume the watch, list anew, or try again after a pause.

use crate::limits::{LIST_PAGE_OBJECTS, REFLECT_RETRY_MAX, REFLECT_RETRY_MIN};
use crate::{Key, Object, WatchSpec};
use pintle_base::{Prng, Time};
use pintle_wire::StreamId;
use pintle_wire::msg::api::{Options, Request, Verb};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a reflector is at.
#[derive(Debug)]
pub(crate) enum State {
    /// To be started at this time, once there is a connection.
    Waiting(Time),
    /// Pages arrive.
    Listing {
        stream: StreamId,
        /// The page that was asked for; empty = the first.
        token: String,
        /// Objects of the pages before it.
        objects: BTreeMap<Key, Object>,
    },
    /// Changes arrive.
    Watching(StreamId),
}

#[derive(Debug)]
pub(crate) struct Reflector {
    spec: WatchSpec,
    pub(crate) state: State,
    /// Every change up to this one is in the cache; 0 = list first.
    pub(crate) revision: u64,
    /// Page to ask for next, with what came before it.
    pub(crate) next_page: Option<(String, BTreeMap<Key, Object>)>,
    failures: u32,
}

impl Reflector {
    pub(crate) fn new(spec: WatchSpec) -> Reflector {
        Reflector {
            spec,
            state: State::Waiting(Time(0)),
            revision: 0,
            next_page: None,
            failures: 0,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.spec.resource
    }

    pub(crate) fn stream(&self) -> Option<StreamId> {
        match self.state {
            State::Waiting(_) => None,
            State::Listing { stream, .. } | State::Watching(stream) => Some(stream),
        }
    }

    /// When it wants to be started.
    pub(crate) fn wants(&self) -> Option<Time> {
        match self.state {
            State::Waiting(at) => Some(at),
            State::Listing { .. } | State::Watching(_) => None,
        }
    }

    /// The request that comes next: a page, the first page, or the watch.
    pub(crate) fn request(&self) -> Request {
        let verb = if self.revision == 0 { Verb::List } else { Verb::Watch };
        let mut request =
            Request::new(verb, self.spec.group, self.spec.version, self.spec.resource);
        request.namespace = self.spec.namespace.clone();
        let text = |s: &String| (!s.is_empty()).then(|| s.clone());
        request.options = Options {
            label_selector: text(&self.spec.label_selector),
            field_selector: text(&self.spec.field_selector),
            ..Options::default()
        };
        match verb {
            Verb::Watch => {
                request.options.resource_version = Some(self.revision.to_string());
                request.options.bookmarks = true;
            }
            _ => {
                request.options.limit = LIST_PAGE_OBJECTS;
                request.options.continue_token = self.next_page.as_ref().map(|(t, _)| t.clone());
            }
        }
        request
    }

    /// The request was sent on this stream.
    pub(crate) fn started(&mut self, stream: StreamId) {
        self.state = if self.revision == 0 {
            let (token, objects) = self.next_page.take().unwrap_or_default();
            State::Listing { stream, token, objects }
        } else {
            State::Watching(stream)
        };
    }

    /// It works again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Go on at once: the next page, or the watch after the list.
    pub(crate) fn go_on(&mut self) {
        self.state = State::Waiting(Time(0));
    }

    /// What is known is too old: start from nothing.
    pub(crate) fn relist(&mut self) {
        self.revision = 0;
        self.next_page = None;
        self.go_on();
    }

    /// The stream is gone. Pages that have arrived are kept: the token of the next one still stands, and if it has
    /// run out the server says so.
    pub(crate) fn interrupted(&mut self) {
        if let State::Listing { token, objects, .. } =
            std::mem::replace(&mut self.state, State::Waiting(Time(0)))
            && !token.is_empty()
        {
            self.next_page = Some((token, objects));
        }
    }

    /// Try again after a pause that grows with each failure in a row; gives their number.
    pub(crate) fn retry(&mut self, now: Time, prng: &mut Prng) -> u32 {
        self.interrupted();
        let pause = REFLECT_RETRY_MIN * 2u32.saturating_pow(self.failures.min(12));
        let pause = jitter(pause.min(REFLECT_RETRY_MAX), prng);
        self.failures += 1;
        self.state = State::Waiting(now + pause);
        self.failures
    }
}

/// Between half of `pause` and all of it.
pub(crate) fn jitter(pause: Duration, prng: &mut Prng) -> Duration {
    let half = pause / 2;
    half + Duration::from_nanos(prng.below(half.as_nanos() as u64 + 1))
}
