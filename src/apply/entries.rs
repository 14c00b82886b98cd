//! One entry after the other becomes an inode (SEMANTICS §1.2, §1.8).

use std::collections::HashMap;
use std::rc::Rc;

use super::directories::{Frame, State};
use super::facts::{Facts, Lower};
use super::files::{Files, NewFile, fill};
use super::links::{self, Links};
use super::markers::Hidden;
use super::metadata::{Before, Metadata, Mode};
use super::owners::Owners;
use super::placed::{ENTRY, OWN, Placed};
use super::{Form, Place};
use crate::entry::{Attributes, EntryStream, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::path::EntryPath;
use crate::progress::{Context, Reason};
use crate::snapshot::Usage;
use crate::sys::write_back::WriteBack;
use crate::sys::{Dir, FileType, Root, inode, xattr};
use crate::tree::{Applied, Ids, Marker};

/// What a pass came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) applied: Applied,
    /// It rests on guesses that cannot all be true.
    pub(super) contradictory: bool,
}

/// One pass over a layer.
#[derive(Debug)]
pub(super) struct Applier<'a> {
    pub(super) form: Form,
    pub(super) lower: Lower<'a>,
    /// What the layer's markers hide, where that is known already.
    pub(super) hidden: &'a Hidden,
    pub(super) cx: &'a Context<'a>,
    pub(super) tree: Root,
    pub(super) scratch: Rc<Dir>,
    pub(super) metadata: Metadata<'a>,
    /// Those that others write meanwhile.
    pub(super) files: Files,
    /// From the root to where the applier stands, and perhaps beyond.
    pub(super) frames: Vec<Frame>,
    pub(super) cursor: usize,
    /// Directories that would be made though nothing of the layer stands in them.
    pub(super) detours: Vec<EntryPath>,
    pub(super) placed: Placed,
    /// What was used of the lower tree.
    pub(super) facts: Facts,
    /// What the markers asked.
    pub(super) marker_facts: Facts,
    pub(super) links: Links,
    /// What lies in aufs's directory of link targets: names in the scratch directory, none for directories.
    pub(super) aside: HashMap<EntryPath, Option<Vec<u8>>>,
    /// Something was written.
    pub(super) changed: bool,
    /// A fault that the layer only has if no marker takes it away.
    pub(super) invalid: Option<Error>,
    /// Change form: what the tree does not say of what it hides.
    pub(super) hides: Vec<Marker>,
    root: Option<Attributes>,
    names: u64,
}

impl<'a> Applier<'a> {
    pub(super) fn new(
        place: Place,
        lower: Lower<'a>,
        form: Form,
        hidden: &'a Hidden,
        ids: Ids,
        cx: &'a Context<'a>,
    ) -> Result<Self> {
        let (tree, scratch) = (Rc::new(place.tree), Rc::new(place.scratch));
        neutralise(&scratch)?;
        // Without a parent everything is absent in it, and that is asked like any other: another stack may share the tree.
        let shows = form.is_change() && !hidden.hides_children(&EntryPath::ROOT);
        let mut applier = Self {
            form,
            lower,
            hidden,
            cx,
            tree: Root::new(tree.try_clone()?),
            metadata: Metadata::new(form, Owners::of_this_process(ids)?, Rc::clone(&scratch), cx),
            files: Files::new(place.written.map(WriteBack::sharing), cx),
            scratch,
            frames: vec![Frame::root(tree, shows)],
            cursor: 0,
            detours: Vec::new(),
            placed: Placed::default(),
            facts: Facts::default(),
            marker_facts: Facts::default(),
            links: Links::default(),
            aside: HashMap::new(),
            changed: false,
            invalid: None,
            hides: Vec::new(),
            root: None,
            names: 0,
        };
        if !form.is_change() {
            applier.remove_hidden(hidden)?;
        }
        Ok(applier)
    }

    pub(super) fn upsert(
        &mut self,
        path: &EntryPath,
        node: Node,
        attributes: Attributes,
        layer: &mut dyn EntryStream,
    ) -> Result<()> {
        self.links.drop_waiting(path);
        if let Node::Hardlink { target } = node {
            return self.hardlink(path, &target, layer.position());
        }
        let attributes = self.metadata.admit(path, attributes)?;
        let Some(name) = path.file_name() else {
            if node != Node::Directory {
                return Err(Error::new(ErrorKind::InvalidLayer, "apply entry").because("the root must be a directory"));
            }
            self.root = Some(attributes);
            return self.arrived(EntryPath::ROOT);
        };
        if links::is_aside(path) {
            return self.put_aside(path, &node, &attributes, layer);
        }
        self.resolve_parent(path)?;
        self.make_way()?;
        let position = self.here_path(name)?;
        match node {
            Node::Directory => self.directory(name, attributes)?,
            node => self.other(name, &position, &node, &attributes, layer)?,
        }
        self.arrived(position)
    }

