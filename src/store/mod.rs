//! store (to come)
