//! Mounts (to come).
/// A mount, as a value.
#[derive(Clone, Debug)]
pub struct Mount {}
