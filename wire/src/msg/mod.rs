//! What streams carry. A stream is opened with an [`Open`] and then carries messages of the kind that its
//! variant names, each a bincode envelope; object bodies inside are JSON and travel as they are stored.

pub mod api;
pub mod node;
pub mod split;
pub mod store;

use bincode::{Decode, Encode};
use std::sync::Arc;

/// Shared bytes: encoded once, referenced by every stream that sends them.
pub type Body = Arc<[u8]>;

/// The first message of a stream: what the opener wants. New variants go last; an unknown one is answered by
/// a reset of the stream with `ResetCode::Unsupported`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Open {
    /// To the store: one request; answered by one [`store::Reply`], or by a stream of them for a watch.
    Store(store::Request),
    /// To the API server: one request; answered by one [`api::Reply`], or many for a watch.
    Api(Box<api::Request>),
    /// From the API server to a node, over the connection that the node opened; both sides then send
    /// [`node::Frame`]s.
    Node(node::Request),
    /// To any daemon: what it is and how it does; answered by one [`Info`].
    Info,
}

/// What a daemon says of itself (for `pintle status`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Info {
    /// `apiserver`, `kubelet`, ...
    pub daemon: String,
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Ready to do its work.
    pub ready: bool,
    /// One line for a human: what it waits for, how much it holds.
    pub detail: String,
}

/// Largest number of bytes that a decoder may claim for one message, whatever lengths it contains.
pub const DECODE_BYTES_MAX: usize = 16 << 20;

/// Why bytes are not a message.
pub type DecodeError = bincode::error::DecodeError;

/// Encodes a message (little-endian, variable-length integers). The one place that configures the codec.
pub fn encode<T: Encode>(message: &T) -> Vec<u8> {
    // Encoding into a growing vector fails only for types that none of our messages contain.
    bincode::encode_to_vec(message, config()).unwrap_or_default()
}

/// Decodes a message; every byte must belong to it.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (message, used) = bincode::decode_from_slice(bytes, config())?;
    if used == bytes.len() {
        Ok(message)
    } else {
        Err(DecodeError::OtherString(format!(
            "{} bytes left over after the message",
            bytes.len() - used
        )))
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}
