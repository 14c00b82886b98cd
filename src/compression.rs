//! compression (to come)
