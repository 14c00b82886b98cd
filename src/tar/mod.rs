//! tar (to come)
