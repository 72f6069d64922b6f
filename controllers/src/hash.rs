//! Short, stable names for pod templates (`pod-template-hash`, controller revisions).

use serde_json::Value;

/// Hash of a template and a collision count, in the alphabet of generated names; at most ten characters.
pub fn of_template(template: &Value, collisions: u64) -> String {
    let mut hash = 0x811c_9dc5u32;
    let mut feed = |bytes: &[u8]| {
        for b in bytes {
            hash = (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    };
    // Maps of this JSON library are sorted, so equal templates have equal texts.
    feed(template.to_string().as_bytes());
    if collisions > 0 {
        feed(collisions.to_string().as_bytes());
    }
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string()
        .bytes()
        .map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()]))
        .collect()
}
