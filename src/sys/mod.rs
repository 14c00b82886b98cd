//! sys (to come)
