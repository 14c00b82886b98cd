//! testing (to come)
