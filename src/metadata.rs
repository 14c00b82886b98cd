//! metadata (to come)
