//! lock (to come)