    /// An entry stands at this literal path now: links that wait for it are next.
    pub(super) fn arrived(&mut self, position: EntryPath) -> Result<()> {
        self.placed.mark(&position, ENTRY | OWN);
        let woken = self.links.wake(&position);
        self.link_all(woken)
    }

    fn directory(&mut self, name: &[u8], attributes: Attributes) -> Result<()> {
        if self.step_in_tree(name) {
            return self.set_pending(attributes);
        }
        let mode = self.metadata.creation_mode(&attributes, 0o700);
        match self.modify()?.mkdir(name, mode) {
            Ok(()) => return self.enter_made(name, attributes, false),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if self.dir()?.stat(name)?.is_some_and(|stat| stat.is_dir()) {
            self.push(name, State::InTree)?;
            return self.set_pending(attributes);
        }
        // What was replaced does not come back, nor what it hid.
        let opaque = self.here()?.lower;
        let dir = self.modify()?;
        self.remove_from(&dir, name)?;
        dir.mkdir(name, mode)?;
        self.enter_made(name, attributes, opaque)
    }

    /// Anything but a directory.
    fn other(
        &mut self,
        name: &[u8],
        position: &EntryPath,
        node: &Node,
        attributes: &Attributes,
        layer: &mut dyn EntryStream,
    ) -> Result<()> {
        let dir = self.modify()?;
        match self.make(&dir, name, position, node, attributes, layer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if let Some((file_type, device)) = device(node) {
                    return self.replace_by_device(&dir, name, position, file_type, device, attributes);
                }
                self.remove(name)?;
                self.make(&dir, name, position, node, attributes, layer)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what stands at a name of the directory on which the cursor stands.
    pub(super) fn remove(&mut self, name: &[u8]) -> Result<()> {
        self.forget(name);
        let dir = self.modify()?;
        self.remove_from(&dir, name)
    }

    /// The same, where no frame stands for the name. `dir` is the directory on which the cursor stands.
    pub(super) fn remove_from(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        if self.lower.is_unknown() {
            let path = self.here_path(name)?;
            self.facts.overwritten(&path, true);
        }
        dir.remove_tree(name)
    }

    /// Makes a new inode at a name where nothing is.
    fn make(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &EntryPath,
        node: &Node,
        attributes: &Attributes,
        layer: &mut dyn EntryStream,
    ) -> Result<()> {
        match node {
            Node::File { size } => {
                let file = dir.create_file(name, self.metadata.creation_mode(attributes, 0o600))?;
                let left = self.metadata.is_plain(attributes) && self.files.takes(*size);
                match fill(&file, *size, layer, left, self.cx)? {
                    Some(content) => self.files.leave(NewFile {
                        file,
                        content,
                        attributes: attributes.clone(),
                        path: path.clone(),
                        position: layer.position(),
                    }),
                    None => {
                        self.metadata.set(&file, path, attributes, Before::New, Mode::Set)?;
                        self.files.finished(file);
                        Ok(())
                    }
                }
            }
            Node::Symlink { target } => {
                if target.is_empty() || target.contains(&0) || target.len() >= 4096 {
                    return Err(Error::new(ErrorKind::InvalidLayer, "apply entry")
                        .because("a symlink's target has 1 to 4095 bytes, no NUL"));
                }
                dir.symlink(target, name)?;
                self.metadata.set(dir.child_path_fd(name)?, path, attributes, Before::New, Mode::None)
            }
            Node::Fifo => {
                dir.mknod(name, FileType::Fifo, self.metadata.creation_mode(attributes, 0o600), (0, 0))?;
                self.metadata.set(dir.child_path_fd(name)?, path, attributes, Before::New, Mode::Set)
            }
            Node::CharDevice { major, minor } => {
                self.device(dir, name, path, FileType::CharacterDevice, (*major, *minor), attributes)
            }
            Node::BlockDevice { major, minor } => self.device(dir, name, path, FileType::BlockDevice, (*major, *minor), attributes),
            Node::Directory | Node::Hardlink { .. } => Ok(()),
        }
    }

    fn device(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &EntryPath,
        file_type: FileType,
        device: (u32, u32),
        attributes: &Attributes,
    ) -> Result<()> {
        match self.make_device(dir, name, path, file_type, device, attributes)? {
            true => Ok(()),
            false => self.cx.skip(path, Reason::DeviceRefused),
        }
    }

    /// `false` where no devices may be made here.
    pub(super) fn make_device(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &EntryPath,
        file_type: FileType,
        device: (u32, u32),
        attributes: &Attributes,
    ) -> Result<bool> {
        if file_type == FileType::CharacterDevice && device == crate::whiteout::overlay::WHITEOUT_DEVICE {
            return Err(Error::new(ErrorKind::InvalidLayer, "apply entry")
                .because("a character device 0:0 means a whiteout to overlayfs, so no layer may have one"));
        }
        match dir.mknod(name, file_type, self.metadata.creation_mode(attributes, 0o600), device) {
            Ok(()) => self.metadata.set(dir.child_path_fd(name)?, path, attributes, Before::New, Mode::Set).map(|()| true),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where devices are refused, what stands at the name stays.
    fn replace_by_device(
        &mut self,
        dir: &Dir,
        name: &[u8],
        path: &EntryPath,
        file_type: FileType,
        device: (u32, u32),
        attributes: &Attributes,
    ) -> Result<()> {
        let aside = self.new_name();
        let scratch = Rc::clone(&self.scratch);
        if !self.make_device(&scratch, &aside, path, file_type, device, attributes)? {
            return self.cx.skip(path, Reason::DeviceRefused);
        }
        self.remove(name)?;
        scratch.rename_noreplace(&aside, dir, name)
    }

    /// An inode that only links of this layer can reach.
    fn put_aside(&mut self, path: &EntryPath, node: &Node, attributes: &Attributes, layer: &mut dyn EntryStream) -> Result<()> {
        let name = (*node != Node::Directory).then(|| self.new_name());
        if let Some(name) = &name {
            let scratch = Rc::clone(&self.scratch);
            self.make(&scratch, name, path, node, attributes, layer)?;
        }
        self.aside.insert(path.clone(), name);
        let woken = self.links.wake(path);
        self.link_all(woken)
    }

    /// A name in the scratch directory that was not used yet.
    pub(super) fn new_name(&mut self) -> Vec<u8> {
        self.names = self.names.saturating_add(1);
        self.names.to_string().into_bytes()
    }

    /// The layer is complete, and this is what its markers hide; `cuts` when one of them stands at the root and hides everything
    /// whatever the parent is.
    pub(super) fn finish(mut self, hidden: &Hidden, cuts: bool) -> Result<Outcome> {
        if let Some(error) = self.invalid.take() {
            return Err(error);
        }
        let cut = self.place_markers(hidden)?;
        self.leave_to(1)?;
        self.put_down(0)?;
        self.scratch.clear()?;
        let asks = self.form.is_change();
        self.facts.merge(self.marker_facts);
        let contradictory = self.facts.is_contradictory();
        let applied = Applied {
            // A tree in plain form belongs to its parent, and one that hides everything below rests on nothing, unless a symlink of the
            // parent led a marker to the root.
            facts: if asks && !cuts { self.facts.finish() } else { Vec::new() },
            root: self.root,
            cut,
            empty: !self.changed && !cut,
            usage: Usage::default(),
            markers: self.hides,
            is_written_back: self.files.are_written_back()?,
        };
        Ok(Outcome { applied, contradictory })
    }
}

fn device(node: &Node) -> Option<(FileType, (u32, u32))> {
    match *node {
        Node::CharDevice { major, minor } => Some((FileType::CharacterDevice, (major, minor))),
        Node::BlockDevice { major, minor } => Some((FileType::BlockDevice, (major, minor))),
        _ => None,
    }
}

/// Takes away what inodes made in a directory would inherit.
fn neutralise(dir: &Dir) -> Result<()> {
    xattr::remove(dir, super::metadata::DEFAULT_ACL)?;
    let mode = inode::stat(dir)?.mode;
    if mode & 0o2000 != 0 { inode::set_mode(dir, mode & !0o2000) } else { Ok(()) }
}
