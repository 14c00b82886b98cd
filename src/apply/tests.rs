//! The tree rule, in both forms, against the model in `testing` and against trees written out.

mod confinement;
mod faults;
mod metadata;
mod rules;
mod sharing;
mod stack;
