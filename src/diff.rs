//! diff (to come)
