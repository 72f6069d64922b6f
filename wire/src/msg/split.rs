//! Messages whose last field is a shared body, as an envelope head and the body apart: `send_shared` then
//! puts the same bytes on the wire as `encode` of the whole message, and nobody copies the body.
//!
//! It works because the codec writes a body as its length followed by its bytes: the head is everything up
//! to and including the length.

use super::api::{EventType, Reply, Request};
use super::{Body, encode};

/// Head and body of a reply.
///
/// `conn.send_shared(stream, &head, &body)` sends what `conn.send(stream, &encode(&reply), &[])` would.
pub fn reply(reply: &Reply) -> (Vec<u8>, Body) {
    match reply {
        Reply::Object { code, warnings, body } => {
            (encode(&(0u32, code, warnings, body.len() as u64)), body.clone())
        }
        Reply::Event { kind, revision, body } => (event_head(*kind, *revision, body), body.clone()),
    }
}

/// Head of a `Reply::Event`.
pub fn event_head(kind: EventType, revision: u64, body: &Body) -> Vec<u8> {
    encode(&(1u32, kind, revision, body.len() as u64))
}

/// Head and body of the `Open::Api` message of a request.
pub fn request(request: &Request) -> (Vec<u8>, Body) {
    // `Open::Api` is variant 1.
    let r = request;
    let place = (&r.group, &r.version, &r.resource, &r.subresource, &r.namespace, &r.name);
    let head = (1u32, r.verb, place, &r.options, r.patch_type, r.body.len() as u64);
    (encode(&head), r.body.clone())
}

#[cfg(test)]
mod tests {
    use super::super::Open;
    use super::super::api::{Options, PatchType, Verb};
    use super::*;

    fn joined((head, body): (Vec<u8>, Body)) -> Vec<u8> {
        [&head[..], &body].concat()
    }

    #[test]
    fn split_messages_are_byte_for_byte_the_whole_ones() {
        for len in [0, 1, 250, 251, 252, 65_535, 65_536, 100_000] {
            let body: Body = vec![b'x'; len].into();
            let object = Reply::Object {
                code: 409,
                warnings: vec!["a".into(), "".into()],
                body: body.clone(),
            };
            assert_eq!(joined(reply(&object)), encode(&object), "object with {len}");
            for kind in [EventType::Added, EventType::Bookmark, EventType::Error] {
                let event = Reply::Event { kind, revision: 1 << 40, body: body.clone() };
                assert_eq!(joined(reply(&event)), encode(&event), "event with {len}");
            }
            let mut r = Request::new(Verb::Patch, "apps", "v1", "deployments");
            r.options =
                Options { limit: 500, field_manager: Some("m".into()), ..Options::default() };
            r.patch_type = Some(PatchType::Strategic);
            r.name = "web".into();
            r.body = body;
            assert_eq!(joined(request(&r)), encode(&Open::Api(Box::new(r.clone()))));
        }
    }
}
