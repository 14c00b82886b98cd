//! apply (to come)
