//! The conformance kit: named cases of the layer contract, layers and expected trees as literals, to be run on anything that unpacks.
//!
//! Each case names its rule (`1.3` is SEMANTICS §1, rule 3). The literals stand for themselves: they are checked against the
//! [`model`](super::model), not made by it.

use std::fmt;
use std::path::Path;

use super::layer::Layer;
use super::tree::Tree;
use crate::error::{ErrorKind, Result};

mod cases;
mod suite;
#[cfg(test)]
mod tests;
mod through;

pub use cases::cases;
pub use suite::{backend_suite, images, store_suite};
pub use through::{Shown, import_image, import_layers, import_onto, show, through_store};

/// One case: a stack of layers, bottom first, and what it must make.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Section and rule of the contract: `1.3`.
    pub rule: &'static str,
    /// What the case is about.
    pub name: &'static str,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
    /// What comes of them.
    pub expected: Expected,
}

/// What must come of a stack of layers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Expected {
    /// This tree.
    Tree(Tree),
    /// The last layer is refused with `InvalidLayer`; those below it are valid.
    Invalid,
}

/// What the process that runs the kit may do. What it may not, the cases that need it are passed over for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Means {
    /// Any owner, and `security.` and `trusted.` xattrs: root outside of a user namespace.
    pub privileged: bool,
    /// mknod of devices.
    pub devices: bool,
}

impl Means {
    /// Root's.
    pub const ROOT: Self = Self { privileged: true, devices: true };
    /// The root of a user namespace with one id in it.
    pub const USER_NAMESPACE: Self = Self { privileged: false, devices: false };
}

/// What came of running the kit.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Outcome {
    /// How many cases ran.
    pub ran: usize,
    /// Cases that the process lacked the means for: rule, name, what was missing.
    pub passed_over: Vec<String>,
    /// Cases that failed, with their layers and what differed.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Takes over what came of running the kit in one way.
    fn add(&mut self, way: &str, other: Self) {
        self.ran += other.ran;
        self.passed_over.extend(other.passed_over);
        self.failures.extend(other.failures.into_iter().map(|failure| format!("  {way}:\n{failure}")));
    }

    /// Fails the test if a case failed, or none ran.
    ///
    /// # Panics
    /// When a case failed, or none ran.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failures.is_empty() && self.ran > 0, "{self}");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, passed_over) = (self.failures.len(), self.passed_over.len());
        writeln!(f, "conformance: {} cases ran, {failed} failed, {passed_over} passed over", self.ran)?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "{failure}"))
    }
}

impl Case {
    /// The beginning of a case; layers and the expectation follow.
    fn new(rule: &'static str, name: &'static str) -> Self {
        Self { rule, name, layers: Vec::new(), expected: Expected::Invalid }
    }

    /// One more layer, on top.
    fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// The layers make this tree.
    fn gives(self, tree: Tree) -> Self {
        Self { expected: Expected::Tree(tree), ..self }
    }

    /// The top layer is refused.
    fn refused(self) -> Self {
        Self { expected: Expected::Invalid, ..self }
    }

    /// What the process lacks to run the case; `None` when it can.
    pub fn lacks(&self, means: Means) -> Option<&'static str> {
        let any = |test: fn(&Layer) -> bool| self.layers.iter().any(test);
        if !means.devices && any(Layer::has_devices) {
            Some("may not make devices")
        } else if !means.privileged && any(Layer::needs_privileges) {
            Some("may not set any owner or xattr")
        } else {
            None
        }
    }

    /// Runs the case on an unpacker, as [`conformance`] does.
    ///
    /// # Errors
    /// What went wrong, line by line.
    pub fn run<G>(&self, unpack: impl FnOnce(&[Layer], &Path) -> Result<G>) -> std::result::Result<(), Vec<String>> {
        let scratch = tempfile::tempdir().map_err(|error| vec![format!("no temporary directory: {error}")])?;
        let at = scratch.path().join("root");
        std::fs::create_dir(&at).map_err(|error| vec![format!("no temporary directory: {error}")])?;
        match (unpack(&self.layers, &at), &self.expected) {
            (Ok(_mounted), Expected::Tree(tree)) => {
                let found = Tree::read(&at).map_err(|error| vec![error.to_string()])?;
                Some(tree.difference(&found)).filter(|lines| !lines.is_empty()).map_or(Ok(()), Err)
            }
            (Ok(_), Expected::Invalid) => Err(vec!["was accepted, and is InvalidLayer".to_owned()]),
            (Err(error), Expected::Invalid) if error.kind() == ErrorKind::InvalidLayer => Ok(()),
            (Err(error), _) => Err(vec![format!("{:?}: {error}", error.kind())]),
        }
    }
}

/// Runs all [`cases`] on an unpacker: given layers, bottom first, and an empty directory, it makes their tree be seen at that
/// directory, by unpacking or mounting. What it returns is kept until the tree was read: a guard that unmounts, or `()`.
pub fn conformance<G>(means: Means, mut unpack: impl FnMut(&[Layer], &Path) -> Result<G>) -> Outcome {
    let mut outcome = Outcome::default();
    for case in cases() {
        if let Some(what) = case.lacks(means) {
            outcome.passed_over.push(format!("{} {}: {what}", case.rule, case.name));
            continue;
        }
        outcome.ran += 1;
        if let Err(lines) = case.run(&mut unpack) {
            let layers: Vec<String> = case.layers.iter().map(|layer| format!("      {layer:?}")).collect();
            outcome.failures.push(format!(
                "  {} {}\n    layers, bottom first:\n{}\n    {}",
                case.rule,
                case.name,
                layers.join("\n"),
                lines.join("\n    ")
            ));
        }
    }
    outcome
}
