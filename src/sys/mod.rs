//! sys (to come)

#[allow(dead_code)]
pub(crate) mod durable;
#[allow(dead_code)]
pub(crate) mod flock;
#[allow(dead_code)]
pub(crate) mod ids;
