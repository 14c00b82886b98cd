//! A broken rule, before the reader adds where it was broken.

use std::borrow::Cow;

use crate::error::ErrorKind;
use crate::path::PathError;
use crate::whiteout::MarkerError;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    pub(super) rule: Cow<'static, str>,
}

impl Fault {
    /// The archive breaks a rule.
    pub(super) fn new(rule: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: ErrorKind::InvalidLayer, rule: rule.into() }
    }

    /// The archive asks for more than it may have.
    pub(super) fn limit(rule: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: ErrorKind::LimitExceeded, rule: rule.into() }
    }
}

impl From<PathError> for Fault {
    fn from(error: PathError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<MarkerError> for Fault {
    fn from(error: MarkerError) -> Self {
        Self::new(error.to_string())
    }
}

#[cfg(test)]
mod tests;
