//! Nothing: the program is `tests/peer.rs`.
