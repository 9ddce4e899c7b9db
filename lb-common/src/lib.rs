//! What kernel and daemon share.
