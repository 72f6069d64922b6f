//! Services and node routes into netfilter rules as data.
